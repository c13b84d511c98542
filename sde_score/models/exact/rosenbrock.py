"""Rosenbrock's function as an energy: a curved valley in the plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_finite, require_positive
from sde_score.models.exact.quadrature import DEPTH, bracket, column, log_integral
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.random import normal


@dataclass(frozen=True)
class Rosenbrock(Target):
    r"""Rosenbrock's function as an energy in the plane: a curved valley.

    .. math:: energy = (a - x_1)^2 + b (x_2 - x_1^2)^2, \qquad Z = \pi / \sqrt b,

    that is, x_1 ~ N(a, 1/2) and x_2 | x_1 ~ N(x_1^2, 1 / 2b). The diffused density is one integral
    over the x_1 of x_0.

    Args:
        a: where the valley is deepest, at (a, a^2); finite.
        b: how steep its walls are, > 0. The function to minimize has a=1, b=100; the default 10
            can be seen, and walked by Langevin steps that are not tiny.

    Raises:
        ValueError: if a is not finite or b is not positive.
    """

    a: float = 1.0
    b: float = 10.0

    event_shape = (2,)

    def __post_init__(self) -> None:
        check_fields(self)
        require_finite(a=self.a)
        require_positive(b=self.b)

    @property
    @override
    def log_z(self) -> float:
        return math.log(math.pi) - 0.5 * math.log(self.b)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return (self.a - x[:, 0]) ** 2 + self.b * (x[:, 1] - x[:, 0] ** 2) ** 2

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        noise = normal(torch.empty(count, 2, dtype=torch.float64), generator) / math.sqrt(2)
        first = self.a + noise[:, 0]
        return torch.stack([first, first**2 + noise[:, 1] / math.sqrt(self.b)], 1)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        alpha, sigma = column(at.alpha, x), column(at.sigma, x)
        first, second = x[:, :1], x[:, 1:]
        variance = alpha**2 / (2 * self.b) + sigma**2  # of the second entry, given y

        def log_f(y: Tensor) -> Tensor:
            off = ((first - alpha * y) / sigma) ** 2
            height = (second - alpha * y**2) ** 2 / variance
            return -((y - self.a) ** 2) - 0.5 * (off + height)

        reach = math.sqrt(DEPTH)
        low, high = bracket(self.a - reach, self.a + reach, first / alpha, sigma / alpha)
        constant = sigma.log() + 0.5 * variance.log() + 1.5 * math.log(math.pi) + math.log(2)
        return log_integral(log_f, low, high) - constant.squeeze(1)
