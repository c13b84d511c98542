"""Inpainting and colorization by predictor-corrector, as published."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score.posterior.samplers.base import PosteriorSampler
from sde_score.posterior.samplers.known import KnownPart
from sde_score.samplers import CORRECTORS, Langevin, ReverseDiffusion
from sde_score.samplers.fixed_step.linear import weighted_sum_
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE


@dataclass(frozen=True)
class PublishedInpainting(PosteriorSampler):
    """Predictor-corrector inpainting and colorization as the paper's code has it.

    Two of its steps are at fault, and `pc-inpaint` mends both: the known part is noised at t where
    the predictor has reached the next time already, and the last mean is that of the known part
    alone, so that what was painted keeps the noise of the last step with `denoise` as well. The
    noise of y counts as none. Colorization is the same with `Gray` as the operator.

    The last step goes to `t_min` of the SDE. The start is the prior's; theirs holds y unscaled in
    the known part.

    Args:
        corrector: a name from `samplers.CORRECTORS`, or an object; theirs has `rule="batch"`.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix I.2 and its code.
    """

    corrector: str | Langevin = "langevin"

    ends_at_data: ClassVar[bool] = True

    undifferentiable = "Langevin steps change the state in place"

    def __post_init__(self) -> None:
        super().__post_init__()
        CORRECTORS.resolve(self.corrector, name="corrector")

    @property
    @override
    def limit(self) -> str:
        return (
            "biased: as pc-inpaint, and what was painted keeps the noise of the last step; the "
            "noise of y counts as none"
        )

    @cached_property
    def _known(self) -> KnownPart:
        return KnownPart(self.measurement)

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times at which the model is evaluated, decreasing, float64."""
        return self.time_grid.times(sde, self.steps)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde, part = problem.sde, self._known
        end = torch.tensor([sde.t_min], dtype=torch.float64)
        rows = ReverseDiffusion().rows(sde, torch.cat([problem.times, end]))
        corrector = CORRECTORS.resolve(self.corrector)
        factors = corrector.factors(sde, problem.times)
        alphas, sigmas = sde.alpha(problem.times).tolist(), sde.sigma(problem.times).to(x.device)
        part.operator(x)  # refuses states of another shape
        for k, (t, (a, b, c)) in enumerate(zip(problem.moments(x.device), rows, strict=True)):
            x = corrector.correct(problem, x, t, factors[k])
            x = part.overwrite(x, alphas[k], sigmas[k], problem.noise())
            x = weighted_sum_(x, a, (problem.score(x, t), b), (problem.noise(), c))
            x = part.overwrite(x, alphas[k], sigmas[k], problem.noise())
            if k == self.steps - 1 and self.denoise:
                x = part.overwrite(x, alphas[k], 0 * sigmas[k], torch.zeros_like(x))
            yield [*problem.times[1:].tolist(), 0.0][k], x
