r"""Normal distributions over the events of a batch, one per example, and their discretization.

Densities are summed over the entries of an event: every log density is in nats per example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_batch, require_count, sum_event
from sde_score.random import Draws, normal

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_OFF_CENTER = 0.05  # in widths of a bin; float32 rounds the centers of 65536 levels by 0.002


@dataclass(frozen=True, eq=False)
class Normal:
    r"""N(mean, std^2), entry by entry.

    Args:
        mean: shape `(batch, *event)`.
        std: > 0; a scalar, one number per example `(batch,)`, or one per entry, shaped like mean.

    Raises:
        TypeError: if `mean` is not a floating-point batch.
        ValueError: if `std` does not fit it.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        require_batch("mean", self.mean)
        std = self.std.to(self.mean)
        if std.shape != self.mean.shape or std.ndim == 1:
            std = expand_like(std, self.mean)
        object.__setattr__(self, "std", std)

    def sample(self, generator: Draws = None) -> Tensor:
        """One draw of every example, shaped like the mean."""
        return self.mean + self.std * normal(self.mean, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, shape `(batch,)`."""
        self._require_like("x", x)
        z = (x - self.mean) / self.std
        return -sum_event(0.5 * z**2 + self.std.log() + _HALF_LOG_2PI)

    def kl(self, other: Normal) -> Tensor:
        r"""KL(self || other) in nats, shape `(batch,)`.

        .. math:: \sum \log \frac{s'}{s} + \frac{s^2 - s'^2 + (m - m')^2}{2 s'^2}
        """
        other._require_like("the mean of self", self.mean)
        ratio = self.std / other.std
        off = (self.mean - other.mean) / other.std
        return sum_event(0.5 * (ratio**2 - 1 + off**2) - ratio.log())

    def entropy(self) -> Tensor:
        """Differential entropy in nats, shape `(batch,)`."""
        return sum_event(self.std.log() + 0.5 + _HALF_LOG_2PI + torch.zeros_like(self.mean))

    def _require_like(self, name: str, x: Tensor) -> None:
        if x.shape != self.mean.shape:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, the distribution is over "
                f"{tuple(self.mean.shape)}"
            )


@dataclass(frozen=True, eq=False)
class DiscretizedNormal:
    r"""A normal distribution discretized to evenly spaced levels: each has the mass of its bin.

    .. math:: P(k) = \Phi\!\left(\frac{e_{k+1} - m}{s}\right) - \Phi\!\left(\frac{e_k - m}{s}\right)

    with edges halfway between the centers of the levels, the first bin open below and the last one
    open above, so that the levels have mass one together.

    Args:
        normal: the distribution before discretization.
        low: center of level 0.
        high: center of level `levels - 1`, > low.
        levels: number of levels, at least 2.

    Raises:
        ValueError: for bounds that do not increase or fewer than 2 levels.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 13.
    """

    normal: Normal
    low: float
    high: float
    levels: int

    def __post_init__(self) -> None:
        require_count(2, levels=self.levels)
        if not self.low < self.high:
            raise ValueError(f"high={self.high!r} must exceed low={self.low!r}")

    @property
    def width(self) -> float:
        """Distance between the centers of two levels."""
        return (self.high - self.low) / (self.levels - 1)

    def log_prob(self, levels: Tensor) -> Tensor:
        """Log mass in nats of the levels 0 ... levels - 1, shaped like the mean: `(batch,)`."""
        self.normal._require_like("levels", levels)
        center = self.low + levels.to(torch.float64) * self.width
        mean, std = self.normal.mean.double(), self.normal.std.double()
        above = (center + 0.5 * self.width - mean) / std
        below = (center - 0.5 * self.width - mean) / std
        above = above.masked_fill(levels >= self.levels - 1, math.inf)
        below = below.masked_fill(levels <= 0, -math.inf)
        return sum_event(_log_mass(below, above)).to(self.normal.mean.dtype)

    def sample(self, generator: Draws = None) -> Tensor:
        """A level for every entry, int64, shaped like the mean."""
        place = (self.normal.sample(generator) - self.low) / self.width
        return place.round().clamp(0, self.levels - 1).to(torch.int64)


@dataclass(frozen=True)
class Quantization:
    """Evenly spaced centers in model space of data that are integers 0 ... count - 1.

    Args:
        count: number of levels, at least 2.
        low: center of level 0; None for 1/count - 1, with which the bins fill [-1, 1].
        high: center of the last level; None for 1 - 1/count. DDPM's 8-bit images have centers from
            -1 to 1: `Quantization(256, low=-1.0, high=1.0)`.

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

    @classmethod
    def resolve(cls, levels: int | Quantization) -> Quantization:
        """`levels` itself, or for their number the levels whose bins fill [-1, 1]."""
        return levels if isinstance(levels, Quantization) else cls(levels)

    @property
    def bounds(self) -> tuple[float, float]:
        """Centers of the first and of the last level."""
        low = 1 / self.count - 1 if self.low is None else self.low
        high = 1 - 1 / self.count if self.high is None else self.high
        return low, high

    def levels(self, x0: Tensor) -> Tensor:
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

    def discretize(self, normal: Normal) -> DiscretizedNormal:
        """The distribution over the levels that gives each the normal mass of its bin."""
        return DiscretizedNormal(normal, *self.bounds, self.count)


def _log_mass(below: Tensor, above: Tensor) -> Tensor:
    """log(Phi(above) - Phi(below)), exact in both tails: taken on the side where Phi is small."""
    flip = below + above > 0
    low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
    log_high = torch.special.log_ndtr(high)
    mass: Tensor = log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))
    return mass
