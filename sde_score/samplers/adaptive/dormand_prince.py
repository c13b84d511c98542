r"""The embedded Runge-Kutta pair of Dormand and Prince, with step sizes chosen per example.

Seven stages give a solution of order 5 and, from the same stages, one of order 4; their difference
estimates the error of the step. It is measured by a norm e of

.. math:: \frac{y_5 - y_4}{atol + rtol \max(|y|, |y_5|)}

and the next step follows from that e and the e' of the last accepted step,

.. math:: h \leftarrow h \cdot 0.9\, e^{-0.17} e'^{\,0.04}
          \quad \text{kept within } [0.2 h, 10 h].

The last stage of a step is the first of the next (FSAL), so a step costs six evaluations.

Reference: Dormand & Prince 1980, https://doi.org/10.1016/0771-050X(80)90013-3; Hairer, Norsett &
Wanner 1993, Solving Ordinary Differential Equations I, sections II.4 and II.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score.samplers.adaptive.engine import (
    AcceptedSteps,
    Attempt,
    BatchState,
    EmbeddedPair,
    StepSizeController,
    integrate,
)

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(time, state, rows) -> d state / d time`: times `(n,)` and states `(n, numbers)` in float64 of
the examples that have not arrived, and their rows in the batch, increasing, `(n,)`."""

Norm = Callable[[Tensor], Tensor]
"""Size of each example's scaled error: `(n, numbers)` to `(n,)`."""

NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
WEIGHTS = (
    (1 / 5, 0, 0, 0, 0, 0, 0),
    (3 / 40, 9 / 40, 0, 0, 0, 0, 0),
    (44 / 45, -56 / 15, 32 / 9, 0, 0, 0, 0),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0, 0),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0, 0),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0),  # the solution of order 5
    (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),  # less order 4
)

# The logarithms of noise levels, in which all users integrate, suit a first step of this length. A
# guess from derivatives would cost an evaluation, and explodes where the solution starts near zero.
FIRST_STEP = 0.1

# Gustafsson's proportional-integral control, in the figures of Hairer's DOPRI5: after a step that
# was much easier than the one before, the next is trusted less.
CONTROLLER = StepSizeController(
    integral=0.17, proportional=0.04, grow=10.0, first=FIRST_STEP, smallest=1e-13, least_error=1e-4
)


@dataclass(frozen=True, eq=False)
class Solution:
    """The result of a solver.

    Args:
        path: states at the stops, the start included, shape `(stops, batch, numbers)`.
        evaluations: of the derivative, for each example, int64 of shape `(batch,)`.
        steps: accepted, for each example, int64 of shape `(batch,)`.
    """

    path: Tensor
    evaluations: Tensor
    steps: Tensor


def root_mean_square(error: Tensor) -> Tensor:
    """The norm of each row, `(n, numbers)` to `(n,)`."""
    return error.square().mean(1).sqrt()


def dormand_prince(
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    *,
    rtol: float,
    atol: float,
    norm: Norm = root_mean_square,
    record: Callable[[AcceptedSteps], object] | None = None,
) -> Solution:
    """Carry each example through the stops, with steps that land on them.

    Args:
        derivative: right-hand side of the equation, example by example.
        state: at the first stop, float64 of shape `(batch, numbers)`.
        stops: increasing times, float64 of shape `(stops,)`, two or more.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        norm: size of the scaled error of each example.
        record: called after each round with the steps that it accepted.

    Returns:
        A `Solution`.

    Raises:
        RuntimeError: if an example's step shrinks to nothing, as it does where the derivative is
            not finite, or if one does not arrive in 10 000 attempts.
    """
    stops = stops.to(state)
    pair = _DormandPrince(derivative, rtol, atol, norm, state.new_tensor(WEIGHTS))
    start = BatchState.start(state, stops[0].repeat(len(state)), (), FIRST_STEP)
    path, end = integrate(pair, CONTROLLER, start, stops[1:], record)
    return Solution(torch.cat([state[None], path]), 1 + len(NODES) * end.attempts, end.steps)


@dataclass(frozen=True, eq=False)
class _DormandPrince(EmbeddedPair):
    """The pair for one right-hand side; its evaluation is the derivative."""

    derivative: Derivative
    rtol: float
    atol: float
    norm: Norm
    weights: Tensor

    @override
    def evaluate(self, state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        return self.derivative(time, state, rows)

    @override
    def attempt(self, batch: BatchState, step: Tensor) -> Attempt:
        slopes = batch.state.new_zeros(len(WEIGHTS), *batch.state.shape)
        slopes[0], state = batch.known, batch.state
        for stage, node in enumerate(NODES, 1):
            change = self._combine(slopes[:stage], self.weights[stage - 1, :stage])
            state = torch.addcmul(batch.state, step[:, None], change)
            slopes[stage] = self.derivative(batch.time + node * step, state, batch.rows)
        error = step[:, None] * self._combine(slopes, self.weights[-1])
        return Attempt(state, error, known=slopes[-1])

    @override
    def size(self, batch: BatchState, tried: Attempt) -> Tensor:
        scale = torch.maximum(batch.state.abs(), tried.state.abs())
        return self.norm(tried.error.div_(scale.mul_(self.rtol).add_(self.atol)))

    def _combine(self, slopes: Tensor, weights: Tensor) -> Tensor:
        """The sum over stages: `(stages, n, numbers)` and `(stages,)` to `(n, numbers)`."""
        return torch.mv(slopes.flatten(1).mT, weights).view(slopes.shape[1:])
