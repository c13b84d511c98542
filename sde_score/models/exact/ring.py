"""Ring in the plane, of Gaussian profile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score.models.exact.quadrature import (
    DEPTH,
    IntervalDistribution,
    bracket,
    column,
    log_integral,
)
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import uniform

_ORIGIN = 1e-6  # in units of sigma: rounds off |x| at 0, where its gradient does not exist


@dataclass(frozen=True)
class Ring(Target):
    r"""A ring of Gaussian profile.

    .. math:: energy = \frac{(|x| - R)^2}{2 w^2}, \qquad
              Z = 2 \pi \left[ w^2 e^{-R^2 / 2 w^2}
              + R w \sqrt{\pi / 2}\, (1 + \mathrm{erf}(R / \sqrt2 w)) \right]

    The gradient at the center, where the energy has a kink, is 0. The diffused density is one
    integral over the radius r of x_0, the one over its angle being a Bessel function:

    .. math:: p_t(x) = \frac1Z \int_0^\infty \frac r{\sigma^2}\, e^{-(r - R)^2 / 2 w^2
              - (|x|^2 + \alpha^2 r^2) / 2 \sigma^2} I_0(\alpha r |x| / \sigma^2)\, dr

    Args:
        radius: R, > 0.
        width: w, > 0.

    Raises:
        ValueError: if either is not positive.
    """

    radius: float = 2.0
    width: float = 0.3

    event_shape = (2,)

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(radius=self.radius, width=self.width)

    @property
    @override
    def log_z(self) -> float:
        ratio = self.radius / self.width
        tail = math.exp(-0.5 * ratio**2)
        bulk = ratio * math.sqrt(math.pi / 2) * (1 + math.erf(ratio / math.sqrt(2)))
        return math.log(2 * math.pi * self.width**2 * (tail + bulk))

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return self._profile(x.norm(dim=1))

    def _profile(self, r: Tensor) -> Tensor:
        return 0.5 * ((r - self.radius) / self.width) ** 2

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        turn, u = uniform(2 * count, generator).reshape(2, count)
        angle = 2 * math.pi * turn
        return self._radii.quantile(u)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    @cached_property
    def _radii(self) -> IntervalDistribution:
        low, high = self._ends
        return IntervalDistribution(lambda r: r.log() - self._profile(r), low, high)

    @property
    def _ends(self) -> tuple[float, float]:
        reach = self.width * math.sqrt(2 * DEPTH)
        return max(0.0, self.radius - reach), self.radius + reach

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        alpha, sigma = column(at.alpha, x), column(at.sigma, x)
        distance = (x.square().sum(1, keepdim=True) + (_ORIGIN * sigma) ** 2).sqrt()

        def log_f(r: Tensor) -> Tensor:
            bessel: Tensor = torch.special.i0e(alpha * r * distance / sigma**2)
            off = 0.5 * ((distance - alpha * r) / sigma) ** 2
            return (r * bessel).log() - self._profile(r) - off

        low, high = bracket(*self._ends, distance / alpha, sigma / alpha)
        return log_integral(log_f, low.clamp(min=0), high) - 2 * sigma.log()[:, 0] - self.log_z
