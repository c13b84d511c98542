r"""Samplers with steps of their own for each example, in unit-variance coordinates.

Steps are taken in lambda = log(alpha / sigma) on the states

.. math:: u = x / \sqrt{\alpha^2 + \sigma^2},

in which all SDEs are one, so that steps and samples do not depend on which of them the model was
trained with. The error of a step is the root mean square over the entries of

.. math:: \frac{u_{high} - u_{low}}{\max(atol,\ rtol |u_{low}|,\ rtol |u_{before}|)}

with u_before the lower solution of the last accepted step.

Reference: Jolicoeur-Martineau et al. 2021, https://arxiv.org/abs/2105.14080; Lu et al. 2022,
https://arxiv.org/abs/2206.00927, appendix on the adaptive step size.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_positive
from sde_score.samplers.adaptive.engine import (
    Attempt,
    BatchState,
    EmbeddedPair,
    StepSizeController,
    integrate,
)
from sde_score.samplers.adaptive.ode_solvers import asked_of
from sde_score.samplers.base import Sampler
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes.clocks import LOG_SNR


@dataclass(frozen=True, eq=False)
class UnitVariancePair(EmbeddedPair):
    """A pair over lambda whose first memory is the lower solution of the last accepted step.

    Args:
        problem: the model, its condition and the progress bar.
        shape: `(batch, *event)`.
        dtype: in which the model sees its states.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step.
        kind: method of the model that is evaluated, `"denoise"` or `"noise"`.
        together: give all examples the error of the worst.
    """

    problem: Problem
    shape: torch.Size
    dtype: torch.dtype
    rtol: float
    atol: float
    kind: str = "denoise"
    together: bool = False

    def memory(self, state: Tensor, level: Tensor) -> tuple[Tensor, ...]:
        """The memory of the first step."""
        return (state,)

    @override
    def evaluate(self, state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        """The model's prediction, float64, in the shape of the states."""
        sde = self.problem.sde
        t = LOG_SNR.time(sde, time)
        x = (state * torch.hypot(sde.alpha(t), sde.sigma(t))[:, None]).to(self.dtype)
        predict = getattr(self.problem.model, self.kind)
        self.problem.tick()
        condition = asked_of(self.problem.condition, rows)
        found: Tensor = predict(x.view(-1, *self.shape[1:]), t, condition)
        return found.double().view(state.shape)

    @override
    def size(self, batch: BatchState, tried: Attempt) -> Tensor:
        largest = torch.maximum(tried.memory[0].abs(), batch.memory[0].abs())
        error = tried.error / largest.mul_(self.rtol).clamp_(min=self.atol)
        size = error.square().mean(1).sqrt()
        return size.amax().expand_as(size) if self.together else size


def scales(level: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma in unit-variance coordinates, in the shape of lambda."""
    return torch.sigmoid(2 * level).sqrt(), torch.sigmoid(-2 * level).sqrt()


@dataclass(frozen=True)
class AdaptiveSampler(Sampler):
    """A sampler whose examples each take the steps that a tolerance asks for.

    Args:
        steps: states that are reported, the ends and the denoised result included; the steps of all
            examples land on each, so one in the middle may cost a step.
        grid: where they lie; its end is where the steps stop.
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of data of unit variance.
    """

    steps: int = 2
    rtol: float = 0.05
    atol: float = 0.0078

    adaptive = True
    undifferentiable = "steps are accepted or rejected by their error"
    total = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rtol=self.rtol, atol=self.atol)

    @property
    @abstractmethod
    def controller(self) -> StepSizeController:
        """The rule for the next step."""

    @abstractmethod
    def pair(self, problem: Problem, x: Tensor) -> UnitVariancePair:
        """The method, for one run from x."""

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde, times = problem.sde, problem.times
        levels = LOG_SNR.at(sde, times).to(x.device)
        scale = torch.hypot(sde.alpha(times), sde.sigma(times)).tolist()
        pair, first = self.pair(problem, x), levels[0].repeat(len(x))
        state = x.double().flatten(1) / scale[0]
        batch = BatchState.start(state, first, pair.memory(state, first), self.controller.first)
        for k, time in enumerate(times.tolist()[1:], 1):
            _, batch = integrate(pair, self.controller, batch, levels[k : k + 1])
            x = (batch.state * scale[k]).to(x.dtype).view(x.shape)
            yield time, x
            batch.state = x.double().flatten(1) / scale[k]
            batch.time = levels[k].repeat(len(x))
