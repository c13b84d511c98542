"""Replacement of what is known at every step, and RePaint, which walks back as well."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count
from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.posterior.samplers.known import KnownPart
from sde_score.posterior.samplers.travel import moves, travel
from sde_score.samplers import CORRECTORS, PREDICTORS, Langevin, Sampler
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE

_FRESH = "a known part of fresh noise at each step, and not the one that y leads to"


@dataclass(frozen=True)
class Replacement(PosteriorSampler):
    r"""Steps of a sampler, after each of which the known part is a noised copy of y.

    .. math:: V^T x_t \leftarrow \alpha \bar y + \sqrt{\sigma^2 - \alpha^2 R / s^2}\, z, \qquad
              \bar y = S^{-1} U^T y

    with A = U S V^T; for a mask, its entries. Where the noise of y is above that of x_t, the known
    part is left to the sampler, which takes that noise away. The time of the grid nearest to where
    they are equal is moved there, so that nothing of y is lost between two times.

    Args:
        predictor: a name from `samplers.PREDICTORS`, or such a sampler; its own steps, grid and
            denoising are not used.
        corrector: a name from `samplers.CORRECTORS`, or an object: Langevin steps at each time,
            after which the known part is drawn anew.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix I.2.
    """

    predictor: str | Sampler = "ancestral"
    corrector: str | Langevin = "none"

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "the known part is overwritten in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        PREDICTORS.resolve(self.predictor, name="predictor")
        CORRECTORS.resolve(self.corrector, name="corrector")

    @property
    @override
    def limit(self) -> str:
        return f"biased: the missing part meets {_FRESH}"

    @cached_property
    def _known(self) -> KnownPart:
        return KnownPart(self.measurement)

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return self._known.with_crossing(sde, super().times(sde))

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        predictor = replace(
            PREDICTORS.resolve(self.predictor),
            steps=self.steps, grid=self.grid, denoise=self.denoise,
        )  # fmt: skip
        corrector, moments = CORRECTORS.resolve(self.corrector), problem.moments(x.device)
        factors = corrector.factors(problem.sde, problem.times)
        alphas = problem.sde.alpha(problem.times).tolist()
        deviations = self._known.deviations(problem.sde, problem.times).to(x.device)

        def corrected(x: Tensor, k: int) -> Tensor:
            x = self._known.overwrite(x, alphas[k], deviations[k], problem.noise())
            if not corrector.steps:
                return x
            x = corrector.correct(problem, x, moments[k], factors[k])
            return self._known.overwrite(x, alphas[k], deviations[k], problem.noise())

        self._known.operator(x)  # refuses states of another shape
        x = corrected(x, 0)
        for k, (time, state) in enumerate(predictor.iterate(problem, x), 1):
            x = state
            if k < len(alphas):  # else the data are reached
                corrected(x, k)
            yield time, x
        if self.denoise and not predictor.ends_at_data:
            yield 0.0, problem.denoise(x, moments[-1])


@dataclass(frozen=True)
class RePaint(PosteriorSampler):
    r"""Replacement that goes back up and walks each stretch of the grid again.

    Whenever the number of steps that are left is a multiple of `jump`, noise is put back by the
    diffusion's own transition over `jump` steps, and they are taken again, `resample` times in all;
    so the missing part comes to agree with the known one. It is meant for y without noise: with
    noise, each walk takes the known part from y alone once more, and its prior counts ever less.

    Args:
        predictor: as that of `Replacement`.
        jump: steps of a stretch.
        resample: how often each stretch is walked; 1 is `Replacement`.

    Reference: Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865, algorithm 1, figure 9.
    """

    steps: int = 250
    predictor: str | Sampler = "ancestral"
    jump: int = 10
    resample: int = 10

    descends: ClassVar[bool] = False

    undifferentiable = "the known part is overwritten in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(jump=self.jump, resample=self.resample)
        _ = self._inner

    @property
    @override
    def limit(self) -> str:
        return (
            f"biased: the missing part meets {_FRESH}; less with more walks where y is precise, "
            "more where it is not, as they forget the prior of the known part"
        )

    @cached_property
    def _inner(self) -> Replacement:
        return Replacement(
            self.steps, self.grid, False, self.predictor, observation=self.observation
        )

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return replace(self._inner, denoise=self.denoise).times(sde)

    @property
    @override
    def total(self) -> int:
        count = self.steps if self.denoise else self.steps + 1
        return moves(count, self.jump, self.resample)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        yield from travel(self._inner, problem, x, self.jump, self.resample)
