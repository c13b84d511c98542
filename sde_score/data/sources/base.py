"""Rows: the examples of a data set as a collection that is read by row numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.records import Record
from sde_score.random import generator_from

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
        parts: what the rows are in, in their order; empty where they are in no files.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Tensor | None = None
    parts: tuple[Part, ...] = ()

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Tensor) -> Tensor:
        """Examples by their numbers.

        Raises:
            DataError: for one that cannot be read, naming it.
        """


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
