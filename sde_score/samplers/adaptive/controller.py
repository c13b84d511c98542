r"""What methods with steps of their own for each example share: tolerance, verdict, next step.

A method carries states from one level of lambda = log(alpha / sigma) to the next by two solutions
at once, of which the better is kept and the difference measures the error. States are those of
unit-variance coordinates,

.. math:: u = x / \sqrt{\alpha^2 + \sigma^2},

in which all SDEs are one, so that steps and samples do not depend on which of them the model was
trained with. A step is accepted where the root mean square over the entries of

.. math:: \frac{u_{high} - u_{low}}{\max(atol,\ rtol |u_{low}|,\ rtol |u_{before}|)}

is at most 1, with u_before the lower solution of the last accepted step. The examples move in
lock-step, one attempt each per round; those that have arrived leave the batch.

Reference: Jolicoeur-Martineau et al. 2021, https://arxiv.org/abs/2105.14080; Lu et al. 2022,
https://arxiv.org/abs/2206.00927, appendix on the adaptive step size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_positive
from sde_score.samplers.adaptive.dormand_prince import gave_up
from sde_score.samplers.adaptive.ode_solvers import rows_of
from sde_score.samplers.base import Iteration, Problem, Sampler
from sde_score.sdes.clocks import LOG_SNR

FIRST_STEP = 0.05
_SMALLEST_STEP = 1e-7
_SMALLEST_SIZE = 1e-10
_MOST_ROUNDS = 10_000


@dataclass(eq=False)
class Front:
    """The examples on their way, one row each.

    Args:
        rows: which examples of the batch they are, shape `(n,)`.
        level: lambda where they are, shape `(n,)`.
        state: there, in unit-variance coordinates, float64 of shape `(n, numbers)`.
        known: the model's prediction there.
        fresh: whether that has yet to be made, shape `(n,)`.
        before: the lower solution of the last accepted step.
        memory: what the method keeps of the last accepted step, `(n, any)`.
        step: to try next, if the goal is not nearer.
        size: of the error of the last accepted step.
    """

    rows: Tensor
    level: Tensor
    state: Tensor
    known: Tensor
    fresh: Tensor
    before: Tensor
    memory: Tensor
    step: Tensor
    size: Tensor

    def part(self, kept: Tensor) -> Front:
        """The rows that `kept` chooses, a mask or indices."""
        return Front(*(getattr(self, field.name)[kept] for field in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[Front]) -> Front:
        """All rows of several fronts, in the order of the batch."""
        names = [field.name for field in fields(cls)]
        whole = cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
        return whole.part(whole.rows.argsort())


@dataclass(frozen=True)
class Control:
    r"""The rule for the next step, h times safety e^-integral e'^proportional within bounds, for
    an error of size e after one of size e'.

    Args:
        safety: below 1, so that the next step is likely to be accepted.
        integral: weight of the error just seen.
        proportional: weight of the error before it.
        shrink: least factor of a step.
        grow: largest factor of a step.
        octave: how many sizes a step may have between one and twice it, 0 for any. On a rough path
            a step that differs by the model's rounding error leads elsewhere.
    """

    safety: float = 0.9
    integral: float = 0.5
    proportional: float = 0.0
    shrink: float = 0.2
    grow: float = 5.0
    octave: int = 0

    def plan(self, front: Front, step: Tensor, size: Tensor) -> Tensor:
        """The steps to try next after `step` had an error of `size`; shape `(n,)`."""
        factor = self.safety * size.clamp(min=_SMALLEST_SIZE) ** -self.integral
        factor = factor * front.size.clamp(min=_SMALLEST_SIZE) ** self.proportional
        planned = step * factor.clamp(self.shrink, self.grow)
        if not self.octave:
            return planned
        return torch.exp2((planned.log2() * self.octave).round() / self.octave)


@dataclass(frozen=True, eq=False)
class Attempt:
    """Two solutions after one step.

    Args:
        high: the one that is kept, in the shape of the states.
        low: the one it is compared with.
        memory: for the next step, if this one is accepted.
    """

    high: Tensor
    low: Tensor
    memory: Tensor


@dataclass(frozen=True, eq=False)
class Pair(ABC):
    """A method of two solutions, for one run.

    Args:
        problem: the model, its condition and the progress bar.
        shape: `(batch, *event)`.
        dtype: in which the model sees its states.
    """

    problem: Problem
    shape: torch.Size
    dtype: torch.dtype

    @property
    def kind(self) -> str:
        """Which prediction of the model the method takes, `"denoise"` or `"noise"`."""
        return "denoise"

    @abstractmethod
    def attempt(self, front: Front, step: Tensor) -> Attempt:
        """Both solutions after steps of each example."""

    def memory(self, level: Tensor) -> Tensor:
        """What the first step remembers, shape `(batch, any)`."""
        return level.new_zeros(len(level), 0)

    def predict(self, state: Tensor, level: Tensor, rows: Tensor) -> Tensor:
        """The model's prediction, float64, in the shape of the states."""
        sde = self.problem.sde
        t = LOG_SNR.time(sde, level)
        x = (state * torch.hypot(sde.alpha(t), sde.sigma(t))[:, None]).to(self.dtype)
        ask = getattr(self.problem.model, self.kind)
        self.problem.tick()
        found: Tensor = ask(x.view(-1, *self.shape[1:]), t, rows_of(self.problem.condition, rows))
        return found.double().view(state.shape)


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

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rtol=self.rtol, atol=self.atol)

    @property
    @override
    def evaluations(self) -> str:
        return "adaptive"

    @property
    @override
    def total(self) -> int | None:
        return None

    @property
    @abstractmethod
    def control(self) -> Control:
        """The rule for the next step."""

    @abstractmethod
    def pair(self, problem: Problem, x: Tensor) -> Pair:
        """The method, for one run from x."""

    def share(self, size: Tensor) -> Tensor:
        """The errors that decide, given each example's own, shape `(n,)`."""
        return size

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        sde, times = problem.sde, problem.times
        levels = LOG_SNR.at(sde, times).tolist()
        scale = torch.hypot(sde.alpha(times), sde.sigma(times)).tolist()
        pair = self.pair(problem, x)
        front = _start(pair, x.double().flatten(1) / scale[0], levels[0])
        for k, time in enumerate(times.tolist()[1:], 1):
            front = self._carry(pair, front, levels[k])
            x = (front.state * scale[k]).to(x.dtype).view(x.shape)
            yield time, x
            front.state = x.double().flatten(1) / scale[k]

    def _carry(self, pair: Pair, front: Front, goal: float) -> Front:
        """Bring all examples to a level; the host waits for the device once a round."""
        arrived, fresh = [], len(front.rows)
        front.fresh = torch.ones_like(front.fresh)
        for _ in range(_MOST_ROUNDS):
            _refresh(pair, front, fresh)
            landed = self._move(pair, front, goal)
            stuck = front.step < _SMALLEST_STEP
            there, stuck_count, fresh = (
                torch.stack([landed, stuck & ~landed, front.fresh & ~landed]).sum(1).tolist()
            )
            if stuck_count:
                raise gave_up("a step shrank to nothing")
            if there:
                arrived.append(front.part(landed))
                front = front.part(~landed)
            if len(front.rows) == 0:
                return Front.join(arrived)
        raise gave_up(f"not there in {_MOST_ROUNDS} attempts")

    def _move(self, pair: Pair, front: Front, goal: float) -> Tensor:
        """Try one step of each example; which have arrived, shape `(n,)`."""
        left = goal - front.level
        reaches = front.step >= left
        step = torch.where(reaches, left, front.step)
        tried = pair.attempt(front, step)
        size = self.share(self._size(front, tried)).nan_to_num(nan=torch.inf)
        accepted = size <= 1
        landed = accepted & reaches
        planned = self.control.plan(front, step, size)
        # A step cut short by its goal says little: what was planned before still stands.
        front.step = torch.where(landed, torch.maximum(planned, front.step), planned)
        front.size = torch.where(accepted, size, front.size)
        front.level = torch.where(
            landed, goal, torch.where(accepted, front.level + step, front.level)
        )
        for name, value in (("state", tried.high), ("before", tried.low), ("memory", tried.memory)):
            setattr(front, name, torch.where(accepted[:, None], value, getattr(front, name)))
        front.fresh = accepted
        return landed

    def _size(self, front: Front, tried: Attempt) -> Tensor:
        """The error of each example in units of its tolerance, shape `(n,)`."""
        largest = torch.maximum(tried.low.abs(), front.before.abs())
        error = (tried.high - tried.low) / largest.mul_(self.rtol).clamp_(min=self.atol)
        return error.square().mean(1).sqrt()


def _start(pair: Pair, state: Tensor, level: float) -> Front:
    """All examples at their first level."""
    levels = state.new_full((len(state),), level)
    return Front(
        rows=torch.arange(len(state), device=state.device),
        level=levels,
        state=state,
        known=torch.empty_like(state),
        fresh=torch.ones_like(levels, dtype=torch.bool),
        before=state,
        memory=pair.memory(levels),
        step=torch.full_like(levels, FIRST_STEP),
        size=torch.ones_like(levels),
    )


def _refresh(pair: Pair, front: Front, count: int) -> None:
    """Ask the model at the states that are new, of which there are `count`."""
    if count == len(front.rows):
        front.known = pair.predict(front.state, front.level, front.rows)
    elif count:
        new = front.fresh
        front.known[new] = pair.predict(front.state[new], front.level[new], front.rows[new])
