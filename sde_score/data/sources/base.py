"""Rows: the examples of a data set as a collection that is read by row numbers."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
from torch import Tensor

from sde_score._core.errors import DataError
from sde_score._core.records import Record
from sde_score.random import generator_from

_OF_THIS_MACHINE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_CAUSES = 10  # errors of which each is the cause of the one before
_READ, _LOST = 1, 2  # of a row: it was read, or cannot be
_IN_A_ROW = 100  # examples that are skipped, at most
_BLOCKS = 64  # of which a random subset is drawn, where whole blocks are read


@dataclass(frozen=True)
class Part(Record):
    """A file, or a folder of files, that holds some of the rows.

    Args:
        name: relative to the source.
        count: number of rows.
        size: bytes that it takes.
        digest: SHA-256 of its index: names and places of its rows; empty where there is none.
    """

    name: str
    count: int
    size: int
    digest: str = ""


class Rows(ABC):
    """Raw examples that are read when they are asked for.

    `rows[numbers]` for an int64 tensor of shape `(n,)` is a tensor `(n, *event)` on the CPU: a
    function of the numbers alone, in this process and in any other that a copy is sent to.

    Attributes:
        shape: `(count, *event)`.
        dtype: of the examples.
        blocks: numbers of the first rows of the blocks, and the count, int64, increasing from 0,
            where a row is read with those about it; None where any row costs the same.
        window: number of blocks that may be read in turn again and again, at least 1.
        parts: what the rows are in, in their order; empty where they are in no files.
        random: whether reading draws from the global generators, see `drawn`, which it seeds: in
            the thread that trains, or in processes of its own.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Tensor | None = None
    window: int = 1
    parts: tuple[Part, ...] = ()
    random: bool = False
    _met: Tensor | None = None  # of each row: 0, or one of the two

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Tensor) -> Tensor:
        """Examples by their numbers.

        Raises:
            DataError: for one that cannot be read, naming it.
        """

    def part_of(self, row: int) -> str:
        """Name of the file or folder that holds a row; empty where there is none."""
        ends = list(accumulate(part.count for part in self.parts))
        place = bisect_right(ends, row)
        return self.parts[place].name if place < len(ends) else ""

    def drawn(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Numbers of the same rows under other random numbers, where reading draws any.

        Args:
            rows: numbers of rows.
            draws: of which the random numbers are a function, int64, not negative, same shape.
        """
        return rows

    def note_read(self, rows: Tensor) -> None:
        """Remember that rows were read, so that `readable` need not try."""
        if self._met is None:
            self._met = torch.zeros(len(self), dtype=torch.uint8)
            self._lost: dict[int, str] = {}
        self._met[rows % len(self)] = _READ  # of numbers under any draws

    def readable(self, rows: Tensor) -> tuple[Tensor, list[str]]:
        """Which rows can be read, bool, and why others cannot; reads those not met before.

        Raises:
            DataError: for what has its reason in this machine, such as too little memory, and may
                be readable elsewhere.
        """
        self.note_read(rows[:0])
        met = cast(Tensor, self._met)
        for row in rows[met[rows] == 0].tolist():
            try:
                _ = self[torch.tensor([row])]
                met[row] = _READ
            except DataError as error:
                if is_of_this_machine(error):
                    raise
                self._lost[row], met[row] = str(error), _LOST
        good = met[rows] == _READ
        return good, [self._lost[row] for row in rows[~good].tolist()]


def is_of_this_machine(error: BaseException) -> bool:
    """Whether an error says nothing about the data: no memory, or no more files may be open."""
    for _ in range(_CAUSES):
        error = error.__cause__ or error
    return isinstance(error, MemoryError) or getattr(error, "errno", None) in _OF_THIS_MACHINE


def few(source: Rows, rows: Tensor | None, count: int, seed: int = 0) -> Tensor:
    """A random choice of rows in increasing order, from few blocks where a source has blocks.

    Args:
        source: what is read.
        rows: rows of the source to choose from, int64; None for all.
        count: how many; all of them where there are no more.
        seed: random seed.
    """
    rows = torch.arange(len(source)) if rows is None else rows
    if len(rows) <= count:
        return rows
    generator = generator_from(seed)
    if source.blocks is None:
        return rows[torch.randperm(len(rows), generator=generator)[:count].sort().values]
    rows, chosen, found = rows.sort().values, [], 0
    each = max(1, -(-count // _BLOCKS))
    ends = torch.searchsorted(rows, source.blocks)
    for block in torch.randperm(len(ends) - 1, generator=generator).tolist():
        inside = rows[ends[block] : ends[block + 1]]
        order = torch.randperm(len(inside), generator=generator)
        chosen.append(inside[order[: min(each, count - found)]])
        found += len(chosen[-1])
        if found == count:
            break
    return torch.cat(chosen).sort().values


def standing_in(
    source: Rows, rows_of: Callable[[Tensor], Tensor], indices: Tensor, count: int
) -> tuple[Tensor, tuple[str, ...]]:
    """Rows that can be read: in place of one that cannot, the row of the next index that can.

    A function of the index alone, whatever is read beside it.

    Args:
        source: of the rows.
        rows_of: rows of indices.
        indices: wanted, int64, shape `(n,)`.
        count: number of indices there are; after the last comes the first.

    Returns:
        Rows, and why others cannot be read.

    Raises:
        DataError: if too many in a row cannot be read.
    """
    rows = rows_of(indices)
    good, reasons = source.readable(rows)
    for step in range(1, min(count, _IN_A_ROW) + 1):
        if bool(good.all()):
            return rows, tuple(reasons)
        others = rows_of((indices[~good] + step) % count)
        found, more = source.readable(others)
        rows, reasons = rows.masked_scatter(~good, others), reasons + more
        good = good.masked_scatter(~good, found)
    number = min(count, _IN_A_ROW)
    raise DataError(f"{number} examples in a row cannot be read, the last as {reasons[-1]}")
