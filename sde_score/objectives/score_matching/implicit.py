r"""Implicit score matching: integration by parts eliminates the unknown score of the data.

.. math:: E \left[ \tfrac12 \lVert s - \nabla \log p \rVert^2 \right]
          = E \left[ \tfrac12 \lVert s \rVert^2 + \mathrm{tr}\, \nabla s \right]
          + \tfrac12 E \lVert \nabla \log p \rVert^2 ,

as long as p s vanishes at infinity. The trace is of the D x D Jacobian of the score: exact, one
backward pass per dimension; or Hutchinson's estimate, one per random probe.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import sum_event
from sde_score.models import Marginal, unit_vectors, value_and_forms
from sde_score.objectives.base import MarginalObjective
from sde_score.random import Draws, probes, require_probes


@dataclass(frozen=True)
class ImplicitScoreMatching(MarginalObjective):
    r"""Implicit score matching with the exact trace.

    .. math:: \tfrac12 \lVert s(x) \rVert^2 + \mathrm{tr}\, \nabla s(x)

    On isolated points it has no lower bound: s = -(x - x_i) / tau^2 around each has the value
    -D / tau^2, so data with repeated or rounded values need noise (a time sampler, dequantization)
    or `RegularizedScoreMatching`. The model must have second derivatives: SiLU, not ReLU.

    Args:
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument.

    Cost: F + (d + 1) B + d D, d the entries of an event; for an energy, whose score is itself a
    gradient, F + (d + 2) B + (2d + 1) D.

    Reference: Hyvarinen 2005, https://jmlr.org/papers/v6/hyvarinen05a.html, theorem 1.
    """

    second_derivatives = True
    cost = "F + (d + 1) B + d D"
    converges_to = "the score of the data"
    reference = "Hyvarinen 2005, https://jmlr.org/papers/v6/hyvarinen05a.html"

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws = None) -> Tensor:
        """Loss of each example, shape `(batch,)`; nothing is drawn."""
        score, diagonal = score_and_diagonal(marginal, x)
        return 0.5 * sum_event(score * score) + sum_event(diagonal)


@dataclass(frozen=True)
class HutchinsonScoreMatching(MarginalObjective):
    r"""Implicit score matching with Hutchinson's trace, also called sliced with variance reduction.

    .. math:: \tfrac12 \lVert s(x) \rVert^2 + \frac1n \sum_{k=1}^n v_k^T \nabla s(x)\, v_k,
              \qquad E[v v^T] = I

    Value and gradient are those of `ImplicitScoreMatching` on average. With A the symmetric part
    of the D x D Jacobian, one probe has the variance

    .. math:: 2 \lVert A \rVert_F^2 - 2 \textstyle\sum_i A_{ii}^2\ (\text{rademacher}), \qquad
              2 \lVert A \rVert_F^2\ (\text{gaussian}), \qquad
              \tfrac{2D}{D+2} (\lVert A \rVert_F^2 - (\mathrm{tr} A)^2 / D)\ (\text{sphere}).

    Args:
        probes: number n of probes per example, at least 1.
        probe_distribution: a name from `sde_score.random.PROBE_DISTRIBUTIONS`.
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument, or a count below 1.

    Cost: F + (n + 1) B + n D, whatever the dimension; for an energy, whose score is itself a
    gradient, F + (n + 2) B + (2n + 1) D.

    Reference: Hutchinson 1989, https://doi.org/10.1080/03610918908812806; Song et al. 2019,
    https://arxiv.org/abs/1905.07088.
    """

    second_derivatives = True
    cost = "F + (n + 1) B + n D"
    converges_to = "the score of the data"
    reference = "Song et al. 2019, https://arxiv.org/abs/1905.07088"

    probes: int = 1
    probe_distribution: str = "rademacher"

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        require_probes(self.probes, self.probe_distribution)

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        """Loss of each example with fresh probes, shape `(batch,)`."""
        return self.at(marginal, x, probes(self.probes, x, self.probe_distribution, generator))

    def at(self, marginal: Marginal, x: Tensor, vectors: Tensor) -> Tensor:
        """Loss of each example with given probes `(n, batch, *event)`, shape `(batch,)`."""
        score, forms = value_and_forms(marginal.score, x, vectors)
        return 0.5 * sum_event(score * score) + forms.mean(0)


def score_and_diagonal(marginal: Marginal, x: Tensor) -> tuple[Tensor, Tensor]:
    """The score and the diagonal of its Jacobian, both like x, from one evaluation."""
    score, forms = value_and_forms(marginal.score, x, unit_vectors(x))
    return score, forms.mT.reshape(x.shape)
