"""Restart: go back up a stretch of noise with fresh noise, and down again."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_increasing
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.fixed_step.linear import weighted_sum_
from sde_score.samplers.grids import Grid
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE
from sde_score.sdes.clocks import root

_SLACK = 1e-9  # relative, for times that are equal to rounding

_Way = Generator[tuple[float, Tensor], None, Tensor]


class Repeat(NamedTuple):
    """A stretch that is walked again.

    Attributes:
        low: noise ratio sigma / alpha at its end, > 0.
        high: at its start, > low.
        repeats: how often it is walked again; 0 leaves it out.
        steps: each time.
    """

    low: float
    high: float
    repeats: int = 1
    steps: int = 3


@dataclass(frozen=True)
class Restart(Sampler):
    r"""An inner sampler that walks some stretches of its way again, from fresh noise.

    Where the inner sampler has come down to the end of a stretch, noise is put back exactly, by the
    diffusion's own transition from its end s to its start t, and it goes down again:

    .. math:: x_t = \frac{\alpha_t}{\alpha_s} x_s + \sigma_t \sqrt{1 - e^{\lambda_t - \lambda_s}}
              \, z .

    Going up keeps the distribution and contracts its errors, going down adds only those of the
    inner sampler's steps: so a deterministic sampler gains what stochastic ones have, for few
    steps.

    `steps` and `grid` are those of the way from noise to data, with a stop added at each `low`;
    every repeat is `1 + its steps` states more, and the times of a trajectory rise at each. The
    steps of a repeat are spaced by the rule of `Karras`. Multistep methods start anew after each
    rise and at the end of each stretch. Rises and the steps of a repeat draw noise of their own,
    since a path of noise would repeat itself in them.

    Args:
        inner: a name from `samplers.available()` or a sampler; its own steps, grid and denoising
            are not used. One that stays at one time, as MCMC does, is not accepted.
        repeats: stretches, as `Repeat` or in its form (low, high, repeats, steps), with the noise
            given by the ratio sigma / alpha, which means the same on every SDE.

    Raises:
        ValueError: for arguments outside their range, when called also for a stretch that is not
            between the ends of the grid.

    Reference: Xu et al. 2023, https://arxiv.org/abs/2306.14878, algorithm 1.
    """

    steps: int = 18
    grid: str | Grid = "karras"
    inner: str | Sampler = "heun"
    repeats: Sequence[Repeat | tuple[float, ...]] = (Repeat(0.1, 0.5, 2, 4),)

    ends_at_data: ClassVar[bool] = True
    descends: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for k, (low, high, repeats, steps) in enumerate(map(_as_repeat, self.repeats)):
            require_increasing("", **{f"repeats[{k}].low": low, f"repeats[{k}].high": high})
            require_count(minimum=0, **{f"repeats[{k}].repeats": repeats})
            require_count(**{f"repeats[{k}].steps": steps})
        _ = self._inner

    @property
    def _inner(self) -> Sampler:
        """The inner sampler, on the way without a last step to zero noise."""
        inner = SAMPLERS.resolve(self.inner, name="inner")
        if not inner.descends:
            raise ValueError(
                f"inner={self.inner!r} does not go from noise to data in one way; accepted: any "
                "other sampler, such as 'heun' or 'ddim'"
            )
        return replace(inner, steps=self.steps, grid=self.grid, denoise=False)

    @property
    def _stretches(self) -> list[Repeat]:
        """Those that are walked again, from the most noise to the least."""
        stretches = [_as_repeat(stretch) for stretch in self.repeats]
        return sorted((s for s in stretches if s.repeats), key=lambda s: -s.low)

    @property
    @override
    def convergence_order(self) -> int:
        return self._inner.convergence_order

    @property
    @override
    def adaptive(self) -> bool:
        return self._inner.adaptive

    @property
    @override
    def undifferentiable(self) -> str:
        return self._inner.undifferentiable

    @property
    @override
    def stochastic(self) -> bool:
        return bool(self._stretches) or self._inner.stochastic

    @property
    @override
    def total(self) -> int | None:
        if self._inner.total is None:
            return None
        return self.steps + sum(1 + s.repeats * (1 + s.steps) for s in self._stretches)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        inner, stretches = self._inner, self._stretches
        plain = replace(problem, noise=lambda: problem.noise())
        ways, rises = self._ways(problem, stretches), _rises(problem.sde, stretches)
        for way, stretch, (down, scale, std) in zip(ways, stretches, rises, strict=False):
            x = yield from _walk(inner, problem, x, way)
            for _ in range(stretch.repeats):
                x = weighted_sum_(x, scale, (problem.noise(), std))
                yield float(down[0]), x
                x = yield from _walk(inner, plain, x, down)
        last = replace(inner, denoise=self.denoise)
        x = yield from _walk(last, problem, x, ways[-1])
        if self.denoise and not inner.ends_at_data:
            yield 0.0, problem.denoise(x, ways[-1][-1].to(x.device))

    def _ways(self, problem: Problem, stretches: Sequence[Repeat]) -> list[Tensor]:
        """The grid in parts: down to each `low` in turn, and from the last one to its end."""
        sde, times = problem.sde, problem.times
        first, end = (float(sde.noise_ratio(t)) for t in (times[0], times[-1]))
        for low, high, _, _ in stretches:
            if not end * (1 - _SLACK) <= low < high <= first * (1 + _SLACK):
                raise ValueError(
                    f"repeats has a stretch of noise ratios {low:g} to {high:g}, which must lie "
                    f"within the {end:.4g} to {first:.4g} of the grid: try other stretches"
                )
        lows = []
        for stretch in stretches:
            lows.append(_stop(times, _time(sde, stretch.low)))
            if not bool((times == lows[-1]).any()):
                times = torch.cat([times, lows[-1]]).sort(descending=True).values
        cuts = [0, *(int((times > low).sum()) for low in lows), len(times) - 1]
        return [times[start : stop + 1] for start, stop in pairwise(cuts)]


def _as_repeat(stretch: Repeat | tuple[float, ...]) -> Repeat:
    """A stretch from its numbers.

    Raises:
        ValueError: if they are not two to four.
    """
    if not isinstance(stretch, Sequence) or not 2 <= len(stretch) <= 4:
        raise ValueError(
            f"repeats has the entry {stretch!r}; accepted: (low, high, repeats, steps)"
        )
    return Repeat(*stretch)


def _time(sde: SDE, ratio: float) -> Tensor:
    """The time of a noise ratio, shape `(1,)`."""
    return sde.time_of_noise_ratio(torch.tensor([ratio], dtype=torch.float64))


def _stop(times: Tensor, time: Tensor) -> Tensor:
    """A time, or that of a grid which it is to rounding; shape `(1,)`."""
    nearest = times[(times - time).abs().argmin()].reshape(1)
    return nearest if bool((nearest - time).abs() <= _SLACK * time) else time


def _rises(sde: SDE, stretches: Sequence[Repeat]) -> list[tuple[Tensor, float, float]]:
    """Of each stretch the times on the way down, and scale and std of the way up."""
    karras, rises = root(7.0), []
    for low, high, _, steps in stretches:
        ends = karras.of_log_ratio(torch.tensor([high, low], dtype=torch.float64).log())
        share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        times = karras.time(sde, ends[0] + share * (ends[1] - ends[0]))
        times[0], times[-1] = _time(sde, high), _time(sde, low)
        scale, std = sde.transition(times[-1], times[0])
        rises.append((times, float(scale), float(std)))
    return rises


def _walk(inner: Sampler, problem: Problem, x: Tensor, times: Tensor) -> _Way:
    """Let the inner sampler go along some times; its last state is the result."""
    for time, state in inner.iterate(replace(problem, times=times), x):
        x = state
        yield time, x
    return x
