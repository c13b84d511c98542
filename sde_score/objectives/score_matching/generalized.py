r"""Generalized score matching, for data on a domain with a border.

Where a density does not vanish at the border of its domain, integration by parts leaves a border
term and implicit score matching learns the wrong distribution: for Exp(1) it finds the rate 0. A
factor h(x) on each squared error that vanishes at the border repairs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_positive, sum_event
from sde_score._core.registry import Registry
from sde_score.models import Marginal
from sde_score.objectives.base import MarginalObjective
from sde_score.objectives.score_matching.implicit import score_and_diagonal
from sde_score.random import Draws


@runtime_checkable
class DomainWeight(Protocol):
    """A factor that vanishes at the ends of an interval."""

    @property
    def low(self) -> float:
        """Lower end of the domain."""
        ...

    @property
    def high(self) -> float:
        """Upper end of the domain, or infinity."""
        ...

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h(x) >= 0 and h'(x), both like x."""
        ...


class _Positive:
    """The positive numbers as a domain."""

    low = 0.0
    high = math.inf


@dataclass(frozen=True)
class Identity(_Positive):
    """h = x, for x > 0."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x and 1."""
        return x, torch.ones_like(x)


@dataclass(frozen=True)
class Square(_Positive):
    """h = x^2, for x > 0: Hyvarinen's."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x^2 and 2 x."""
        return x**2, 2 * x


@dataclass(frozen=True)
class Clipped(_Positive):
    """h = min(x, bound), for x > 0: large values do not dominate.

    Args:
        bound: > 0, in units of the data.
    """

    bound: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(bound=self.bound)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """min(x, bound), and 1 below the bound."""
        return x.clamp(max=self.bound), (x < self.bound).to(x.dtype)


@dataclass(frozen=True)
class _Interval:
    """An interval as a domain.

    Args:
        low: lower end.
        high: upper end, > low.

    Raises:
        ValueError: if the ends are not finite and increasing.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low={self.low!r} and high={self.high!r} must be finite, low < high")


@dataclass(frozen=True)
class Parabola(_Interval):
    """h = (x - low) (high - x), for low < x < high."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x - low) (high - x) and low + high - 2 x."""
        return (x - self.low) * (self.high - x), self.low + self.high - 2 * x


@dataclass(frozen=True)
class Distance(_Interval):
    """h = min(x - low, high - x), the distance to the border, for low < x < high."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The distance, and 1 or -1 towards the middle."""
        below, above = x - self.low, self.high - x
        return torch.minimum(below, above), torch.where(below < above, 1.0, -1.0).to(x.dtype)


DOMAIN_WEIGHTS: Registry[DomainWeight] = Registry(
    "domain weight",
    {
        "square": Square,
        "identity": Identity,
        "clipped": Clipped,
        "parabola": Parabola,
        "distance": Distance,
    },
    base=DomainWeight,
)


@dataclass(frozen=True, kw_only=True)
class GeneralizedScoreMatching(MarginalObjective):
    r"""Generalized score matching, for positive or bounded data without noise.

    .. math:: \sum_j \left[ \tfrac12 h(x_j)\, s_j(x)^2 + h(x_j)\, \partial_j s_j(x)
              + h'(x_j)\, s_j(x) \right]

    It is (1/2) E sum_j h(x_j) (s_j - d_j log p)^2 up to a constant, if h p s vanishes at the border
    of the domain, which p itself need not do.

    Args:
        weight: h: a name from `DOMAIN_WEIGHTS`, such as `"clipped(bound=2)"` or
            `"parabola(low=-1, high=1)"`, or an object. Every entry of the data has its domain.

    Raises:
        ValueError: for an unknown name or argument, or a time sampler, since noise leaves the
            domain; when called, for data outside the domain.

    Cost: that of `ImplicitScoreMatching`.

    Reference: Hyvarinen 2007, https://doi.org/10.1016/j.csda.2006.09.003; Yu, Drton & Shojaie
    2019, https://arxiv.org/abs/1812.10551.
    """

    second_derivatives = True
    cost = "F + (d + 1) B + d D"
    converges_to = "the score of positive or bounded data"
    reference = "Yu, Drton & Shojaie 2019, https://arxiv.org/abs/1812.10551"

    weight: str | DomainWeight = "square"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._weight
        if self.time_sampler is not None:
            raise ValueError(
                f"time_sampler={self.time_sampler!r} adds noise, which leaves the domain of the "
                "data; accepted: None"
            )

    @cached_property
    def _weight(self) -> DomainWeight:
        return DOMAIN_WEIGHTS.resolve(self.weight, name="weight")

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws = None) -> Tensor:
        """Loss of each example, shape `(batch,)`; nothing is drawn."""
        self._require_domain(x)
        h, slope = self._weight(x)
        score, diagonal = score_and_diagonal(marginal, x)
        return sum_event(h * (0.5 * score**2 + diagonal) + slope * score)

    def _require_domain(self, x: Tensor) -> None:
        low, high = self._weight.low, self._weight.high
        if not bool(((x >= low) & (x <= high)).all()):
            raise ValueError(
                f"x0 has entries from {x.min().item():g} to {x.max().item():g}, outside the domain "
                f"{low:g} .. {high:g} of the weight {self.weight!r}: shift or rescale the data, or "
                "choose another weight"
            )
