"""Solvers of ordinary differential equations, for states of one row per example."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from sde_score.samplers.dormand_prince import (
    FIRST_STEP,
    Derivative,
    Norm,
    Solution,
    dormand_prince,
    gave_up,
    root_mean_square,
)


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
        state: as there.
        stops: as there; scipy starts afresh at each.
        rtol: as there.
        atol: as there.
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


SOLVERS: Mapping[str, Solver] = {"dopri5": dormand_prince, "scipy": scipy_rk45}
"""`dopri5` runs on the device of the state; `scipy` is a reference on the CPU."""


def rows_of(condition: Tensor | None, rows: Tensor) -> Tensor | None:
    """The condition of the examples that a solver asks for; itself if these are all."""
    return condition if condition is None or len(rows) == len(condition) else condition[rows]
