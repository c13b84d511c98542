"""Watch over the processes of a run: none trains on without its launcher, none waits for the dead.

Each process looks on from a thread of its own, which also ends a process whose training waits in a
collective operation, whatever the backend.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any

from torch import distributed

TICK = 2.0  # seconds between two looks
_SILENT = 12
"""Looks at an unchanged count after which a process is gone. Looks are counted, not seconds, so
that processes that were suspended together go on together."""
_TICKS = 1 << 40  # more than a run has


class Watch:
    """Watch of one process over its launcher and over the others, inside a `with` block.

    The first process hears of all others, which hear of the first. All enter and leave together.

    Args:
        rank: of this process.
        processes: number of processes.
        token: the same in all of them, and another for each block.
        ending: the line to end with, of what happened.
    """

    def __init__(self, rank: int, processes: int, token: int, ending: Callable[[str], str]) -> None:
        self._rank, self._token, self._ending = rank, token, ending
        self._others = range(1, processes) if rank == 0 else range(1)
        self._launched, self._parent = "WORLD_SIZE" in os.environ, os.getppid()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        if self._launched:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._launched:
            self._thread.join(TICK)  # rather than amid the end of the process

    def _run(self) -> None:
        try:
            self._look_on()
        except RuntimeError:  # of the store, which is gone; as it may be when all are done
            if not self._over.wait(TICK):
                self._end("the process that started this run has ended")

    def _look_on(self) -> None:
        store: Any = _store() if self._others else None
        silent, last = dict.fromkeys(self._others, 0), dict.fromkeys(self._others, b"")
        for tick in range(_TICKS):
            if os.getppid() != self._parent:
                self._end("the launcher of this run has ended")
            heard = {} if store is None else self._exchange(store, tick)
            for other, count in heard.items():
                silent[other] = silent[other] + 1 if count == last[other] else 0
                if silent[other] == _SILENT:
                    store.set(self._key("ended"), "1")
                    self._end(f"process {other} of this run does not answer")
            last = heard
            if self._over.wait(TICK):
                return

    def _exchange(self, store: Any, tick: int) -> dict[int, bytes]:
        """Tell the others that this process is alive; the last count of each of them.

        Raises:
            RuntimeError: if the store is gone.
        """
        store.set(self._key(self._rank), str(tick))
        if store.check([self._key("ended")]):
            self._end("another process of this run does not answer")
        return {other: store.get(self._key(other)) for other in self._others}

    def _key(self, name: object) -> str:
        return f"sde_score/{self._token}/{name}"

    def _end(self, what: str) -> None:
        # Another thread may hold the processor of this one for ever: no exception would reach it.
        print(f"error: {self._ending(what)}", file=sys.stderr, flush=True)
        os._exit(1)


def follow_launcher() -> None:
    """End this process within seconds of its launcher, whatever it does by then."""
    atexit.register(Watch(0, 1, 0, str).__enter__().__exit__, None, None, None)


def _store() -> Any:
    """The store of the launcher, on a connection of its own; None where there is none."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if host is None or port is None:
        return None
    patience = timedelta(seconds=TICK * _SILENT)
    return distributed.TCPStore(  # type: ignore[attr-defined]
        host, int(port), is_master=False, timeout=patience, wait_for_workers=False
    )
