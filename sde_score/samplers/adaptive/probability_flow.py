"""The probability-flow ODE by a general adaptive solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score.samplers.adaptive.ode_gradients import GRADIENT_SOLVERS, leaves_of
from sde_score.samplers.adaptive.ode_solvers import SOLVERS, asked_of
from sde_score.samplers.base import Sampler
from sde_score.samplers.problem import Iteration, Problem


@dataclass(frozen=True)
class ProbabilityFlowODE(Sampler):
    r"""Adaptive steps to a tolerance; the number of evaluations follows from it.

    The ODE dx/dt = velocity(x, t) is integrated over the log signal-to-noise ratio, in which the
    flow changes at an even pace and fewer steps meet a tolerance than over t:

    .. math:: \frac{dx}{d\lambda} = - \frac{\sigma^2}{g^2}\, velocity(x, t(\lambda))

    Each sample has its own steps, so with `dopri5` it does not depend on its neighbors. The
    arithmetic is float64 around the model.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the data.
        solver: `"dopri5"` is our own, with steps of each sample's own; `"torchdiffeq"` is the same
            method of that package on the device, and `"scipy"` is RK45 stepped on the CPU, both
            with steps that the batch shares.
        steps: points of the path that are reported, ends and denoised result included; the solver
            lands on each, so a point in the middle may cost a step.
        grid: where they lie; its end is where the integration stops.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.
    """

    steps: int = 2
    rtol: float = 1e-5
    atol: float = 1e-5
    solver: str = "dopri5"

    adaptive = True
    convergence_order = 5
    stochastic = False
    total = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(1 + self.denoise, steps=self.steps)
        require_positive(rtol=self.rtol, atol=self.atol)
        require_choice("solver", self.solver, tuple(SOLVERS))

    @property
    @override
    def undifferentiable(self) -> str:
        known = ", ".join(map(repr, GRADIENT_SOLVERS))
        return "" if self.solver in GRADIENT_SOLVERS else f"solver must be one of {known}"

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde = problem.sde

        def slope(log_snr: Tensor, state: Tensor, rows: Tensor) -> Tensor:
            t = sde.time_of_log_snr(log_snr)
            problem.tick()
            here = state.reshape(-1, *x.shape[1:]).to(x.dtype)
            velocity = problem.model.velocity(here, t, asked_of(problem.condition, rows))
            velocity = velocity.double().reshape(state.shape)
            return velocity * -((sde.sigma(t) / sde.diffusion(t)) ** 2)[:, None]

        start = x.double().reshape(len(x), -1)
        stops = sde.log_snr(problem.times).to(x.device)
        tolerance: Any = {"rtol": self.rtol, "atol": self.atol}
        if torch.is_grad_enabled():
            first = slope(stops[:1].expand(len(x)), start, torch.arange(len(x), device=x.device))
            leaves, solver = leaves_of(first, problem.model), GRADIENT_SOLVERS[self.solver]
            path = solver(slope, start, stops, leaves, **tolerance).path
        else:
            path = SOLVERS[self.solver](slope, start, stops, **tolerance).path
        states = path[1:].reshape(-1, *x.shape).to(x.dtype)
        yield from zip(problem.times[1:].tolist(), states, strict=True)
