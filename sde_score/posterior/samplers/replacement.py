"""The replacement method: known entries are overwritten at every step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.posterior.samplers.known import KnownPart
from sde_score.samplers import PREDICTORS, Sampler
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE


@dataclass(frozen=True)
class Replacement(PosteriorSampler):
    r"""Steps of a sampler, after each of which the known part is a noised copy of y.

    .. math:: A x_t \leftarrow \alpha y + \sqrt{\sigma^2 c - \alpha^2 R}\, z, \qquad A A^T = c I

    for masks, mean-pooling and gray values. Where the noise of y is above that of x_t, the known
    part is left to the sampler, which takes that noise away. The time of the grid nearest to where
    they are equal is moved there, so that nothing of y is lost between two times.

    Args:
        predictor: a name from `samplers.PREDICTORS`, or such a sampler; its own steps, grid and
            denoising are not used.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix I.2.
    """

    predictor: str | Sampler = "ancestral"

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "the known part is overwritten in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        PREDICTORS.resolve(self.predictor, name="predictor")

    @property
    @override
    def limit(self) -> str:
        return (
            "biased: the missing part meets a known part of fresh noise at each step, and not the "
            "one that y leads to"
        )

    @override
    def require_observation(self) -> None:
        """Refuse operators that do not measure entries by themselves."""
        KnownPart(self.measurement, "replacement")

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return KnownPart(self.measurement, "replacement").with_crossing(sde, super().times(sde))

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        part, times = KnownPart(self.measurement, "replacement"), problem.times
        predictor = replace(
            PREDICTORS.resolve(self.predictor),
            steps=self.steps, grid=self.grid, denoise=self.denoise,
        )  # fmt: skip
        alphas = problem.sde.alpha(times).tolist()
        deviations = part.deviations(problem.sde, times).to(x.device)
        x = part.overwrite(x, alphas[0], deviations[0], problem.noise())
        for k, (time, state) in enumerate(predictor.iterate(problem, x), 1):
            x = state
            if k < len(alphas):  # else the data are reached
                part.overwrite(x, alphas[k], deviations[k], problem.noise())
            yield time, x
        if self.denoise and not predictor.ends_at_data:
            yield 0.0, problem.denoise(x, problem.moments(x.device)[-1])
