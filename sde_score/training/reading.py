"""Reading: the examples of each step, read ahead of training in other processes.

What is read is a function of the position in the order of the examples alone, so that the number of
processes changes no bit, and a resumed run may have another.
"""

from __future__ import annotations

import contextvars
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score._core.progress import say
from sde_score.data import DataError, DataSet, Examples
from sde_score.data.sources.base import is_of_this_machine
from sde_score.training.errors import TrainingError
from sde_score.training.metrics import Metrics

SLOW = 10.0
"""Seconds of waiting for examples after which it is said; again after twice as many."""

_MOST = 4  # processes that are taken by themselves
_SHARE, _LEAST = 0.1, 100  # of the examples read that may be skipped, and in any case
_TOLD = 5  # skipped examples that are named
_TRIES = 100
_YEARS = 1 << 31  # of seconds
_PATIENCE = 5.0  # seconds until the end of a process is known
_SKIP = "; --on-bad-example skip goes on from the last checkpoint without such examples"
_DEAD = (RuntimeError, OSError, EOFError)  # what it is like to lose a process


class Request(NamedTuple):
    """Examples that come next: the position of the first, their indices, and what random numbers of
    reading them are a function of."""

    first: int
    indices: Tensor
    draws: Tensor | None = None


class _Failure(NamedTuple):
    """An error of a process that reads: one line instead of its traceback."""

    reason: str


def workers_for(workers: int | None, dataset: DataSet, processes: int = 1) -> int:
    """The number of processes that read for each process that trains.

    Args:
        workers: what was asked for; None takes none for data in memory, and for data that are read
            lazily as many as there are processor cores for it, at most 4.
        dataset: to be read.
        processes: that train on this machine.
    """
    if workers is not None:
        return workers
    if not dataset.is_lazy:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(_MOST, (cores or 1) // processes))


def launched_here() -> int:
    """Number of processes that train on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class Reader:
    """Reads examples, ahead of their use inside `ahead`.

    Args:
        dataset: to be read.
        workers: number of processes that read; 0 reads in this one.
    """

    def __init__(self, dataset: DataSet, workers: int = 0) -> None:
        self.dataset, self.workers = dataset, workers
        self.waited = 0.0
        self._read = self._skipped = self._fresh = 0
        self._told: set[str] = set()
        self._iterator: Any = None
        self._coming: deque[Request] = deque()
        self._watch = _Watch(self._place)

    def __call__(self, request: Request) -> Examples:
        """The examples of a request: those that were read ahead, if it is the next of them.

        Raises:
            DataError: for an example that cannot be read, unless it is to be skipped; for too many
                of them in any case.
        """
        began = time.perf_counter()
        with self._watch.over(request):
            ahead = self._is_next(request)
            found = self._next() if ahead else _read(self.dataset, *request[1:])
        if isinstance(found, _Failure):
            raise DataError(found.reason)
        self.waited += time.perf_counter() - began
        self._count(found)
        return found

    @contextmanager
    def ahead(self, requests: Iterable[Request]) -> Iterator[None]:
        """Read requests in their order while the block runs, several steps ahead.

        Raises:
            TrainingError: if a process that reads is gone.
        """
        self._fresh, self.waited = 0, 0.0
        if not self.workers:
            with self._watch:
                yield
            return
        self._iterator = self._begin(requests)
        with self._watch:  # after the processes are there, which have no use for its thread
            try:
                yield
            except _DEAD as error:
                with _unheard():
                    gone = _gone(self._iterator, error)
                if not gone:
                    raise
                raise TrainingError(
                    f"{gone} that reads the examples: if memory is short, give fewer --workers or "
                    "a smaller --batch-size; the same command goes on from the last checkpoint"
                ) from error
            finally:
                with _unheard():
                    self._iterator._shutdown_workers()
                self._iterator = None
                self._coming.clear()

    def conditions(self, found: Examples) -> Condition:
        """Conditions in model range, or labels, of examples that were read."""
        return self.dataset.conditions_of(found.rows)

    def state(self) -> dict[str, Any] | None:
        """Where the reading is, where the step does not tell."""
        return None

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken."""

    def take_skipped(self) -> int:
        """Number of examples skipped since this was last asked."""
        found, self._fresh = self._fresh, 0
        return found

    def figures(self) -> dict[str, float]:
        """Seconds of waiting for examples since this was last asked, of data read lazily."""
        found, self.waited = self.waited, 0.0
        return {"data_seconds": found} if self.dataset.is_lazy else {}

    def _begin(self, requests: Iterable[Request]) -> Any:
        from torch.utils.data import DataLoader

        def keys() -> Iterator[Any]:
            for request in requests:
                self._coming.append(request)
                draws = request.draws
                yield request.indices.numpy(), None if draws is None else draws.numpy()

        task: Any = _Task(self.dataset)
        given: dict[str, Any] = {
            "sampler": _Keys(keys()),
            "batch_size": None,
            "num_workers": self.workers,
            "collate_fn": _as_it_is,
            "worker_init_fn": _Bound(os.getpid()),
            # Its numbers are not used: without it they would be drawn from torch's own generator.
            "generator": torch.Generator(),
            # A process that is copied needs no second copy of data in memory.
            "multiprocessing_context": "fork" if sys.platform == "linux" else None,
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            return iter(DataLoader(task, **given))

    def _is_next(self, request: Request) -> bool:
        if not self._coming or self._coming[0].first != request.first:
            return False
        return torch.equal(self._coming[0].indices, request.indices)

    def _next(self) -> Examples | _Failure:
        found = next(self._iterator)
        self._coming.popleft()
        if isinstance(found, _Failure):
            return found
        raw, rows, *others = found
        return Examples(raw, torch.from_numpy(rows), *others)

    def _place(self, request: Request) -> str:
        """Name of what the first example of a request is in."""
        return f"{self.dataset.name} {self.dataset.part_of(int(request.indices[0]))}".strip()

    def _count(self, found: Examples) -> None:
        self._read += len(found.rows)
        self._fresh += found.skipped
        self._skipped += found.skipped
        for reason in found.reasons:
            if reason not in self._told and len(self._told) < _TOLD:
                self._told.add(reason)
                say([f"skipped: {reason}"])
        if self._skipped > max(_LEAST, _SHARE * self._read):
            raise DataError(
                f"{self._skipped} of {self._read} examples could not be read and were skipped, too "
                f"many to go on with {self.dataset.name}: look at the files"
            )


class _Keys:
    """The requests as a sampler, asked once."""

    def __init__(self, keys: Iterator[Any]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Any]:
        return self.keys


class _Task:
    """What a process that reads does."""

    def __init__(self, dataset: DataSet) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]) -> Any:
        indices, draws = (None if part is None else torch.from_numpy(part) for part in key)
        found = _read(self.dataset, cast(Tensor, indices), draws)
        return found if isinstance(found, _Failure) else (found.raw, found.rows.numpy(), *found[2:])


def _read(dataset: DataSet, indices: Tensor, draws: Tensor | None) -> Examples | _Failure:
    try:
        return dataset.read(indices, draws)
    except DataError as error:
        skips = dataset.is_lazy and dataset.on_bad_example == "stop"
        hint = "" if is_of_this_machine(error) or not skips else _SKIP
        return _Failure(f"{error}{hint}")
    except MemoryError:
        return _Failure(
            f"the memory is full where {len(indices)} examples of {dataset.name} are read: give "
            "fewer --workers or a smaller --batch-size"
        )


def _as_it_is(found: Any) -> Any:
    return found


class _Bound:
    """Binds a process that reads to the one that trains: it ends with it, and for it alone.

    A signal for the whole group, such as of Ctrl-C, is that of the trainer, which finishes its step
    and needs the examples for it.
    """

    def __init__(self, trainer: int) -> None:
        self.trainer = trainer

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Its errors are told by the trainer; what is left to say is that this one is gone.
        sys.excepthook = lambda *error: None
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._live_with, daemon=True).start()

    def _live_with(self) -> None:
        for _ in range(_YEARS):
            if os.getppid() != self.trainer:
                break
            if not hasattr(signal, "sigtimedwait"):
                time.sleep(1)
                continue
            found = signal.sigtimedwait({signal.SIGTERM}, 1)
            if found is not None and found.si_pid == self.trainer:
                break
        os._exit(0)


@contextmanager
def _unheard() -> Iterator[None]:
    """Leave aside that processes ended, of which torch raises an error wherever this one is."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    for _ in range(_TRIES):
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            break
        except RuntimeError:  # of one that ended just now
            continue
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)


def _gone(iterator: Any, error: BaseException) -> str:
    """What happened to a process that reads; empty while all are there."""
    lost = not isinstance(error, RuntimeError)  # a connection, before the system tells of the end
    until = time.monotonic() + (_PATIENCE if lost else 0.1)
    for process in iterator._workers:
        process.join(max(0.0, until - time.monotonic()))
        if process.exitcode is not None and process.exitcode < 0:
            name = signal.Signals(-process.exitcode).name
            return f"{name} ended a process ({process.pid})"
        if process.exitcode:
            return f"status {process.exitcode} ended a process ({process.pid})"
    return ""


class _Watch:
    """Says, from a thread of its own, what is being waited for where it takes long."""

    def __init__(self, place: Callable[[Request], str]) -> None:
        self._place, self._request = place, Request(0, torch.empty(0))
        self._since, self._next = 0.0, SLOW
        self._end: threading.Event | None = None

    def __enter__(self) -> None:
        self._end = threading.Event()
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(self._look, self._end), daemon=True).start()

    def __exit__(self, *error: object) -> None:
        if self._end is not None:
            self._end.set()

    @contextmanager
    def over(self, request: Request) -> Iterator[None]:
        """Watch over the reading of a request in the block."""
        self._request, self._next, self._since = request, SLOW, time.monotonic()
        try:
            yield
        finally:
            self._since = 0.0

    def _look(self, end: threading.Event) -> None:
        for _ in range(_YEARS):
            if end.wait(min(1.0, SLOW)):
                return
            waited = time.monotonic() - self._since
            if self._since and waited > self._next:
                say([f"still reading {self._place(self._request)}, for {waited:.0f} s by now"])
                self._next *= 2


def skipped_words(metrics: Metrics) -> Iterator[str]:
    """A line on the examples that a run skipped, by its measurements; none where there are none."""
    if count := sum(int(line.get("skipped_examples", 0)) for line in metrics.read()):
        yield f"skipped {count} time{'s' * (count > 1)} an example that cannot be read for the next"
