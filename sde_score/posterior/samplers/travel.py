"""Time travel: stretches of a grid that are walked again, from noise that is put back."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sde_score.samplers import Sampler
from sde_score.samplers.problem import Iteration, Problem


def ways(count: int, jump: int, resample: int) -> list[tuple[int, int]]:
    """First and last of the times of each way down, by their places in a grid.

    A stretch ends wherever the number of steps that are left is a multiple of `jump`.

    Args:
        count: times of the grid.
        jump: steps of a stretch.
        resample: how often each stretch is walked.
    """
    lows = range(count - 1, jump - 1, -jump)  # none from which a jump leaves the grid
    stops = [low for low in reversed(lows) for _ in range(resample - 1)]
    return list(zip([0, *(low - jump for low in stops)], [*stops, count - 1], strict=True))


def moves(count: int, jump: int, resample: int) -> int:
    """Number of states that `travel` yields; arguments as for `ways`."""
    found = ways(count, jump, resample)
    return sum(last - first for first, last in found) + len(found) - 1


def travel(inner: Sampler, problem: Problem, x: Tensor, jump: int, resample: int) -> Iteration:
    """Let a sampler walk each stretch several times, with the diffusion's own transition back up.

    Args:
        inner: a sampler that does not end at the data.
        problem: the model, the times and the source of noise.
        x: state at the first time.
        jump: steps of a stretch.
        resample: how often each is walked.
    """
    times, found = problem.times, ways(len(problem.times), jump, resample)
    for (first, last), up in zip(found, [*(first for first, _ in found[1:]), None], strict=True):
        way = replace(problem, times=times[first : last + 1])
        for time, state in inner.iterate(way, x):
            x = state
            yield time, x
        if up is not None:
            scale, std = problem.sde.transition(times[last], times[up])
            x = float(scale) * x + float(std) * problem.noise().to(x)
            yield float(times[up]), x
