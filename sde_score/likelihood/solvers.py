"""Adaptive solvers of ordinary differential equations, for states of one row per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Derivative = Callable[[Tensor, Tensor], Tensor]
"""`(time, state) -> d state / d time`, for a scalar float64 time and state `(batch, numbers)`."""

Norm = Callable[[Tensor], Tensor]
"""Size of a scaled error `(batch, numbers)`; a step is accepted if it is at most 1."""

Solver = Callable[[Derivative, Tensor, float, float, float, float, Norm], tuple[Tensor, int]]
"""`(derivative, state, start, end, rtol, atol, norm) -> (state at the end, accepted steps)`."""

# The solvers' own guess of the first step explodes where the derivative starts near zero.
_FIRST_STEP = 0.1


class _Counted:
    """A derivative that counts the steps which torchdiffeq accepts."""

    def __init__(self, derivative: Derivative) -> None:
        self.derivative = derivative
        self.steps = 0

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        return self.derivative(time, state)

    def callback_accept_step(self, *_: Tensor) -> None:
        self.steps += 1


def _dopri5(
    derivative: Derivative,
    state: Tensor,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    norm: Norm,
) -> tuple[Tensor, int]:
    from torchdiffeq import odeint

    counted = _Counted(derivative)
    times = torch.tensor([start, end], dtype=torch.float64, device=state.device)
    # Land on the end: the solver would otherwise step past it and interpolate.
    options = {"norm": norm, "step_t": times[1:], "first_step": _FIRST_STEP}
    try:
        path = odeint(counted, state, times, rtol=rtol, atol=atol, method="dopri5", options=options)
    except AssertionError as error:
        raise _failure(str(error)) from error
    return path[-1], counted.steps


def _scipy(
    derivative: Derivative,
    state: Tensor,
    start: float,
    end: float,
    rtol: float,
    atol: float,
    norm: Norm,
) -> tuple[Tensor, int]:
    from scipy.integrate import solve_ivp

    del norm  # scipy has its own: root mean square over the whole batch

    def flat(time: float, numbers: object) -> object:
        rows = torch.as_tensor(numbers).to(state).reshape(state.shape)
        now = torch.tensor(time, dtype=torch.float64, device=state.device)
        return derivative(now, rows).flatten().cpu().numpy()

    path = solve_ivp(
        flat,
        (start, end),
        state.flatten().cpu().numpy(),
        rtol=rtol,
        atol=atol,
        first_step=min(_FIRST_STEP, end - start),
    )
    if not path.success:
        raise _failure(path.message)
    return torch.as_tensor(path.y[:, -1]).to(state).reshape(state.shape), len(path.t) - 1


def _failure(reason: str) -> RuntimeError:
    return RuntimeError(
        f"the solver gave up ({reason}): is the model finite and differentiable at every x and t, "
        "and are rtol and atol above its rounding error?"
    )


SOLVERS: Mapping[str, Solver] = {"dopri5": _dopri5, "scipy": _scipy}
"""`dopri5` runs on the device of the state; `scipy` is RK45, stepped on the CPU, a reference."""
