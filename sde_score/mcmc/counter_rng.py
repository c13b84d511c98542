"""Counter-based uniform random numbers, one stream per chain.

A kernel whose work varies from chain to chain must not draw more of the shared noise where one
chain needs more: its neighbors would then see other numbers than they see alone. So it draws a key
for each chain, always by the same number of draws, and computes uniform numbers from the key, a
stream and an index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_score.random import Noise, logical_shift, mix_tensor


class Uniforms:
    """A table of independent uniform numbers for each chain.

    Args:
        key: int64, `(chains,)`; the table of a chain is a function of its key alone.
    """

    def __init__(self, key: Tensor) -> None:
        self._key = key

    @classmethod
    def draw(cls, noise: Noise) -> Uniforms:
        """Tables whose keys are made from two normal draws, of which each chain uses its own rows.

        Two, because one number in float32 has too few bits to tell millions of steps apart.
        """
        key = torch.zeros((), dtype=torch.int64)
        for _ in range(2):
            draw = noise()
            first = draw.reshape(draw.shape[0], -1)[:, 0].double()
            key = mix_tensor(key.to(draw.device), first.view(torch.int64))
        return cls(key)

    def log(self, stream: int, start: int, stop: int) -> Tensor:
        """Logs of uniform numbers in (0, 1), float64, `(stop - start, chains)`."""
        # Half a unit keeps 0 away; with it 52 bits are what float64 holds without rounding to 1.
        unit = (logical_shift(self._bits(stream, start, stop), 12).double() + 0.5) * 2.0**-52
        return unit.log()

    def coin(self, stream: int, index: int) -> Tensor:
        """A fair coin, boolean `(chains,)`."""
        return self._bits(stream, index, index + 1)[0] < 0

    def _bits(self, stream: int, start: int, stop: int) -> Tensor:
        index = torch.arange(start, stop, device=self._key.device)[:, None]
        return mix_tensor(mix_tensor(self._key, stream), index)
