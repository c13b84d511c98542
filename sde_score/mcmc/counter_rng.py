"""Uniform numbers of a chain by name: any number of them, in any order, from one key.

A kernel whose work varies from chain to chain must not draw more of the shared noise where one
chain needs more: its neighbours would then see other numbers than they see alone. So it draws a key
for each chain, always the same number of draws, and reads uniforms at addresses (stream, index),
as from a table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sde_score.random import Noise


def _signed(number: int) -> int:
    """The 64-bit whole number with these bits, as torch stores it."""
    return number - (1 << 64) if number >> 63 else number


_STEP = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(bits: Tensor, count: int) -> Tensor:
    """Shift to the right and fill with zeros; torch fills with the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def mix(state: Tensor, number: Tensor | int) -> Tensor:
    """Absorb a number into a 64-bit state, both int64: every bit of either changes all bits.

    Reference: the SplitMix64 finalizer, Steele, Lea & Flood 2014,
    https://doi.org/10.1145/2714064.2660195.
    """
    state = state + number + _STEP
    state = (state ^ _shift(state, 30)) * _FIRST
    state = (state ^ _shift(state, 27)) * _SECOND
    return state ^ _shift(state, 31)


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
            key = mix(key.to(draw.device), first.view(torch.int64))
        return cls(key)

    def log(self, stream: int, start: int, stop: int) -> Tensor:
        """Logs of uniform numbers in (0, 1), float64, `(stop - start, chains)`."""
        # Half a unit keeps 0 away; with it 52 bits are what float64 holds without rounding to 1.
        unit = (_shift(self._bits(stream, start, stop), 12).double() + 0.5) * 2.0**-52
        return unit.log()

    def coin(self, stream: int, index: int) -> Tensor:
        """A fair coin, boolean `(chains,)`."""
        return self._bits(stream, index, index + 1)[0] < 0

    def _bits(self, stream: int, start: int, stop: int) -> Tensor:
        index = torch.arange(start, stop, device=self._key.device)[:, None]
        return mix(mix(self._key, stream), index)
