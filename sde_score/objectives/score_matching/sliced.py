"""Sliced score matching: implicit score matching along random directions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score.models import Marginal, value_and_forms
from sde_score.objectives.base import MarginalObjective
from sde_score.random import Draws, probes, require_probes


@dataclass(frozen=True)
class SlicedScoreMatching(MarginalObjective):
    r"""Sliced score matching: implicit score matching of one-dimensional projections.

    .. math:: \frac1n \sum_{k=1}^n \left[ \tfrac12 (v_k \cdot s(x))^2
              + v_k^T \nabla s(x)\, v_k \right], \qquad E[v v^T] = I

    Value and gradient are those of `ImplicitScoreMatching` on average, at any scale of the data and
    for every distribution of the probes. `HutchinsonScoreMatching` averages the first term exactly,
    at the same price and with less variance: prefer it. This one is for comparison.

    Args:
        probes: number n of directions per example, at least 1.
        probe_distribution: a name from `sde_score.random.PROBE_DISTRIBUTIONS`; `sphere` has length
            sqrt(D).
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument, or a count below 1.

    Cost: F + (n + 1) B + n D, whatever the dimension; for an energy, whose score is itself a
    gradient, F + (n + 2) B + (2n + 1) D.

    Reference: Song et al. 2019, https://arxiv.org/abs/1905.07088.
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
        """Loss of each example along given directions `(n, batch, *event)`, shape `(batch,)`."""
        score, forms = value_and_forms(marginal.score, x, vectors)
        count, batch = forms.shape
        slices = (score * vectors).reshape(count, batch, -1).sum(2)
        return (0.5 * slices**2 + forms).mean(0)
