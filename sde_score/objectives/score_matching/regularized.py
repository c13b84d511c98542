"""Regularized score matching: curvature has a price."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_positive, sum_event
from sde_score.models import Marginal
from sde_score.objectives.base import MarginalObjective
from sde_score.objectives.score_matching.implicit import score_and_diagonal
from sde_score.random import Draws


@dataclass(frozen=True)
class RegularizedScoreMatching(MarginalObjective):
    r"""Implicit score matching with a price on curvature, which gives it a lower bound.

    .. math:: \tfrac12 \lVert s(x) \rVert^2 + \sum_i \partial_i s_i(x)
              + \lambda \sum_i (\partial_i s_i(x))^2 \ \ge\ -\frac{D}{4 \lambda}

    The last term is the leading effect of Gaussian noise of variance 2 lambda on the data: for
    Gaussian data of independent entries with variance S the minimum is at precision
    1 / (S + 2 lambda), the smoothed one, and on isolated points it stays finite.

    Args:
        strength: lambda, > 0, in units of the data squared.
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument, or a strength that is not positive.

    Cost: that of `ImplicitScoreMatching`.

    Reference: Kingma & LeCun 2010, "Regularized estimation of image statistics by score matching",
    https://papers.nips.cc/paper/2010.
    """

    second_derivatives = True
    cost = "F + (d + 1) B + d D"
    converges_to = "the score of slightly smoothed data"
    reference = "Kingma & LeCun 2010, https://papers.nips.cc/paper/2010"

    strength: float = 0.01

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(strength=self.strength)

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws = None) -> Tensor:
        """Loss of each example, shape `(batch,)`; nothing is drawn."""
        score, diagonal = score_and_diagonal(marginal, x)
        return sum_event(0.5 * score**2 + diagonal + self.strength * diagonal**2)
