"""Targets whose entries are independent, all of one one-dimensional distribution."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property

from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.checks import require_count
from sde_score.models.exact.quadrature import IntervalDistribution, convolve
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import uniform


class IndependentEntries(Target):
    """A sum of one energy over the entries; subclasses give `well` and `ends`, and a closed form
    of the rest where there is one.

    Args:
        dim: entries of an event, at least 1.
    """

    dim: int

    @abstractmethod
    def well(self, x: Tensor) -> Tensor:
        """Energy of each entry, elementwise, of float64 x."""

    @property
    @abstractmethod
    def ends(self) -> tuple[float, float]:
        """Interval beyond which the energy of an entry is `DEPTH` above its least."""

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
        return self.well(x).sum(1)

    @cached_property
    def _entry(self) -> IntervalDistribution:
        return IntervalDistribution(lambda x: -self.well(x), *self.ends)

    def quantile(self, u: Tensor) -> Tensor:
        """Inverse cdf of an entry at u in [0, 1), elementwise."""
        return self._entry.quantile(u)

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        u = uniform(count * self.dim, generator).reshape(count, self.dim)
        return self.quantile(u)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        entries = convolve(lambda y: -self.well(y), self.ends, x, at.alpha, at.sigma)
        return entries.sum(1) - self.log_z
