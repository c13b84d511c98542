"""Denoising score matching: predict the noise, learn the score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import mean_event, require_choice
from sde_score._core.conditions import Condition
from sde_score.models import Model
from sde_score.objectives.base import BaseObjective, NoiseLevels
from sde_score.objectives.time_samplers import TimeSampler
from sde_score.objectives.weightings import Weighting
from sde_score.random import Draws, noise_beside
from sde_score.sdes import SDE

VARIANCE_REDUCTIONS = ("none", "constant", "antithetic")


@dataclass(frozen=True)
class DenoisingScoreMatching(BaseObjective):
    r"""Denoising score matching over all noise levels of the model's SDE.

    .. math:: \frac{w(t)}{D} \left\lVert \hat\epsilon(x_t, t) - \epsilon \right\rVert^2, \qquad
              x_t = \alpha x_0 + \sigma \epsilon,\quad \epsilon \sim N(0, I),\quad t \sim p

    The expected value is smallest where the model's score is the true one at every t, whatever the
    weight and whatever the distribution of t. Entries of an event are averaged, so losses compare
    across shapes; times D / 2 gives the summed form of `reduce_mean=False` in Song et al.'s code,
    in nats under likelihood weighting.

    Three forms have that same expected value at every x_0 and t. The square is

    .. math:: \lVert \hat\epsilon \rVert^2 - 2\, \hat\epsilon \cdot \epsilon
              + \lVert \epsilon \rVert^2

    whose last term no model can change and whose middle one dominates at small noise:

    ============ ======================================================= ===========
    `none`       the square as it is, at least 0                         F + B
    `constant`   its last term replaced by its expected value D          F + B
    `antithetic` `constant`, averaged over noise and -noise              2 F + 2 B
    ============ ======================================================= ===========

    The last term has no gradient: `constant` steadies the loss that is shown, `antithetic` the
    gradient too. See `DenoisingControl` for a control variate.

    Args:
        weighting: a name from `WEIGHTINGS`, such as `"likelihood"` or `"edm(sigma_data=0.3)"`, or
            an object.
        time_sampler: a name from `TIME_SAMPLERS`, or an object; `"auto"` takes the times that the
            paper of the SDE trains at.
        variance_reduction: one of the above; all but `none` give single examples negative losses.

    Raises:
        ValueError: for an unknown name or argument.

    Cost: one forward and one backward pass; two of each for `antithetic`.

    Reference: Vincent 2011, https://doi.org/10.1162/NECO_a_00142; Song et al. 2021,
    https://arxiv.org/abs/2011.13456, eq. 7.
    """

    converges_to = "the score of x_t at every t"
    reference = "Vincent 2011, https://doi.org/10.1162/NECO_a_00142"
    takes_pairs = True

    weighting: str | Weighting = "variance"
    time_sampler: str | TimeSampler = "auto"
    variance_reduction: str = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        require_choice("variance_reduction", self.variance_reduction, VARIANCE_REDUCTIONS)
        _ = self._noise_levels

    @cached_property
    def _noise_levels(self) -> NoiseLevels:
        return NoiseLevels(self.time_sampler, self.weighting)

    @property
    @override
    def cost(self) -> str:
        """Passes per example."""
        return "2 F + 2 B" if self.variance_reduction == "antithetic" else "F + B"

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Weighted loss of each example at a random time, shape `(batch,)`."""
        t, importance, noise = self.draw(model.sde, x0, generator)
        loss = self.at(model, x0, t, noise, condition)
        return loss * importance.to(loss)

    def draw(self, sde: SDE, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Times and their importance, float64 `(batch,)`, and noise like x0."""
        t, importance = self.times(sde, x0.shape[0], generator, x0.device)
        return t, importance, noise_beside(x0, generator)

    def at(
        self, model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Condition = None
    ) -> Tensor:
        """Weighted loss of each example at given times and noise, shape `(batch,)`."""
        loss = self._error(model, x0, t, noise, condition)
        if self.variance_reduction == "antithetic":
            loss = (loss + self._error(model, x0, t, -noise, condition)) / 2
        return loss * self.weight(model.sde, t).to(loss)

    @property
    def times(self) -> TimeSampler:
        """The time sampler."""
        return self._noise_levels.times

    def weight(self, sde: SDE, t: Tensor) -> Tensor:
        """w(t), float64 in the shape of t."""
        return self._noise_levels.weights(sde, t.double())

    def _error(
        self, model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Condition
    ) -> Tensor:
        predicted = model.noise(model.sde.perturb(x0, t, noise), t, condition)
        if self.variance_reduction == "none":
            return mean_event((predicted - noise) ** 2)
        return error_without_constant(predicted, noise) + 1


def error_without_constant(predicted: Tensor, noise: Tensor) -> Tensor:
    r"""(|predicted - noise|^2 - |noise|^2) / D of each example, shape `(batch,)`.

    Its expected value is that of the whole square less 1, as E |noise|^2 = D.
    """
    return mean_event(predicted * (predicted - 2 * noise))
