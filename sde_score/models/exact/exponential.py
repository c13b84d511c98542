"""Exponential distribution: a density with an edge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score.models.exact.independent import IndependentEntries
from sde_score.models.exact.quadrature import DEPTH, column
from sde_score.models.parametrization import Scales


@dataclass(frozen=True)
class Exponential(IndependentEntries):
    r"""The exponential distribution in each entry, independently.

    Score matching needs a boundary term for it, or a weight that vanishes at 0.

    .. math:: energy = \lambda \sum_i x_i \text{ where all } x_i \ge 0, \text{ else } \infty,
              \qquad \log Z = -D \log \lambda

    An entry below 0 has score 0. The diffused density is in closed form, with erfcx(z) =
    exp(z^2) erfc(z) in each entry and rho = lambda / alpha:

    .. math:: p_t(x) = \tfrac \rho2\, e^{-x^2 / 2 \sigma^2}\,
              \mathrm{erfcx}\left( (\rho \sigma - x / \sigma) / \sqrt2 \right)

    Args:
        dim: D, entries of an event, at least 1.
        rate: lambda, > 0.

    Raises:
        ValueError: if either is out of range.
    """

    dim: int = 2
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(dim=self.dim)
        require_positive(rate=self.rate)

    @property
    @override
    def log_z(self) -> float:
        return -self.dim * math.log(self.rate)

    @override
    def well(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, self.rate * x, torch.inf)

    @property
    @override
    def ends(self) -> tuple[float, float]:
        return 0.0, DEPTH / self.rate

    @override
    def quantile(self, u: Tensor) -> Tensor:
        """-log(1 - u) / lambda."""
        return -torch.log1p(-u) / self.rate

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        sigma, rho = column(at.sigma, x), self.rate / column(at.alpha, x)
        z = rho * sigma - x / sigma
        # erfcx overflows where z < -37 and log_ndtr loses digits where z is large: each where it
        # is good, and, for the sake of gradients, shown only arguments at which it is finite.
        right = z.clamp(max=0)
        inside = rho * (0.5 * rho * sigma**2 - x) + torch.special.log_ndtr(-right)
        left = z.clamp(min=0) / math.sqrt(2)
        outside = -0.5 * (x / sigma) ** 2 + torch.special.erfcx(left).log() - math.log(2)
        return (rho.log() + torch.where(z > 0, outside, inside)).sum(1)
