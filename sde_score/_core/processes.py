"""Work shared over processes by whole items, and its results gathered in all of them.

    found = shared(range(100), work)            # work(item) in one process each
    rows = own_rows(len(x))                     # or by hand
    values = gather_rows(log_prob(model, x[rows], seed=seeds_of(rows)).log_prob, len(x))

An example's value depends on itself and its seed alone. So processes may take different numbers of
steps and synchronize once, at the end, and the values do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from sde_score._core.checks import require_count

T = TypeVar("T")
R = TypeVar("R")


def place() -> tuple[int, int]:
    """Rank of this process, and number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def shared(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Do the work of each item in one process; all processes must call it, and get all results.

    Item i is done by process i modulo their number. There is no exchange before the end; an error
    in one process is raised in all.

    Args:
        items: the same in all processes.
        work: gives plain values, or tensors on the CPU.

    Raises:
        ConnectionError: if another process has ended.
    """
    rank, world = place()
    if world == 1:
        return [work(item) for item in items]
    mine: list[Any] = []
    error: Exception | None = None
    try:
        mine = [work(items[index]) for index in range(rank, len(items), world)]
    except Exception as raised:  # the others wait for this process's results
        error = raised
    parts = everyone((mine, _told(error)))
    if error is not None:
        raise error
    for _, told in parts:
        if told is not None:
            raise told[0](told[1])
    whole: list[Any] = [None] * len(items)
    for first, (part, _) in enumerate(parts):
        whole[first::world] = part
    return whole


def everyone(value: T) -> list[T]:
    """What each process has, in the order of their ranks; all processes must call it."""
    world = place()[1]
    if world == 1:
        return [value]
    found: list[T] = [value] * world
    with _exchange():
        distributed.all_gather_object(found, value)
    return found


def of_main(value: T) -> T:
    """What process 0 has, in all processes; all must call it."""
    if place()[1] == 1:
        return value
    found = [value]
    with _exchange():
        distributed.broadcast_object_list(found, src=0)
    return found[0]


def wait_for_all() -> None:
    """Wait until all processes are here."""
    if place()[1] > 1:
        with _exchange():
            distributed.barrier()


def own_rows(count: int) -> Tensor:
    """Indices of this process's share of `count` examples: every world-th, from its rank on.

    Args:
        count: examples of all processes, at least 1.

    Returns:
        indices, int64; all of them without a process group, none if there are fewer examples than
        processes and this one is left over.

    Raises:
        ValueError: for a count below 1.
    """
    require_count(count=count)
    rank, world = place()
    return torch.arange(rank, count, world)


def gather_rows(values: Tensor, count: int) -> Tensor:
    """Put the values of all processes in the order of the examples; all processes must call it.

    Args:
        values: of this process's `own_rows(count)`, shape `(rows, ...)`.
        count: examples of all processes.

    Returns:
        values of all examples, shape `(count, ...)`, on the CPU, the same in every process.

    Raises:
        ValueError: if `values` are not one per row of this process; the others then wait for it,
            until the launcher ends them.
    """
    rank, world = place()
    rows = len(own_rows(count))
    if len(values) != rows:
        raise ValueError(
            f"values has {len(values)} rows; process {rank} of {world} has {rows} of {count} "
            "examples: give the values of own_rows(count)"
        )
    mine = values.detach().cpu()
    if world == 1:
        return mine.clone()
    whole = mine.new_empty(count, *mine.shape[1:])
    for first, part in enumerate(everyone(mine)):
        whole[first::world] = part
    return whole


def _told(error: Exception | None) -> tuple[type[Exception], str] | None:
    """An error as other processes can raise it: of a class that they have."""
    if error is None:
        return None
    kind, text = type(error), str(error)
    room = kind.__module__.partition(".")[0]
    try:
        if room in ("builtins", "sde_score") and str(kind(text)) == text:
            return kind, text
    except TypeError:  # a class that is made of more than a text
        pass
    return RuntimeError, f"{kind.__name__}: {text}"


@contextmanager
def _exchange() -> Iterator[None]:
    """Say in one line that another process is gone; it is no failure of what was measured."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, getattr(distributed, "DistError", ())) and "gloo" not in str(
            error
        ):
            raise
        raise ConnectionError(
            "another process ended before all results were gathered; what is on the disk stays: "
            "start the same command again"
        ) from error
