"""Solvers of ordinary differential equations, for states of one row per example."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, mapped
from sde_score.samplers.adaptive.dormand_prince import (
    FIRST_STEP,
    Derivative,
    Norm,
    Solution,
    dormand_prince,
    root_mean_square,
)
from sde_score.samplers.adaptive.engine import gave_up


class Solver(Protocol):
    """Carries states from the first stop through all others, as `dormand_prince` does."""

    def __call__(
        self,
        derivative: Derivative,
        state: Tensor,
        stops: Tensor,
        *,
        rtol: float,
        atol: float,
        norm: Norm = ...,
    ) -> Solution:
        """See `dormand_prince`."""
        ...


def scipy_rk45(
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
) -> Solution:
    """RK45 of scipy, stepped on the CPU, as an independent reference.

    It has its own norm, the root mean square over the whole batch, whose examples share all steps.

    Args:
        derivative: as for `dormand_prince`.
        state: at the first stop, float64 of shape `(batch, numbers)`.
        stops: increasing times; scipy starts afresh at each.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        norm: not used.

    Returns:
        A `Solution`, whose counts are the same for all examples.

    Raises:
        RuntimeError: if scipy gives up.
    """
    from scipy.integrate import solve_ivp

    del norm
    rows = torch.arange(len(state), device=state.device)

    def restore(numbers: object) -> Tensor:
        return torch.as_tensor(numbers).to(state).reshape(state.shape)

    def flat(time: float, numbers: object) -> object:
        times = torch.full((len(state),), time, dtype=state.dtype, device=state.device)
        return derivative(times, restore(numbers), rows).flatten().cpu().numpy()

    path, steps, evaluations = [state], 0, 0
    for begin, end in pairwise(stops.tolist()):
        found = solve_ivp(
            flat,
            (begin, end),
            path[-1].flatten().cpu().numpy(),
            rtol=rtol,
            atol=atol,
            first_step=min(FIRST_STEP, end - begin),
        )
        if not found.success:
            raise gave_up(found.message)
        path.append(restore(found.y[:, -1]))
        steps, evaluations = steps + len(found.t) - 1, evaluations + found.nfev
    counts = torch.tensor([[evaluations], [steps]], device=state.device).expand(2, len(state))
    return Solution(torch.stack(path), *counts.unbind())


def torchdiffeq_dopri5(
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
    leaves: tuple[Tensor, ...] | None = None,
) -> Solution:
    """The pair of Dormand and Prince by torchdiffeq, on the device of the state.

    It has its own norm, the root mean square over the whole batch, whose examples share all steps.

    Args:
        derivative: as for `dormand_prince`.
        state: at the first stop, float64 of shape `(batch, numbers)`.
        stops: increasing times; torchdiffeq steps onto each.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        norm: not used.
        leaves: tensors that the derivative depends on; the path then carries a graph to them and to
            the state, by the adjoint. None for no graph to them.

    Returns:
        A `Solution`, whose counts are the same for all examples.

    Raises:
        RuntimeError: if torchdiffeq gives up.
    """
    from torchdiffeq import odeint, odeint_adjoint

    del norm
    counted = _Counted(derivative, len(state), state.device)
    stops = stops.to(state)
    given = {"rtol": rtol, "atol": atol, "method": "dopri5"}
    given["options"] = {"step_t": stops, "first_step": FIRST_STEP}
    try:
        if leaves is None:
            path = odeint(counted, state, stops, **given)
        else:
            path = odeint_adjoint(counted, state, stops, **given, adjoint_params=leaves)
    except AssertionError as error:  # raised where a step shrinks to nothing
        raise gave_up(str(error)) from error
    counts = torch.tensor([[counted.evaluations], [counted.steps]], device=state.device)
    return Solution(path, *counts.expand(2, len(state)).unbind())


class _Counted:
    """A derivative at a time that the batch shares, the form that torchdiffeq takes."""

    def __init__(self, derivative: Derivative, batch: int, device: torch.device) -> None:
        self.derivative, self.evaluations, self.steps = derivative, 0, 0
        self.rows = torch.arange(batch, device=device)

    def __call__(self, time: Tensor, state: Tensor) -> Tensor:
        self.evaluations += 1
        return self.derivative(time.to(state).expand(len(state)), state, self.rows)

    def callback_accept_step(self, time: Tensor, state: Tensor, step: Tensor) -> None:
        """Called by torchdiffeq after each accepted step."""
        self.steps += 1


SOLVERS: Mapping[str, Solver] = {
    "dopri5": dormand_prince,
    "torchdiffeq": torchdiffeq_dopri5,
    "scipy": scipy_rk45,
}
"""`dopri5` and `torchdiffeq` run on the device of the state; `scipy` is a reference on the CPU."""


def asked_of(condition: Condition, rows: Tensor) -> Condition:
    """The condition of the examples that a solver asks for; itself if these are all."""
    return mapped(condition, lambda value: value if len(rows) == len(value) else value[rows])
