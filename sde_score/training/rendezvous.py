"""Rendezvous: the processes of one start find each other, and nobody of an earlier start.

torchrun keeps one store for all its restarts, in which torch would find the addresses of processes
that are gone, and wait for them. Here the first process draws a name for the start, and tells it to
those that ask now: what they write lies under that name.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta
from typing import Any

from torch import distributed

_PATIENCE = 600.0  # seconds until all processes of a start are there
_PAUSE = 0.05


def join(backend: str) -> None:
    """Form the group of processes where torchrun has started them; leave it to others elsewhere.

    Args:
        backend: of its collective operations.

    Raises:
        RuntimeError: if some process does not come.
    """
    rank, world = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if world < 2 or not kept or distributed.is_initialized():
        return
    store: Any = distributed.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=_PATIENCE),
        wait_for_workers=False,
    )
    name = _told(store, rank) if rank else _drawn(store, world)
    own = distributed.PrefixStore(name, store)  # type: ignore[attr-defined]
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world)


def _drawn(store: Any, world: int) -> str:
    """A new name for this start, once all others have been told it."""
    name, answered = f"sde_score/{secrets.token_hex(8)}", set()
    for _ in range(round(_PATIENCE / _PAUSE)):
        for other in range(1, world):
            asked = f"sde_score/asks/{other}"
            question = store.get(asked) if store.check([asked]) else None
            if question and question not in answered:  # perhaps of an earlier start
                store.set(question.decode(), name)
                answered.add(question)
        if store.add(name, 0) == world - 1:
            return name
        time.sleep(_PAUSE)
    raise RuntimeError(f"not all {world} processes came in {_PATIENCE:g} seconds")


def _told(store: Any, rank: int) -> str:
    """The name that the first process has drawn for this start."""
    question = f"sde_score/{secrets.token_hex(8)}"
    store.set(f"sde_score/asks/{rank}", question)
    name: str = store.get(question).decode()
    store.add(name, 1)
    return name
