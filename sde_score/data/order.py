"""Order of the examples in training, as a function of one position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Generator, Tensor

from sde_score._core.checks import require_count
from sde_score.random import generator_from


class EpochOrder:
    """An endless sequence of example indices: epoch after epoch, each its own permutation.

    Global position `p` lies in epoch `p // length`; epoch `e` is a permutation seeded by `(seed,
    e)`. The position alone determines the examples, so that resuming is exact, batches run across
    the borders of epochs, and each of several processes takes its own slice of every batch.

    Examples that are read in blocks, as those of a parquet file, are met block by block: an epoch
    permutes the blocks, and mixes the examples of as many consecutive ones as a window holds.

    Args:
        length: number of examples, at least 1.
        seed: random seed.
        blocks: first index of each block, and the length, int64, increasing from 0; None for
            examples that all cost the same.
        window: number of blocks whose examples are mixed, at least 1.
    """

    def __init__(
        self, length: int, seed: int = 0, blocks: Tensor | None = None, window: int = 1
    ) -> None:
        require_count(length=length, window=window)
        self.length, self.seed, self.window = length, seed, window
        self.blocks = torch.tensor([0, length]) if blocks is None else blocks
        if int(self.blocks[0]) or int(self.blocks[-1]) != length or (self.blocks.diff() < 1).any():
            raise ValueError(f"blocks must increase from 0 to length={length}")
        self._cached: dict[tuple[int, ...], Tensor] = {}

    def indices(self, first: int, count: int) -> Tensor:
        """Indices at the global positions `first ... first + count - 1`, int64, shape `(count,)`.

        Raises:
            ValueError: if `first` is negative or `count` is below 1.
        """
        require_count(minimum=0, first=first)
        require_count(count=count)
        pieces: list[Tensor] = []
        last = first + count
        for epoch in range(first // self.length, (last - 1) // self.length + 1):
            start, stop = (place - epoch * self.length for place in (first, last))
            pieces += self._within(epoch, max(start, 0), min(stop, self.length))
        return torch.cat(pieces)

    def _within(self, epoch: int, start: int, stop: int) -> Iterator[Tensor]:
        """Indices of the positions `start ... stop - 1` of an epoch, in pieces."""
        if len(self.blocks) == 2:
            yield self._kept((epoch,), self._shuffled_examples)[start:stop]
            return
        table = self._kept((epoch,), self._shuffled_blocks)
        blocks, firsts = table[0], table[1, :: self.window].contiguous()
        places = torch.tensor([start, stop - 1])
        low, high = (torch.searchsorted(firsts, places, right=True) - 1).tolist()
        for number in range(low, high + 1):
            chosen = blocks[number * self.window : (number + 1) * self.window]
            found = self._kept((epoch, number), partial(self._mixed, chosen))
            before = int(firsts[number])
            yield found[max(start - before, 0) : stop - before]

    def _shuffled_examples(self, generator: Generator) -> Tensor:
        return torch.randperm(self.length, generator=generator)

    def _shuffled_blocks(self, generator: Generator) -> Tensor:
        """Blocks in their order, and the position of the first example of each."""
        blocks = torch.randperm(len(self.blocks) - 1, generator=generator)
        sizes = self.blocks.diff()[blocks]
        return torch.stack([blocks, sizes.cumsum(0) - sizes])

    def _mixed(self, blocks: Tensor, generator: Generator) -> Tensor:
        """The examples of some blocks, permuted."""
        ends = ((int(self.blocks[b]), int(self.blocks[b + 1])) for b in blocks.tolist())
        found = torch.cat([torch.arange(first, last) for first, last in ends])
        return found[torch.randperm(len(found), generator=generator)]

    def _kept(self, key: tuple[int, ...], make: Callable[[Generator], Tensor]) -> Tensor:
        """What `make` draws from a generator that is a function of the seed and the key."""
        if key not in self._cached:
            # A batch may lie on a border, so what came before is kept beside the new.
            for each in [each for each in self._cached if len(each) == len(key)][:-1]:
                del self._cached[each]
            self._cached[key] = make(generator_from(self.seed, *key))
        return self._cached[key]

    def __repr__(self) -> str:
        blocks = len(self.blocks) - 1
        return f"EpochOrder(length={self.length}, seed={self.seed}, {blocks=}, {self.window=})"
