"""Many steps at once: the same result in fewer network calls, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_nonnegative
from sde_score._core.conditions import rows_of
from sde_score._core.errors import NumericalError
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.one_step import Predictor
from sde_score.samplers.grids import Grid
from sde_score.samplers.langevin.predictor_corrector import PREDICTORS
from sde_score.samplers.problem import Iteration, Problem


@dataclass(frozen=True)
class Parallel(Sampler):
    r"""Picard iterations over a window of steps, each sweep one call on a batch of times.

    The steps of `inner`, x_{k+1} = a_k x_k + b_k score(x_k, t_k) + c_k z_k, are solved together:
    with the model's prediction at all points of the last sweep known, the expected noise or, where
    the steps add noise, the expected data,

    .. math:: x_{k+1}^{new} = a_k x_k^{new} - \tfrac{b_k}{\sigma_k}\,
              \hat\epsilon(x_k^{old}, t_k) \quad \text{or} \quad
              \left(a_k - \tfrac{b_k}{\sigma_k^2}\right) x_k^{new}
              + \tfrac{b_k \alpha_k}{\sigma_k^2}\, \hat x_0(x_k^{old}, t_k) + c_k z_k .

    The second forgets: fresh noise that the last sweep had not seen would otherwise add up.

    A sweep makes the first point of the window final, and all those up to the first that still
    moved by more than the tolerance; the window then slides to there, and steps that are new to it
    start from the last prediction that is known. The fresh noise z_k is drawn once, before the
    first sweep, in the order of the steps, so that the samples are those of `inner` to the
    tolerance.

    `nfe` counts calls that follow each other: each is on a batch of up to `window` times as many
    examples, whose times differ. Each example has its own window and does not feel its neighbors;
    those that have arrived leave the batch. The host waits for the device once a sweep, to know
    whether all have; with `sweeps` it never does. All states are kept until the end. A state
    changed by whoever consumes the iteration changes none after it.

    Args:
        inner: a name from `PREDICTORS` of a method with one evaluation per step, such as
            `"ddim(eta=1)"` or `"ancestral"`, or an object, of which only the step is used.
        window: steps in a sweep.
        tolerance: by which a point may still move to count as final, root mean square, in units of
            data of unit variance; >= 0. With 0 the samples are those of `inner` to rounding.
        sweeps: slide by window / sweeps steps, rounded up, after each sweep, whatever the
            tolerance, so that each step is in so many sweeps; at most `window`, which makes the
            samples those of `inner` and saves nothing. None slides by the tolerance.

    Raises:
        ValueError: for arguments outside their range, or an `inner` that is not a predictor.

    Reference: Shih et al. 2023 (ParaDiGMS), https://arxiv.org/abs/2305.16317. Its drift includes
    the linear part; taking that part exactly, as here, saves sweeps.
    """

    grid: str | Grid = "rectified"
    inner: str | Predictor = "ddim"
    window: int = 32
    tolerance: float = 0.001
    sweeps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(window=self.window)
        require_nonnegative(tolerance=self.tolerance)
        if self.sweeps is not None:
            require_count(sweeps=self.sweeps)
            if self.sweeps > self.window:
                raise ValueError(
                    f"sweeps={self.sweeps} must be at most window={self.window}: after as many "
                    "sweeps all steps of a window are final"
                )
        _ = self._steps

    @property
    def _steps(self) -> Predictor:
        """The inner method."""
        inner = PREDICTORS.resolve(self.inner, name="inner")
        if not isinstance(inner, Predictor):
            raise ValueError(
                f"inner={self.inner!r} has a memory or more than one evaluation per step; accepted "
                "are predictors such as 'ddim', 'ancestral', 'euler-maruyama'"
            )
        return inner

    @property
    @override
    def convergence_order(self) -> int:
        return self._steps.convergence_order

    @property
    @override
    def stochastic(self) -> bool:
        return self._steps.stochastic

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        times, reached = problem.times.tolist(), 0
        path = x.new_empty(len(times), len(x), x[0].numel())
        for final in self._fill(_Table.of(self._steps, problem, x), path, x):
            for k in range(reached + 1, final + 1):
                yield times[k], path[k].view(x.shape).clone()
            reached = final

    def _fill(self, table: _Table, path: Tensor, x: Tensor) -> Iterator[int]:
        """Write all states into `path`, shape `(steps + 1, batch, numbers)`; after each sweep, up
        to which of them all examples are final."""
        last, width, low = len(path) - 1, 1, 0
        head = x.reshape(path[0].shape).clone()
        rows = torch.arange(len(x), device=x.device)
        front = torch.zeros_like(rows)
        points = head[None]
        for _ in range(last):  # each makes one step final at least
            known = table.predict(points[:width], front, rows)
            swept = table.walk(known, head, front, rows)
            path[table.clamp(front, width + 1), rows] = swept
            stride = self._stride(swept, points, table.units(front, width))
            stride = torch.minimum(stride, last - front)
            head, front = _pick(swept, stride[None])[0], front + stride
            left, low = self._left(front, low, width, last)
            if low < last and left < len(rows):
                going = front < last
                rows, front, head, stride = rows[going], front[going], head[going], stride[going]
                known = known[:, going]
            yield low
            if low >= last:
                break
            width, old = min(self.window, last - low), width
            shift = stride + torch.arange(width, device=x.device)[:, None]
            guess = _pick(known, shift.clamp(max=old - 1))
            points = table.walk(guess, head, front, rows)
        if low < last:
            raise NumericalError(f"{last} sweeps of {self} have made {low} of {last} steps final")

    def _stride(self, swept: Tensor, points: Tensor, units: Tensor) -> Tensor:
        """By how many steps each window slides, shape `(n,)`."""
        width = len(swept) - 1
        if self.sweeps is not None:
            stride = min(width, -(-self.window // self.sweeps))
            return torch.full(swept.shape[1:2], stride, device=swept.device)
        moved = (swept[1:width] - points[1:width]).square().mean(2).sqrt()
        settled = moved <= self.tolerance * units[1:width]
        return 1 + settled.long().cumprod(0).sum(0)

    def _left(self, front: Tensor, low: int, width: int, last: int) -> tuple[int, int]:
        """How many examples are on their way, and the least final state of all."""
        if self.sweeps is not None:  # all slide alike: nothing to ask the device
            return len(front), min(last, low + min(width, -(-self.window // self.sweeps)))
        left, low = torch.stack([(front < last).sum(), front.min()]).tolist()
        return left, low


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Entries of `(window, n, numbers)` at places `(m, n)`: shape `(m, n, numbers)`."""
    return values.gather(0, index[:, :, None].expand(-1, -1, values.shape[2]))


@dataclass(frozen=True, eq=False)
class _Table:
    """The steps on the device, with a last one that stays: what a window holds beyond the end.

    Args:
        problem: the model and its condition.
        shape: of an event.
        times: float64, shape `(steps + 1,)`.
        factors: on the state, on the prediction and that of unit-variance coordinates, shape
            `(3, steps + 1)`.
        fresh: noise of each step, `(steps + 1, batch, numbers)`; None if there is none.
    """

    problem: Problem
    shape: torch.Size
    times: Tensor
    factors: Tensor
    fresh: Tensor | None

    @property
    def kind(self) -> str:
        """What the model predicts."""
        return "noise" if self.fresh is None else "denoise"

    @classmethod
    def of(cls, method: Predictor, problem: Problem, x: Tensor) -> _Table:
        """The steps of a method along the times of a problem, with their noise."""
        sde, times = problem.sde, problem.times
        a, b, c = method.coefficients(sde, times[:-1], times[1:])
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        fresh = _fresh(problem, c.tolist(), x) if bool(c.any()) else None
        pull = b / sigma[:-1]
        keep, pull = (a, -pull) if fresh is None else _on_data(a, pull, alpha[:-1], sigma[:-1])
        stay = torch.stack([a.new_ones(1), a.new_zeros(1)])
        steps = torch.cat([torch.stack([keep, pull]), stay], 1)
        factors = torch.cat([steps, torch.hypot(alpha, sigma)[None]])
        return cls(problem, x.shape[1:], times.to(x.device), factors.to(x), fresh)

    def clamp(self, front: Tensor, width: int) -> Tensor:
        """Numbers of the points of each window, shape `(width, n)`."""
        ahead = torch.arange(width, device=front.device)[:, None]
        return (front + ahead).clamp(max=len(self.times) - 1)

    def units(self, front: Tensor, width: int) -> Tensor:
        """Standard deviation that data of unit variance have at the points, `(width, n)`."""
        return self.factors[2][self.clamp(front, width)]

    def predict(self, points: Tensor, front: Tensor, rows: Tensor) -> Tensor:
        """The model's prediction at the points, `(width, n, numbers)`: one call."""
        width = len(points)
        times = self.times[self.clamp(front, width)].flatten()
        condition = rows_of(self.problem.condition, rows.repeat(width))
        folded = points.reshape(-1, *self.shape)
        found: Tensor = getattr(self.problem.model, self.kind)(folded, times, condition)
        return found.reshape(points.shape).to(points.dtype)

    def walk(self, known: Tensor, head: Tensor, front: Tensor, rows: Tensor) -> Tensor:
        """The points that follow from predictions, `(width + 1, n, numbers)`, the head first."""
        points, index = [head], self.clamp(front, len(known))
        keep, pull, _ = self.factors[:, index][..., None]
        for j, predicted in enumerate(known):
            point = keep[j] * points[-1] + pull[j] * predicted
            points.append(point if self.fresh is None else point + self.fresh[index[j], rows])
        return torch.stack(points)


def _on_data(a: Tensor, pull: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the state and the data: -pull on the noise, which is (x - alpha x0) / sigma."""
    return a - pull / sigma, pull * alpha / sigma


def _fresh(problem: Problem, std: list[float], x: Tensor) -> Tensor:
    """Noise of all steps, drawn in their order and only where there is any."""
    times = problem.times.tolist()
    fresh = x.new_zeros(len(times), len(x), x[0].numel())
    for k, scale in enumerate(std):
        if scale:
            draw = problem.between(times[k], times[k + 1])
            fresh[k] = draw.reshape(fresh[k].shape) * scale
    return fresh
