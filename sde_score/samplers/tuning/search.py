r"""Errors of grids at the end of sampling runs, and ways to lower them.

A grid of n times is n increments of rectified time u = sigma / (alpha + sigma), from its value at
`sde.t_max` down to the least noise of the SDE, the last of them from the grid's last time to there:

.. math:: u_k = u_{min} + (u_{max} - u_{min}) \Big(1 - \sum_{j < k} p_j\Big), \qquad
          p = softmax(\theta)

so that every theta is a decreasing grid, with the first time fixed and the last noise level free.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sde_score._core.conditions import Condition, rows_of, tensors_of
from sde_score._core.progress import progress_bar
from sde_score.models import Model
from sde_score.random import ExampleStreams, example_seeds, generator_from
from sde_score.samplers.base import Sampler
from sde_score.samplers.grids import GRIDS
from sde_score.samplers.problem import Problem
from sde_score.samplers.start import blank, sigma_data_of
from sde_score.sdes import SDE
from sde_score.sdes.clocks import RECTIFIED

_STOCK = ("rectified", "angle", "karras", "log_snr", "uniform")
_EVERY = 5  # iterations between looks at the starts held out
_FLOOR = 1e-7  # of the errors, so that the logarithm of a perfect one is finite


@dataclass(frozen=True)
class EndErrors:
    """Errors at the end of sampling runs: of each its root mean square over the event.

    Args:
        rms: root mean square over the starts; a few starts at a boundary between modes rule it.
        median: over the starts.
        mean_log: mean of the logarithms, which the search minimizes.
    """

    rms: float
    median: float
    mean_log: float

    @property
    def balanced(self) -> float:
        """Geometric mean of the root mean square and the median; infinite where one is not
        finite."""
        product = self.rms * self.median
        return math.sqrt(product) if math.isfinite(product) else math.inf

    @classmethod
    def of(cls, errors: Tensor) -> EndErrors:
        """Of errors of shape `(starts,)`."""
        errors = errors.double()
        mean_log = (errors + _FLOOR).log().mean()
        rms = errors.square().mean().sqrt()
        return cls(rms.item(), errors.median().item(), mean_log.item())


@dataclass(frozen=True, eq=False)
class Starts:
    """States at `t_max`, where the fine solution carries them, and the condition; in batches."""

    batches: list[tuple[Tensor, Tensor, Condition]]

    def __len__(self) -> int:
        return sum(len(x) for x, _, _ in self.batches)

    def __add__(self, more: Starts) -> Starts:
        return Starts([*self.batches, *more.batches])


@dataclass(frozen=True, eq=False)
class Parts:
    """Disjoint sets of starts, start i a function of (seed, i)."""

    model: Model
    reference: Sampler
    shape: tuple[int, ...]
    seed: int
    condition: Condition
    batch_size: int
    progress: bool

    def take(self, *counts: int) -> list[Starts]:
        """Sets of so many starts, one after the other."""
        given = {len(value) for value in tensors_of(self.condition)} or {sum(counts)}
        if given != {sum(counts)}:
            raise ValueError(
                f"condition has {given.pop()} entries for {' + '.join(map(str, counts))} "
                "starts: to fit to, to choose by, and fresh ones"
            )
        first, sets = 0, []
        for count in counts:
            edges = [*range(first, first + count, self.batch_size), first + count]
            batches = [self._batch(a, b) for a, b in pairwise(edges)]
            sets.append(Starts(batches))
            first += count
        return sets

    def _batch(self, first: int, last: int) -> tuple[Tensor, Tensor, Condition]:
        like = blank(self.model, (last - first, *self.shape))
        x = ExampleStreams(example_seeds(self.seed, last - first, first), like)()
        x = x * self.reference.start_spread(self.model.sde, sigma_data_of(self.model))
        condition = rows_of(self.condition, slice(first, last))
        end = self.reference(self.model, x, condition=condition, progress=self.progress)
        return x, end, condition


class _Checkpointed:
    """A model whose activations are not kept for the backward pass but computed again."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sde = model.sde
        self.nfe = 0

    def _call(
        self, method: Callable[..., Tensor], x: Tensor, t: Tensor | float, condition: Condition
    ) -> Tensor:
        if not torch.is_grad_enabled():
            return method(x, t, condition)
        result: Tensor = checkpoint(
            method, x, t, condition, use_reentrant=False, preserve_rng_state=False
        )
        return result

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The model's score."""
        return self._call(self.model.score, x, t, condition)

    def denoise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The model's denoised mean."""
        return self._call(self.model.denoise, x, t, condition)

    def noise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The model's noise."""
        return self._call(self.model.noise, x, t, condition)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The model's velocity."""
        return self._call(self.model.velocity, x, t, condition)


def _rectified_ends(sde: SDE) -> tuple[float, float]:
    """Rectified time of the most noise and of the least."""
    most, least = (RECTIFIED.at(sde, t) for t in (sde.t_max, sde.sampling_t_min))
    return most.item(), least.item()


def _log_ratios(sde: SDE, theta: Tensor) -> Tensor:
    """log sigma / alpha of the times after the first, shape `(n - 1,)`."""
    most, least = _rectified_ends(sde)
    left = theta.softmax(0).flip(0).cumsum(0).flip(0)[1:]  # summed from the small end: no 1 - 1
    return torch.logit(least + (most - least) * left)


def ratios_of(sde: SDE, theta: Tensor) -> Tensor:
    """sigma / alpha of all times, shape `(n,)`."""
    first = sde.noise_ratio(sde.t_max)
    return torch.cat([first.reshape(1), _log_ratios(sde, theta.detach()).exp()])


def times_of(sde: SDE, theta: Tensor) -> Tensor:
    """The grid of theta, shape `(n,)`, differentiable."""
    first = torch.tensor([sde.t_max], dtype=torch.float64)
    return torch.cat([first, sde.time_of_log_snr(-2 * _log_ratios(sde, theta))])


def theta_of(sde: SDE, times: Tensor) -> Tensor:
    """The inverse: increments of rectified time; none below a thousandth of an even one."""
    most, least = _rectified_ends(sde)
    u = torch.cat([RECTIFIED.at(sde, times), times.new_tensor([least])])
    return (-u.diff()).clamp(min=1e-3 * (most - least) / len(times)).log()


@dataclass(eq=False)
class Search:
    """Errors of grids, and ways to lower them, until the clock `time.monotonic` is at `until`."""

    model: Model
    sampler: Sampler
    fit: Starts
    held: Starts
    progress: bool
    until: float = math.inf

    @property
    def sde(self) -> SDE:
        """The model's diffusion."""
        return self.model.sde

    def run(self, times: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """End of a sampling run from x along times, differentiable in them."""
        problem = Problem(_Checkpointed(self.model), times, _no_noise, condition, _nothing)
        x = x.clone()
        for _, state in self.sampler.iterate(problem, x):
            x = state
        if self.sampler.ends_at_data:
            return x
        return problem.denoise(x, times[-1].to(x.device))

    def squares(self, times: Tensor, starts: Starts) -> Iterator[Tensor]:
        """Mean square errors of the starts, batch by batch."""
        for x, end, condition in starts.batches:
            yield (self.run(times, x, condition) - end).flatten(1).square().mean(1)

    @torch.no_grad()
    def errors(self, times: Tensor, starts: Starts) -> Tensor:
        """Errors of the starts, shape `(starts,)`."""
        return torch.cat([*self.squares(times, starts)]).sqrt()

    def score(self, theta: Tensor, starts: Starts) -> float:
        """Mean logarithm of the errors; infinite where the run overflows."""
        value = EndErrors.of(self.errors(times_of(self.sde, theta), starts)).mean_log
        return value if math.isfinite(value) else math.inf

    def best_stock(self) -> tuple[str, Tensor]:
        """Name and theta of the best stock grid, with the best of several last noise levels."""
        steps, own = self.sampler.steps, self.sampler.times(self.sde)
        candidates = {str(self.sampler.grid): theta_of(self.sde, own)}
        for share in (1.0, 0.3, 0.1, 0.01):
            u = share / (steps + 1)
            end = RECTIFIED.time(self.sde, torch.tensor(u).double()).item()
            if not self.sde.sampling_t_min < end < self.sde.t_max:
                continue
            for name in _STOCK:
                times = GRIDS.create(name, end=end).times(self.sde, steps)
                candidates[f"{name}(end={end:.4g})"] = theta_of(self.sde, times)
        scores = {name: self.score(theta, self.fit) for name, theta in candidates.items()}
        best = min(scores, key=lambda name: scores[name])
        return best, candidates[best]

    def differentiable(self, theta: Tensor, seed: int) -> bool:
        """Whether the gradient through a run is that of differences, on a few starts."""
        x, _, condition = self.fit.batches[0]
        x, condition = x[:4], rows_of(condition, slice(4))
        generator = generator_from(seed, len(theta))
        along = torch.randn(len(theta), generator=generator, dtype=torch.float64)
        probe = torch.randn(x.shape, generator=generator).to(x)

        def value(theta: Tensor) -> Tensor:
            return (self.run(times_of(self.sde, theta), x, condition) * probe).sum().double().cpu()

        theta = theta.clone().requires_grad_()
        try:
            with warnings.catch_warnings():  # of gradients cut by a sampler that takes numbers
                warnings.simplefilter("ignore", UserWarning)
                (gradient,) = torch.autograd.grad(value(theta), theta)
        except RuntimeError as error:
            if "grad" in str(error):
                return False
            raise
        h = 1e-4 if x.dtype == torch.float64 else 1e-2
        with torch.no_grad():
            difference = (value(theta + h * along) - value(theta - h * along)) / (2 * h)
        return bool((gradient @ along - difference).abs() <= 0.05 * difference.abs())

    def by_gradient(self, theta: Tensor, iterations: int, learning_rate: float) -> Tensor:
        """Adam from theta; the iterate that is best on the starts held out."""
        best, least = theta, self.score(theta, self.held)
        theta = theta.clone().requires_grad_()
        optimizer = torch.optim.Adam([theta], lr=learning_rate, betas=(0.9, 0.99))
        cooling = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, iterations, eta_min=learning_rate / 20
        )
        total = len(self.fit)
        for iteration in self._bar(iterations):
            optimizer.zero_grad()
            for index in range(len(self.fit.batches)):
                part = Starts(self.fit.batches[index : index + 1])
                for squares in self.squares(times_of(self.sde, theta), part):
                    loss = 0.5 * (squares + _FLOOR**2).log().sum() / total
                    torch.autograd.backward(loss)
            if theta.grad is None or not bool(theta.grad.isfinite().all()):
                break
            optimizer.step()
            cooling.step()
            if (iterations - 1 - iteration) % _EVERY:
                continue
            now = theta.detach().clone()
            score = self.score(now, self.held)
            if score < least:
                best, least = now, score
        return best

    def by_coordinate(self, theta: Tensor, runs: int) -> Tensor:
        """One increment at a time, up and down, by steps that shrink when none helps."""
        theta, step, failed = theta.clone(), 0.4, 0
        here, best = self.score(theta, self.fit), theta
        least = self.score(theta, self.held)
        for run in self._bar(runs):
            coordinate, sign = run // 2 % len(theta), 1 - 2 * (run % 2)
            trial = theta.clone()
            trial[coordinate] += sign * step
            score = self.score(trial, self.fit)
            failed = 0 if score < here else failed + 1
            if score < here:
                theta, here = trial, score
                held = self.score(theta, self.held)
                if held < least:
                    best, least = theta, held
            if failed == 2 * len(theta):
                step, failed = step / 2, 0
        return best

    def _bar(self, total: int) -> Iterator[int]:
        name = f"grid of {self.sampler.steps} steps"
        for step in progress_bar(range(total), name=name, shown=self.progress):
            if time.monotonic() > self.until:
                return
            yield step


def _no_noise() -> Tensor:
    raise ValueError("the sampler calls itself deterministic and asks for noise")


def _nothing() -> None:
    return None
