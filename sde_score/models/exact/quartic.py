"""A well flatter than a Gaussian's at the bottom and steeper at the sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive
from sde_score.models.exact.quadrature import DEPTH, IntervalLaw, convolve
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import uniform


@dataclass(frozen=True)
class Quartic(Target):
    r"""A quartic well in each entry, independently.

    .. math:: energy = \tfrac14 \sum_i (x_i / s)^4, \qquad
              \log Z = D \log (s\, \Gamma(1/4) / \sqrt 2)

    The diffused density is one integral per entry.

    Args:
        dim: D, entries of an event, at least 1.
        scale: s, > 0.

    Raises:
        ValueError: if either is out of range.
    """

    dim: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        require_count(dim=self.dim)
        require_positive(scale=self.scale)

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    @override
    def log_z(self) -> float:
        return self.dim * math.log(self.scale * math.gamma(0.25) / math.sqrt(2))

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return self._well(x).sum(1)

    def _well(self, x: Tensor) -> Tensor:
        return 0.25 * (x / self.scale).square().square()

    @property
    def _ends(self) -> tuple[float, float]:
        reach = self.scale * (4 * DEPTH) ** 0.25
        return -reach, reach

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
