r"""Adaptive steps, for each example its own: batch state, embedded pair, step-size controller.

An embedded pair carries a state over a step of length h by two solutions at once. One is kept, and
their difference, in units of the tolerance, is the error e of the step. It is accepted if e <= 1,
and the next step follows from e and from the error e' of the last accepted step,

.. math:: h \leftarrow h \cdot safety\; e^{-integral}\, e'^{\,proportional}
          \quad \text{kept within } [shrink\, h,\ grow\, h].

The examples of a batch move in lock-step, one attempt each per round, but each with its own time,
step and verdict; those that have arrived leave the batch. So neither the value of an example nor
its number of evaluations depends on its neighbors, beyond the rounding of batched arithmetic. The
host waits for the device once a round.

Reference: Hairer, Norsett & Wanner 1993, Solving Ordinary Differential Equations I, sections II.4
and IV.2 (proportional-integral control).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.errors import NumericalError

_MOST_ROUNDS = 10_000
_LARGEST_ERROR = 1e12


def gave_up(reason: str) -> NumericalError:
    """The error of a solver that cannot go on."""
    return NumericalError(
        f"the solver gave up ({reason}): is the model finite and differentiable at every x and t, "
        "and are rtol and atol above its rounding error?"
    )


@dataclass(eq=False)
class BatchState:
    """The examples that have not arrived, one row each.

    Args:
        rows: index of each example in the batch, increasing, shape `(n,)`.
        goal: index of the stop that comes next.
        time: in the clock of the pair.
        state: at that time, float64 of shape `(n, numbers)`.
        known: the pair's evaluation there.
        fresh: whether that evaluation is still to be made, shape `(n,)`.
        memory: tensors that the pair keeps of the last accepted step, one row per example.
        step: length of the next step, if the goal is not nearer.
        error: of the last accepted step, in units of the tolerance.
        older: of the accepted step before that one.
        attempts: steps that were tried.
        steps: steps that were accepted.
    """

    rows: Tensor
    goal: Tensor
    time: Tensor
    state: Tensor
    known: Tensor
    fresh: Tensor
    memory: tuple[Tensor, ...]
    step: Tensor
    error: Tensor
    older: Tensor
    attempts: Tensor
    steps: Tensor

    @classmethod
    def start(
        cls, state: Tensor, time: Tensor, memory: tuple[Tensor, ...], step: float
    ) -> BatchState:
        """All examples at their start."""
        rows = torch.arange(len(state), device=state.device)
        zero, one = torch.zeros_like(rows), torch.ones_like(time)
        unknown, fresh = torch.empty_like(state), torch.ones_like(rows, dtype=torch.bool)
        errors = one, one
        return cls(rows, zero, time, state, unknown, fresh, memory, step * one, *errors, zero, zero)

    def part(self, kept: Tensor) -> BatchState:
        """The rows that `kept` chooses, a mask or indices."""
        columns = {name: getattr(self, name)[kept] for name in _COLUMNS}
        return BatchState(memory=tuple(entry[kept] for entry in self.memory), **columns)

    @classmethod
    def join(cls, parts: Sequence[BatchState]) -> BatchState:
        """All rows of several states, in the order of the batch."""
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS}
        memory = tuple(map(torch.cat, zip(*(part.memory for part in parts), strict=True)))
        whole = cls(memory=memory, **columns)
        return whole.part(whole.rows.argsort())


_COLUMNS = tuple(field.name for field in fields(BatchState) if field.name != "memory")


@dataclass(frozen=True)
class StepSizeController:
    """The rule for the next step, as in the formula of this module.

    Args:
        safety: below 1, so that the next step is likely to be accepted.
        integral: weight of the error just seen.
        proportional: weight of the error before it.
        shrink: least factor of a step.
        grow: largest factor of a step.
        octave: number of allowed step sizes between one and twice it, 0 for any size. On a rough
            path a step that differs by the model's rounding error leads elsewhere.
        first: length of the first step.
        smallest: a step below this, times 1 + |time|, is an error.
        least_error: smaller errors count as this one.
    """

    safety: float = 0.9
    integral: float = 0.5
    proportional: float = 0.0
    shrink: float = 0.2
    grow: float = 5.0
    octave: int = 0
    first: float = 0.05
    smallest: float = 1e-7
    least_error: float = 1e-10

    def plan(self, step: Tensor, error: Tensor, before: Tensor) -> Tensor:
        """The next step after one of length `step`, shape `(n,)`.

        Args:
            step: shape `(n,)`.
            error: of that step.
            before: error of the last accepted step before it.
        """
        factor = self.safety * error.clamp(min=self.least_error) ** -self.integral
        factor = factor * before.clamp(min=self.least_error) ** self.proportional
        planned = step * factor.clamp(self.shrink, self.grow)
        if not self.octave:
            return planned
        return torch.exp2((planned.log2() * self.octave).round() / self.octave)

    def judge(self, step: Tensor, error: Tensor, batch: BatchState) -> tuple[Tensor, Tensor]:
        """Whether each step is accepted, and the next step; keeps the errors that it needs.

        Args:
            step: that was tried, shape `(n,)`.
            error: of it, shape `(n,)`.
            batch: before the step; `error` and `older` are brought up to date.
        """
        accepted, planned = error <= 1, self.plan(step, error, batch.error)
        batch.error = torch.where(accepted, error, batch.error)
        return accepted, planned


@dataclass(frozen=True)
class PIDController(StepSizeController):
    r"""Proportional-integral-derivative control, with the verdict read off the next step.

    With the errors e, e', e'' of this step and of the last two accepted ones (all e at the first),

    .. math:: f = L\big(e^{-(p + i + d) / k}\, e'^{\,(p + 2 d) / k}\, e''^{-d / k}\big), \qquad
              L(x) = 1 + \arctan(x - 1), \qquad h \leftarrow f h,

    and the step is accepted if f is at least `accept_safety`: L(x) for x = e^(-1/k), whose default
    0.81 admits an error of 1.5 with order 2 and of 1.9 with order 3.

    Args:
        order: k, of the error in the step size.
        pcoeff: p.
        icoeff: i; p + i + d must be positive.
        dcoeff: d.
        accept_safety: least factor of an accepted step, below 1.

    Reference: Soderlind 2003, https://doi.org/10.1145/641876.641877, of digital filters; the
    defaults are those of `sample_dpm_adaptive` of k-diffusion,
    https://github.com/crowsonkb/k-diffusion.
    """

    order: int = 3
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    accept_safety: float = 0.81
    least_error: float = 1e-8

    @override
    def judge(self, step: Tensor, error: Tensor, batch: BatchState) -> tuple[Tensor, Tensor]:
        error = (error + self.least_error).clamp(max=_LARGEST_ERROR)
        last, older = (
            torch.where(batch.attempts > 0, e, error) for e in (batch.error, batch.older)
        )
        p, i, d = (c / self.order for c in (self.pcoeff, self.icoeff, self.dcoeff))
        factor = error ** -(p + i + d) * last ** (p + 2 * d) * older**-d
        factor = 1 + torch.atan(factor - 1)
        accepted = factor >= self.accept_safety
        batch.error = torch.where(accepted, error, last)
        batch.older = torch.where(accepted, last, older)
        return accepted, factor * step


@dataclass(frozen=True, eq=False)
class Attempt:
    """One step by an embedded pair.

    Args:
        state: the solution that is kept, in the shape of the states.
        error: its difference from the other solution.
        memory: for the next step, if this one is accepted.
        known: the pair's evaluation at `state`, where the step has made it already.
    """

    state: Tensor
    error: Tensor
    memory: tuple[Tensor, ...] = ()
    known: Tensor | None = None


@dataclass(frozen=True, eq=False)
class AcceptedSteps:
    """The steps of one round that were accepted, one of each of n examples.

    Args:
        rows: the examples, increasing, shape `(n,)`.
        goal: index of the next stop, the start being 0.
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


class EmbeddedPair(ABC):
    """A method of two solutions, for one run."""

    @abstractmethod
    def evaluate(self, state: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        """The evaluation with which a step begins, in the shape of the states."""

    @abstractmethod
    def attempt(self, batch: BatchState, step: Tensor) -> Attempt:
        """One step of each example, of the lengths `step`."""

    @abstractmethod
    def size(self, batch: BatchState, tried: Attempt) -> Tensor:
        """The error of each example in units of its tolerance, shape `(n,)`."""


def integrate(
    pair: EmbeddedPair,
    controller: StepSizeController,
    batch: BatchState,
    stops: Tensor,
    record: Callable[[AcceptedSteps], object] | None = None,
) -> tuple[Tensor, BatchState]:
    """Carry each example through the stops, with steps that land on them.

    Args:
        pair: the method.
        controller: of the step sizes.
        batch: all examples at their start; step, error and memory go on from it.
        stops: times after the start, increasing, float64 of shape `(stops,)`.
        record: called after each round with the steps that it accepted.

    Returns:
        states at the stops, `(stops, batch, numbers)`, and the batch at the last one.

    Raises:
        RuntimeError: if an example's step shrinks to nothing, as it does where the model is not
            finite, or if one does not arrive in 10 000 attempts.
    """
    batch.goal, batch.fresh = torch.zeros_like(batch.goal), torch.ones_like(batch.fresh)
    path = batch.state.new_empty(len(stops), *batch.state.shape)
    arrived, fresh = list[BatchState](), len(batch.rows)
    for _ in range(_MOST_ROUNDS):
        _refresh(pair, batch, fresh)
        time, before = batch.time, batch.state
        accepted, landed = _advance(pair, controller, batch, stops[batch.goal])
        if record is not None and bool(accepted.any()):
            steps = batch.rows, batch.goal + 1, landed, time, batch.time - time, before
            record(AcceptedSteps(*(column[accepted] for column in steps)))
        finished = landed & (batch.goal == len(stops) - 1)
        # Neither is a step that is no number above any bound.
        stuck = ~(batch.step >= controller.smallest * (1 + batch.time.abs())) & ~landed
        counts = torch.stack([landed, finished, stuck, batch.fresh & ~finished]).sum(1).tolist()
        some_landed, some_finished, some_stuck, fresh = counts
        if some_stuck:
            raise gave_up("a step shrank to nothing")
        if some_landed:
            path[batch.goal[landed], batch.rows[landed]] = batch.state[landed]
            batch.goal = batch.goal + landed
        if some_finished:
            arrived.append(batch.part(finished))
            batch = batch.part(~finished)
        if len(batch.rows) == 0:
            return path, BatchState.join(arrived)
    raise gave_up(f"not there in {_MOST_ROUNDS} attempts")


def _refresh(pair: EmbeddedPair, batch: BatchState, count: int) -> None:
    """Make the evaluations at the states that are new, of which there are `count`."""
    if count == len(batch.rows):
        batch.known = pair.evaluate(batch.state, batch.time, batch.rows)
    elif count:
        new = batch.fresh
        batch.known[new] = pair.evaluate(batch.state[new], batch.time[new], batch.rows[new])


def _advance(
    pair: EmbeddedPair, controller: StepSizeController, batch: BatchState, goals: Tensor
) -> tuple[Tensor, Tensor]:
    """Try one step of each example; returns which were accepted, and which of them have reached
    their goals, shape `(n,)`."""
    left = goals - batch.time
    reaches = batch.step >= left
    step = torch.where(reaches, left, batch.step)
    tried = pair.attempt(batch, step)
    error = pair.size(batch, tried).nan_to_num(nan=torch.inf)
    accepted, planned = controller.judge(step, error, batch)
    landed = accepted & reaches
    # A step cut short by its goal tells little: the plan before it still stands.
    batch.step = torch.where(landed, torch.maximum(planned, batch.step), planned)
    batch.time = torch.where(accepted, batch.time + step, batch.time)
    moved = accepted[:, None]
    batch.state = torch.where(moved, tried.state, batch.state)
    pairs = zip(tried.memory, batch.memory, strict=True)
    batch.memory = tuple(torch.where(moved, new, old) for new, old in pairs)
    batch.fresh = accepted if tried.known is None else torch.zeros_like(accepted)
    if tried.known is not None:
        batch.known = torch.where(moved, tried.known, batch.known)
    batch.attempts = batch.attempts + 1
    batch.steps = batch.steps + accepted
    return accepted, landed
