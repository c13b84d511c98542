"""Order of the examples in training, as a function of one position."""

from __future__ import annotations

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.random import generator_from


class EpochOrder:
    """An endless sequence of example indices: epoch after epoch, each its own permutation.

    Global position `p` lies in epoch `p // length`; epoch `e` is a permutation seeded by `(seed,
    e)`. The position alone determines the examples, so that resuming is exact, batches run across
    the borders of epochs, and each of several processes takes its own slice of every batch.

    Args:
        length: number of examples, at least 1.
        seed: random seed.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        require_count(length=length)
        self.length = length
        self.seed = seed
        self._cached: dict[int, Tensor] = {}

    def indices(self, first: int, count: int) -> Tensor:
        """Indices at the global positions `first ... first + count - 1`, int64, shape `(count,)`.

        Raises:
            ValueError: if `first` is negative or `count` is below 1.
        """
        require_count(minimum=0, first=first)
        require_count(count=count)
        pieces, last = [], first + count
        for epoch in range(first // self.length, (last - 1) // self.length + 1):
            start, stop = (place - epoch * self.length for place in (first, last))
            pieces.append(self._permutation(epoch)[max(start, 0) : stop])
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._cached:
            # A batch may lie on a border, so the epoch before is kept beside the new one.
            self._cached = {e: p for e, p in self._cached.items() if e == epoch - 1}
            generator = generator_from(self.seed, epoch)
            self._cached[epoch] = torch.randperm(self.length, generator=generator)
        return self._cached[epoch]

    def __repr__(self) -> str:
        return f"EpochOrder(length={self.length}, seed={self.seed})"
