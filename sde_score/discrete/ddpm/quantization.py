"""Data that are whole numbers, seen by models at evenly spaced centers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.distributions import DiscretizedNormal, Normal

_OFF_CENTER = 0.05  # in widths of a bin; float32 rounds the centers of 65536 levels by 0.002


@dataclass(frozen=True)
class Levels:
    """Levels 0 ... count - 1, of which level 0 is at `low` and the last at `high`.

    Args:
        count: their number, at least 2.
        low: center of the first; None for 1/count - 1, where the bins fill [-1, 1].
        high: center of the last; None for 1 - 1/count. DDPM's 8-bit images have centers from -1 to
            1: `Levels(256, low=-1.0, high=1.0)`.

    Raises:
        ValueError: for fewer than 2 levels or bounds that do not increase.
    """

    count: int
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        require_count(2, count=self.count)
        if not self.bounds[0] < self.bounds[1]:
            raise ValueError(f"high={self.bounds[1]!r} must exceed low={self.bounds[0]!r}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Centers of the first and of the last level."""
        low = 1 / self.count - 1 if self.low is None else self.low
        high = 1 - 1 / self.count if self.high is None else self.high
        return low, high

    def of(self, x0: Tensor) -> Tensor:
        """The level of every entry, int64 in the shape of x0.

        Raises:
            ValueError: if an entry is not the center of a level.
        """
        low, high = self.bounds
        place = (x0.double() - low) / (high - low) * (self.count - 1)
        level = place.round()
        off = (place - level).abs().max()
        if not (off < _OFF_CENTER and level.min() >= 0 and level.max() < self.count):
            raise ValueError(
                f"x0 must hold centers of {self.count} levels between {low:.6g} and {high:.6g}; it "
                f"runs from {float(x0.min()):.6g} to {float(x0.max()):.6g} and is off by up to "
                f"{float(off):.3g} of a bin: give data that are not dequantized, or other levels"
            )
        return level.to(torch.int64)

    def cut(self, law: Normal) -> DiscretizedNormal:
        """The law over levels that a normal law has."""
        return DiscretizedNormal(law, *self.bounds, self.count)


def as_levels(levels: int | Levels) -> Levels:
    """`Levels(levels)` for a number."""
    return levels if isinstance(levels, Levels) else Levels(levels)
