"""Predictor-corrector sampling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from sde_score._core.registry import Registry
from sde_score.samplers.base import Sampler
from sde_score.samplers.langevin.corrector import CORRECTORS, Langevin
from sde_score.samplers.problem import Iteration, Problem

PREDICTORS: Registry[Sampler] = Registry("predictor", base=Sampler)
"""Samplers whose steps go with a corrector, by name; filled from `published.METHODS`."""


@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """At each time first the corrector, then the predictor's step to the next time.

    Any predictor goes with any corrector on any SDE. One step costs what the predictor's does and
    one evaluation per corrector step.

    Args:
        predictor: a name from `PREDICTORS`, such as `"ancestral"` or `"ddim(eta=0.5)"`, or a
            sampler whose steps are these; its own steps, grid and denoising are not used.
        corrector: a name from `CORRECTORS`, such as `"langevin(snr=0.1, steps=2)"`, or an object.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, algorithm 1.
    """

    predictor: str | Sampler = "reverse-diffusion"
    corrector: str | Langevin = "langevin"

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "Langevin steps change the state in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._predictor, CORRECTORS.resolve(self.corrector, name="corrector")

    @property
    def _predictor(self) -> Sampler:
        return PREDICTORS.resolve(self.predictor, name="predictor")

    @property
    @override
    def adaptive(self) -> bool:
        return self._predictor.adaptive

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        given, corrector = self._predictor, CORRECTORS.resolve(self.corrector)
        predictor = replace(given, steps=self.steps, grid=self.grid, denoise=self.denoise)
        moments = problem.moments(x.device)
        factors = corrector.factors(problem.sde, problem.times)
        x = corrector.correct(problem, x, moments[0], factors[0])
        for k, (time, state) in enumerate(predictor.iterate(problem, x), 1):
            x = state
            if k < len(moments):  # else the data are reached
                corrector.correct(problem, x, moments[k], factors[k])
            yield time, x
        if self.denoise and not predictor.ends_at_data:
            yield 0.0, problem.denoise(x, moments[-1])
