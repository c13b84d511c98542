"""Two wells with a barrier between them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_finite, require_positive
from sde_score.models.exact.quadrature import DEPTH, IntervalLaw, convolve
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import uniform

_HIGHEST = 100.0
_STEEPEST = 10.0


@dataclass(frozen=True)
class DoubleWell(Target):
    r"""A double well in each entry, independently: 2^D modes.

    .. math:: energy = \sum_i \left[ B \left( (x_i / m)^2 - 1 \right)^2 + c\, x_i \right]

    log Z and the cdf are by quadrature, exact to rounding; the diffused density is one integral
    per entry.

    Args:
        dim: D, entries of an event, at least 1.
        barrier: B, energy at 0 above the wells, in nats, > 0 and at most 100.
        position: m, the wells are at -m and m (without tilt), > 0.
        tilt: c, which favors the wells on the negative side if it is positive; at most 10 B / m in
            size.

    Raises:
        ValueError: if an argument is out of range.
    """

    dim: int = 2
    barrier: float = 3.0
    position: float = 1.5
    tilt: float = 0.2

    def __post_init__(self) -> None:
        require_count(dim=self.dim)
        require_positive(barrier=self.barrier, position=self.position)
        require_finite(tilt=self.tilt)
        if self.barrier > _HIGHEST:
            raise ValueError(
                f"barrier={self.barrier!r} must be at most {_HIGHEST:g} nats: beyond, the wells "
                "are too narrow for the quadrature; take a Mixture"
            )
        if abs(self.tilt) * self.position > _STEEPEST * self.barrier:
            raise ValueError(
                f"tilt={self.tilt!r} must be at most {_STEEPEST:g} barrier / position = "
                f"{_STEEPEST * self.barrier / self.position:g} in size"
            )

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @cached_property
    @override
    def log_z(self) -> float:
        return self.dim * self._entry.log_z

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return self._well(x).sum(1)

    def _well(self, x: Tensor) -> Tensor:
        return self.barrier * ((x / self.position) ** 2 - 1) ** 2 + self.tilt * x

    @property
    def _ends(self) -> tuple[float, float]:
        """Where the energy is `DEPTH` above its least: -|c| m y + B (y^2 - 1)^2 at y = x / m."""
        pull = abs(self.tilt) * self.position
        y = 1.0
        while self.barrier * (y**2 - 1) ** 2 - pull * y < DEPTH:
            y *= 1.02
        return -self.position * y, self.position * y

    @cached_property
    def _entry(self) -> IntervalLaw:
        return IntervalLaw(lambda x: -self._well(x), *self._ends)

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        u = uniform(count * self.dim, generator).reshape(count, self.dim)
        return self._entry.quantile(u)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        entries = convolve(lambda y: -self._well(y), self._ends, x, at.alpha, at.sigma)
        return entries.sum(1) - self.log_z
