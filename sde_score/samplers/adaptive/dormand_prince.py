r"""The embedded Runge-Kutta pair of Dormand and Prince, with a clock of its own for each example.

Seven stages give a solution of order 5 and, from the same stages, one of order 4; their difference
estimates the error of the step. A step of length h is accepted where the norm of

.. math:: \frac{y_5 - y_4}{atol + rtol \max(|y|, |y_5|)}

is at most 1, and the next step follows from that norm e and the e' of the last accepted step,

.. math:: h \leftarrow h \cdot 0.9\, e^{-0.17} e'^{\,0.04}
          \quad \text{kept within } [0.2 h, 10 h].

The last stage of a step is the first of the next (FSAL), so a step costs six evaluations. The
examples of a batch move in lock-step, one attempt each per round, but each with its own time, step,
and verdict; those that have arrived leave the batch. So neither the value of an example nor its
number of evaluations depends on its neighbors, beyond the rounding of batched arithmetic.

Reference: Dormand & Prince 1980, https://doi.org/10.1016/0771-050X(80)90013-3; Hairer, Norsett &
Wanner 1993, Solving Ordinary Differential Equations I, sections II.4 and II.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

Derivative = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(time, state, rows) -> d state / d time`: times `(n,)` and states `(n, numbers)` in float64 of
the examples that are on their way, and which rows of the batch they are, increasing, `(n,)`."""

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

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
# Gustafsson's proportional-integral control, in the figures of Hairer's DOPRI5: after a step that
# was much easier than the one before, the next is trusted less.
_PROPORTIONAL, _INTEGRAL = 0.17, 0.04
# Both users' clocks are logarithms of a noise level. A guess from derivatives would cost an
# evaluation, and explodes where they start near zero.
FIRST_STEP = 0.1
_SMALLEST_SIZE = 1e-4
_SMALLEST_STEP = 1e-13  # relative; below it times stand still
_MOST_ROUNDS = 10_000


@dataclass(frozen=True, eq=False)
class Solution:
    """What a solver returns.

    Args:
        path: states at the stops, the start included, shape `(stops, batch, numbers)`.
        evaluations: of the derivative, for each example, int64 of shape `(batch,)`.
        steps: accepted, for each example, int64 of shape `(batch,)`.
    """

    path: Tensor
    evaluations: Tensor
    steps: Tensor


@dataclass(frozen=True, eq=False)
class AcceptedSteps:
    """The steps of one round that were accepted, one of each of n examples.

    Args:
        rows: the examples, increasing, shape `(n,)`.
        goal: index of the stop ahead.
        landed: whether the step ends there.
        time: at the start of the step.
        length: of the step.
        state: at its start, shape `(n, numbers)`.
    """

    rows: Tensor
    goal: Tensor
    landed: Tensor
    time: Tensor
    length: Tensor
    state: Tensor


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

    The host waits for the device once a round, to learn who has arrived.

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
    weights = torch.tensor(WEIGHTS, dtype=state.dtype, device=state.device)
    method = _Method(derivative, rtol, atol, norm, weights)
    path = torch.cat([state[None], state.new_empty(len(stops) - 1, *state.shape)])
    evaluations = torch.ones(len(state), dtype=torch.int64, device=state.device)
    steps = torch.zeros_like(evaluations)
    front = method.start(state, stops[0])
    for _ in range(_MOST_ROUNDS):
        time, before = front.time, front.state
        accepted, landed = method.attempt(front, stops[front.goal])
        if record is not None:
            steps_of_round = front.rows, front.goal, landed, time, front.time - time, before
            record(AcceptedSteps(*(part[accepted] for part in steps_of_round)))
        evaluations[front.rows] += len(NODES)
        steps[front.rows] += accepted
        stuck = front.step < _SMALLEST_STEP * (1 + front.time.abs())
        some_landed, some_stuck = torch.stack([landed, stuck]).any(1).tolist()
        if some_stuck:
            raise gave_up("a step shrank to nothing")
        if some_landed:
            path[front.goal[landed], front.rows[landed]] = front.state[landed]
            front.goal += landed
            front = front.part(front.goal < len(stops))
        if len(front.rows) == 0:
            return Solution(path, evaluations, steps)
    raise gave_up(f"not there in {_MOST_ROUNDS} attempts")


def gave_up(reason: str) -> RuntimeError:
    """The error of a solver that cannot go on."""
    return RuntimeError(
        f"the solver gave up ({reason}): is the model finite and differentiable at every x and t, "
        "and are rtol and atol above its rounding error?"
    )


@dataclass(eq=False)
class _Front:
    """The examples on their way, one row each.

    Args:
        rows: which examples of the batch they are.
        goal: index of the stop that comes next.
        time: where they are.
        state: there, shape `(n, numbers)`.
        slope: the derivative there.
        step: to try next, if the goal is not nearer.
        size: of the error of the last accepted step.
    """

    rows: Tensor
    goal: Tensor
    time: Tensor
    state: Tensor
    slope: Tensor
    step: Tensor
    size: Tensor

    def part(self, kept: Tensor) -> _Front:
        """The examples where `kept`, shape `(n,)`, is true."""
        return _Front(*(getattr(self, field.name)[kept] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class _Method:
    """What is the same for all steps of a solve."""

    derivative: Derivative
    rtol: float
    atol: float
    norm: Norm
    weights: Tensor

    def start(self, state: Tensor, time: Tensor) -> _Front:
        rows = torch.arange(len(state), device=state.device)
        times = time.repeat(len(state))
        slope = self.derivative(times, state, rows)
        first, size = torch.full_like(times, FIRST_STEP), torch.ones_like(times)
        return _Front(rows, torch.ones_like(rows), times, state, slope, first, size)

    def attempt(self, front: _Front, goals: Tensor) -> tuple[Tensor, Tensor]:
        """Move the front by one step of each example: which were accepted, and which of those
        reached their goal."""
        left = goals - front.time
        reaches = front.step >= left
        step = torch.where(reaches, left, front.step)
        state, slope, error = self._stages(front, step)
        scale = torch.maximum(front.state.abs(), state.abs()).mul_(self.rtol).add_(self.atol)
        size = self.norm(error.div_(scale)).nan_to_num(nan=torch.inf)
        accepted = size <= 1
        landed = accepted & reaches
        _plan(front, step, size, accepted, landed)
        front.time = torch.where(accepted, front.time + step, front.time)
        front.state = torch.where(accepted[:, None], state, front.state)
        front.slope = torch.where(accepted[:, None], slope, front.slope)
        return accepted, landed

    def _stages(self, front: _Front, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State and slope after a step, by the solution of order 5, and the error of order 4."""
        slopes = front.state.new_zeros(len(WEIGHTS), *front.state.shape)
        slopes[0], state = front.slope, front.state
        for stage, node in enumerate(NODES, 1):
            change = self._combine(slopes[:stage], self.weights[stage - 1, :stage])
            state = torch.addcmul(front.state, step[:, None], change)
            slopes[stage] = self.derivative(front.time + node * step, state, front.rows)
        return state, slopes[-1], step[:, None] * self._combine(slopes, self.weights[-1])

    def _combine(self, slopes: Tensor, weights: Tensor) -> Tensor:
        """The sum over stages: `(stages, n, numbers)` and `(stages,)` to `(n, numbers)`."""
        return torch.mv(slopes.flatten(1).mT, weights).view(slopes.shape[1:])


def _plan(front: _Front, step: Tensor, size: Tensor, accepted: Tensor, landed: Tensor) -> None:
    """Choose each example's next step from the error of the one just tried."""
    size = size.clamp(min=_SMALLEST_SIZE)
    factor = _SAFETY * size**-_PROPORTIONAL * front.size**_INTEGRAL
    planned = step * factor.clamp(_SHRINK, _GROW)
    # A step cut short by its goal says little: what was planned before still stands.
    front.step = torch.where(landed, torch.maximum(planned, front.step), planned)
    front.size = torch.where(accepted, size, front.size)
