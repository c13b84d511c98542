"""Explicit score matching: regression on a score that is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import sum_event
from sde_score.models import TARGETS, Density, Marginal, Model, Target
from sde_score.objectives.base import MarginalObjective
from sde_score.random import Draws
from sde_score.sdes import SDE


@dataclass(frozen=True, kw_only=True)
class ExplicitScoreMatching(MarginalObjective):
    r"""Explicit score matching: half the Fisher divergence, where the true score is known.

    .. math:: \tfrac12 \lVert s(x) - \nabla \log p(x) \rVert^2

    It is 0 at the true score and nowhere else, and every other objective of this kind is equal to
    it up to a constant: implicit score matching lacks half the Fisher information,
    (1/2) E |grad log p|^2. It says how far a model is from the truth, and it is blind where p has
    no mass: two modes with the wrong weights, many widths apart, cost next to nothing.

    Args:
        target: the distribution whose score is known: a name in `sde_score.models.TARGETS`, such as
            `"mixture"`, a `Target`, or without a time sampler any `Density`.
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object, for
            the diffused target at random times.
        weighting: with a time sampler, the weight of each time.

    Raises:
        ValueError: for an unknown name or argument.
        TypeError: if a time sampler is given and the target is no `Target`, so that its diffused
            score is not known.

    Cost: F + B, for an energy F + 2 B + D, and the known score without a graph.

    Reference: Hyvarinen 2005, https://jmlr.org/papers/v6/hyvarinen05a.html, eq. 2.
    """

    cost = "F + B"
    converges_to = "the known score"
    reference = "Hyvarinen 2005, https://jmlr.org/papers/v6/hyvarinen05a.html"

    target: str | Density

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        target = self._known.target
        if self.all_noise_levels and not isinstance(target, Target):
            raise TypeError(
                f"target is a {type(target).__name__}, whose score with noise is not known; "
                f"accepted with a time sampler: a Target, or one of {', '.join(TARGETS)}"
            )

    @cached_property
    def _known(self) -> KnownTarget:
        return KnownTarget(self.target)

    @override
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws = None) -> Tensor:
        """Loss of each example, shape `(batch,)`; nothing is drawn."""
        known = self._known
        truth = known.noisy_score(marginal, x) if self.all_noise_levels else known.score(x)
        return 0.5 * sum_event((marginal.score(x) - truth) ** 2)


class KnownTarget:
    """A distribution of known score and its diffused forms, each made once; scores carry no graph.

    Args:
        target: a name in `sde_score.models.TARGETS`, or an object.

    Raises:
        ValueError: for an unknown name or argument.
        TypeError: for an object without a score.
    """

    def __init__(self, target: str | Density) -> None:
        self.target = (
            target if isinstance(target, Density) else TARGETS.resolve(target, name="target")
        )
        self._diffused: dict[SDE, Model] = {}

    def score(self, x: Tensor) -> Tensor:
        """Score of the data, like x."""
        with torch.no_grad():
            return self.target.score(x)

    def noisy_score(self, marginal: Marginal, x: Tensor) -> Tensor:
        """Score of x_t under the SDE and at the times of a model, like x."""
        sde = marginal.model.sde
        if sde not in self._diffused and isinstance(self.target, Target):
            self._diffused[sde] = self.target.diffused(sde)
        model = self._diffused[sde]
        if isinstance(model, nn.Module):
            model.to(x.device)
        with torch.no_grad():
            return model.score(x, marginal.t)
