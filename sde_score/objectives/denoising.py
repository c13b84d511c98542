"""Denoising score matching: predict the noise, learn the score."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sde_score._checks import mean_event, require_batch
from sde_score.models import Model
from sde_score.objectives.time_samplers import TIME_SAMPLERS, TimeSampler
from sde_score.objectives.weightings import WEIGHTINGS, Weighting
from sde_score.random import Draws, normal


@dataclass(frozen=True)
class DenoisingScoreMatching:
    r"""Denoising score matching over all noise levels of the model's SDE.

    .. math:: \frac{w(t)}{D} \left\lVert \hat\epsilon(x_t, t) - \epsilon \right\rVert^2, \qquad
              x_t = \alpha x_0 + \sigma \epsilon,\quad \epsilon \sim N(0, I),\quad t \sim p

    The expected value is smallest where the model's score is the true one at every t, whatever the
    weight and whatever the law of t. Entries of an event are averaged, so losses compare across
    shapes; times D / 2 gives the summed form of `reduce_mean=False` in Song et al.'s code, in nats
    under likelihood weighting.

    Args:
        weighting: a name from `WEIGHTINGS`, such as `"likelihood"` or `"edm(sigma_data=0.3)"`, or
            an object.
        time_sampler: a name from `TIME_SAMPLERS`, or an object.

    Raises:
        ValueError: for an unknown name or argument.

    Cost: one forward and one backward pass.

    Reference: Vincent 2011, https://doi.org/10.1162/NECO_a_00142; Song et al. 2021,
    https://arxiv.org/abs/2011.13456, eq. 7.
    """

    needs = "score"
    second_derivatives = False
    cost = "F + B"
    converges_to = "the score of x_t at every t"
    reference = "Vincent 2011, https://doi.org/10.1162/NECO_a_00142"

    weighting: str | Weighting = "variance"
    time_sampler: str | TimeSampler = "uniform"
    _weighting: Weighting = field(init=False, repr=False, compare=False)
    _time_sampler: TimeSampler = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weighting, times = self.weighting, self.time_sampler
        resolved = WEIGHTINGS.create(weighting) if isinstance(weighting, str) else weighting
        object.__setattr__(self, "_weighting", resolved)
        drawn = TIME_SAMPLERS.create(times) if isinstance(times, str) else times
        object.__setattr__(self, "_time_sampler", drawn)

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Tensor | None = None,
        generator: Draws = None,
    ) -> Tensor:
        """Weighted loss of each example at a random time, shape `(batch,)`."""
        require_batch("x0", x0)
        t, importance = self._time_sampler(model.sde, x0.shape[0], generator, x0.device)
        loss = self.at(model, x0, t, normal(x0, generator), condition)
        return loss * importance.to(loss)

    def at(
        self, model: Model, x0: Tensor, t: Tensor, noise: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """Weighted loss of each example at given times and noise, shape `(batch,)`."""
        error = model.noise(model.sde.perturb(x0, t, noise), t, condition) - noise
        loss = mean_event(error**2)
        return loss * self._weighting(model.sde, t.double()).to(loss)
