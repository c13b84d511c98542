"""Target score matching: regression of the noisy score on the known score of the clean data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import expand_like, require_positive, sum_event
from sde_score._core.conditions import Condition
from sde_score.models import Density, Marginal, Model, Target
from sde_score.objectives.base import BaseObjective, NoiseLevels
from sde_score.objectives.score_matching.explicit import KnownTarget
from sde_score.objectives.time_samplers import TimeSampler
from sde_score.objectives.weightings import Weighting
from sde_score.random import Draws, generator_from, normal

_SAMPLES = 4096


@dataclass(frozen=True, kw_only=True)
class TargetScoreMatching(BaseObjective):
    r"""Learns the score at all noise levels where that of the clean data is known.

    The score of x_t is the mean, given x_t, of either of

    .. math:: \frac{\nabla \log p(x_0)}{\alpha} \qquad \text{and} \qquad -\frac{\epsilon}{\sigma},
              \qquad x_t = \alpha x_0 + \sigma \epsilon,

    the first with little variance at low noise, the second, that of denoising score matching, at
    high noise. The loss is the regression on c times the first plus 1 - c times the second,

    .. math:: \tfrac12 \left\lVert s(x_t, t) - c\, \frac{\nabla \log p(x_0)}{\alpha}
              + (1 - c)\, \frac{\epsilon}{\sigma} \right\rVert^2, \qquad
              c^*(t) = \frac{\alpha^2}{\alpha^2 + \sigma^2 I}, \qquad
              I = \tfrac1D E \lVert \nabla \log p(x_0) \rVert^2 ,

    where c* has the least variance at every t; for isotropic Gaussian data none is left. The
    minimum is the same whatever c is. The density of the data must be differentiable everywhere and
    vanish at infinity: not one that ends somewhere, such as `exponential`.

    Args:
        target: the distribution of the data: a name from `sde_score.models.TARGETS`, a `Target` or
            a `Density`.
        mix: c between 0 (denoising) and 1 (the known score alone) at every t; None takes c*.
        information: I, > 0; None takes the mean over 4096 exact draws of a `Target`.
        time_sampler: a name from `TIME_SAMPLERS`, or an object; `"auto"` takes the times that the
            paper of the SDE trains at.
        weighting: a name from `WEIGHTINGS`, or an object.

    Raises:
        ValueError: for an unknown name or argument, a mix outside 0 .. 1, or no time sampler.
        TypeError: if c* is wanted of a target that cannot be drawn from, without `information`.

    Cost: F + B, for an energy F + 2 B + D, and the known score without a graph.

    Reference: De Bortoli et al. 2024, https://arxiv.org/abs/2402.08667; the coefficient: Kahouli
    et al. 2025, https://arxiv.org/abs/2512.20003.
    """

    cost = "F + B"
    converges_to = "the score of x_t at every t"
    reference = "De Bortoli et al. 2024, https://arxiv.org/abs/2402.08667"

    target: str | Density
    mix: float | None = None
    information: float | None = None
    time_sampler: str | TimeSampler = "auto"
    weighting: str | Weighting = "variance"

    def __post_init__(self) -> None:
        if self.time_sampler is None:
            raise ValueError("time_sampler=None leaves no noise to learn from: try 'uniform'")
        check_fields(self)
        _ = self._noise_levels
        if self.mix is not None and not 0 <= self.mix <= 1:
            raise ValueError(f"mix={self.mix!r} must lie between 0 (denoising) and 1 (target)")
        if self.information is not None:
            require_positive(information=self.information)
        target = self._known.target
        if self.mix is None and self.information is None and not isinstance(target, Target):
            raise TypeError(
                f"target is a {type(target).__name__}, from which nothing can be drawn: give "
                "information, the mean square of an entry of its score, or mix"
            )

    @cached_property
    def _noise_levels(self) -> NoiseLevels:
        return NoiseLevels(self.time_sampler, self.weighting)

    @cached_property
    def _known(self) -> KnownTarget:
        return KnownTarget(self.target)

    @cached_property
    def _information(self) -> float:
        if self.information is not None:
            return self.information
        target = self._known.target
        if not isinstance(target, Target):
            raise TypeError("information is needed")
        draws = target.sample(_SAMPLES, generator_from(0))
        return self._known.score(draws).square().mean().item()

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Weighted loss of each example at a random time, in nats, shape `(batch,)`."""
        t, factor = self._noise_levels.draw(model.sde, x0, generator)
        return factor.to(x0.dtype) * self.at(model, x0, t, normal(x0, generator), condition)

    def at(
        self, model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Condition = None
    ) -> Tensor:
        """Loss of each example at given times and noise, without weight, shape `(batch,)`."""
        on_target, on_noise = self.coefficients(model, t)
        known, marginal = self._known.score(x0), Marginal(model, t, condition)
        wanted = expand_like(on_target, x0) * known + expand_like(on_noise, x0) * noise
        score = marginal.score(model.sde.perturb(x0, t, noise))
        return 0.5 * sum_event((score - wanted) ** 2)

    def coefficients(self, model: Model, t: Tensor) -> tuple[Tensor, Tensor]:
        """Factors on the known score at x0 and on the noise, c / alpha and (c - 1) / sigma."""
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        if self.mix is not None:
            return self.mix / alpha, (self.mix - 1) / sigma
        # c* with alpha and sigma cancelled: nothing is divided by zero at either end.
        total = alpha**2 + self._information * sigma**2
        return alpha / total, -self._information * sigma / total
