"""Neal's funnel: an entry that sets the scale of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_positive
from sde_score.models.exact.quadrature import DEPTH, bracket, column, log_integral
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import normal


@dataclass(frozen=True)
class Funnel(Target):
    r"""Neal's funnel: the first entry v sets the scale of the others.

    .. math:: v \sim N(0, s^2), \quad x_i \mid v \sim N(0, e^v), \qquad
              energy = \frac{v^2}{2 s^2} + \sum_{i=1}^{D-1}
              \left( \tfrac12 x_i^2 e^{-v} + \tfrac12 v \right), \qquad
              \log Z = \log s + \tfrac D2 \log 2 \pi

    The diffused density is one integral over the v of x_0, given which x_t is Gaussian with
    variances sigma^2 and alpha^2 e^v + sigma^2.

    Args:
        dim: D, entries of an event, at least 2.
        std: s, > 0.

    Raises:
        ValueError: if either is out of range.

    Reference: Neal 2003, https://doi.org/10.1214/aos/1056562461, section 8.
    """

    dim: int = 2
    std: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(2, dim=self.dim)
        require_positive(std=self.std)

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    @override
    def log_z(self) -> float:
        return math.log(self.std) + 0.5 * self.dim * math.log(2 * math.pi)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        v, square = x[:, 0], x[:, 1:].square().sum(1)
        return 0.5 * ((v / self.std) ** 2 + square * (-v).exp() + (self.dim - 1) * v)

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        x = normal(torch.empty(count, self.dim, dtype=torch.float64), generator)
        v = self.std * x[:, :1]
        return torch.cat([v, (0.5 * v).exp() * x[:, 1:]], 1)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        alpha, sigma = column(at.alpha, x), column(at.sigma, x)
        first, square = x[:, :1], x[:, 1:].square().sum(1, keepdim=True)

        def log_f(v: Tensor) -> Tensor:
            variance = alpha**2 * v.exp() + sigma**2
            off = ((first - alpha * v) / sigma) ** 2 + 2 * sigma.log()
            others = square / variance + (self.dim - 1) * variance.log()
            return -0.5 * ((v / self.std) ** 2 + off + others)

        reach = self.std * math.sqrt(2 * DEPTH)
        low, high = bracket(-reach, reach, first / alpha, sigma / alpha)
        constant = math.log(self.std) + 0.5 * (self.dim + 1) * math.log(2 * math.pi)
        return log_integral(log_f, low, high) - constant
