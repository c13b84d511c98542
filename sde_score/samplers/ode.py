"""The probability-flow ODE by a general adaptive solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._checks import require_choice, require_positive
from sde_score.samplers.base import March, Problem, Sampler

SOLVERS = ("dopri5", "scipy")


@dataclass(frozen=True)
class ProbabilityFlowODE(Sampler):
    r"""Adaptive steps to a tolerance; the number of evaluations follows from it.

    The ODE dx/dt = velocity(x, t) is integrated over the log signal-to-noise ratio, in which the
    flow changes at an even pace and fewer steps meet a tolerance than over t:

    .. math:: \frac{dx}{d\lambda} = - \frac{\sigma^2}{g^2}\, velocity(x, t(\lambda))

    The steps are shared by the batch, so a sample depends on its neighbors within the tolerance.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the data.
        solver: `"dopri5"` runs on the device (torchdiffeq); `"scipy"` is RK45 on the CPU in
            float64.
        steps: points of the path that are reported, ends and denoised result included; they do not
            change the evaluations.
        grid: where they lie; its end is where the integration stops.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.
    """

    steps: int = 2
    rtol: float = 1e-5
    atol: float = 1e-5
    solver: str = "dopri5"

    order = 5
    evaluations = "adaptive"
    reference = "Song et al. 2021, https://arxiv.org/abs/2011.13456, section 4.3"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rtol=self.rtol, atol=self.atol)
        require_choice("solver", self.solver, SOLVERS)

    @property
    @override
    def stochastic(self) -> bool:
        return False

    @property
    @override
    def total(self) -> int | None:
        return None

    @override
    def march(self, problem: Problem, x: Tensor) -> March:
        sde = problem.sde
        stops = sde.log_snr(problem.times).to(x.device)

        def slope(log_snr: Tensor, state: Tensor) -> Tensor:
            t = sde.time_of_log_snr(log_snr.double())
            pace = -((sde.sigma(t) / sde.diffusion(t)) ** 2)
            problem.tick()
            return problem.velocity(state, t) * pace.to(state.dtype)

        solve = _torchdiffeq if self.solver == "dopri5" else _scipy
        path = solve(slope, x, stops, self.rtol, self.atol)
        yield from zip(problem.times[1:].tolist(), path[1:], strict=True)


Slope = Callable[[Tensor, Tensor], Tensor]


def _torchdiffeq(slope: Slope, x: Tensor, stops: Tensor, rtol: float, atol: float) -> Tensor:
    from torchdiffeq import odeint

    path: Tensor = odeint(slope, x, stops, rtol=rtol, atol=atol, method="dopri5")
    return path


def _scipy(slope: Slope, x: Tensor, stops: Tensor, rtol: float, atol: float) -> Tensor:
    from scipy.integrate import solve_ivp

    def flat_slope(log_snr: float, state: object) -> object:
        point = torch.as_tensor(state, dtype=torch.float64).reshape(x.shape).to(x)
        time = torch.tensor(log_snr, dtype=torch.float64, device=x.device)
        return slope(time, point).double().flatten().cpu().numpy()

    start = x.double().flatten().cpu().numpy()
    at = stops.tolist()
    span = (at[0], at[-1])
    solution = solve_ivp(flat_slope, span, start, method="RK45", t_eval=at, rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the ODE solver stopped: {solution.message}")
    return torch.as_tensor(solution.y.T).reshape(-1, *x.shape).to(x)
