"""The annealing schedule: a pilot run finds the stops on the path and the step sizes there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from sde_score._core.errors import NumericalError
from sde_score.likelihood.partition.annealing import AnnealingPlan, Tick, move, systematic
from sde_score.likelihood.partition.geometric_path import GeometricPath
from sde_score.mcmc import Kernel
from sde_score.random import Noise

# Share of the effective sample size that one step of the pilot may cost: about one standard
# deviation 0.65 of the log weights.
_KEPT = 0.7
_MOVES = 8
# More at the first stop, where the step size may be orders of magnitude off.
_FIRST_MOVES = 40
_LARGEST = 4000


def pilot(
    path: GeometricPath, kernel: Kernel, x: Tensor, noise: Noise, generator: Generator, tick: Tick
) -> AnnealingPlan:
    r"""Adaptive sequential Monte Carlo: the stops at which weights stay even, and step sizes.

    The next beta is the one at which the effective sample size falls to 0.7 of the particles;
    these are then resampled and moved eight times (forty at the first stop), while the step size
    follows

    .. math:: \log h \leftarrow \log h + \frac{2\,(acceptance - target)}{\sqrt{i}} .

    Args:
        path: to walk along.
        kernel: its `step_size` is the first guess.
        x: exact samples of the reference, `(particles, *event)`.
        noise: standard normal draws like x.
        generator: of the resampling.
        tick: called at each stop.

    Raises:
        RuntimeError: if the energy is infinite on all samples, or the path has no end.

    Reference: Del Moral, Doucet & Jasra 2006, https://doi.org/10.1111/j.1467-9868.2006.00553.x;
    Jasra et al. 2011, https://doi.org/10.1111/j.1467-9469.2010.00723.x, for the adaptation.
    """
    betas, logs = [0.0], [math.log(kernel.step_size)]
    one = AnnealingPlan([], [], kernel, 1)
    for _ in range(_LARGEST):
        if betas[-1] >= 1:
            break
        gap = path.gap(x)
        step = _next_step(gap, 1 - betas[-1])
        beta = 1.0 if step >= 1 - betas[-1] else betas[-1] + step
        if not beta > betas[-1]:
            raise _no_end(betas)
        weights = (-(beta - betas[-1]) * gap).softmax(0)
        x = x[systematic(weights[None], generator)[0]]
        log_h = logs[-1]
        for i in range(1, (_MOVES if len(betas) > 1 else _FIRST_MOVES) + 1):
            x, accepted = move(path, beta, x, noise, one, math.exp(log_h))
            if kernel.adjusted and not kernel.discrete:
                log_h += 2 * (float(accepted) - kernel.target_acceptance) / math.sqrt(i)
        betas.append(beta)
        logs.append(log_h)
        tick()
    else:
        raise _no_end(betas)
    logs[0] = logs[1]
    return replace(one, betas=betas, step_sizes=[math.exp(value) for value in logs])


def _no_end(betas: Sequence[float]) -> NumericalError:
    return NumericalError(
        f"the path from start to density has not ended after {len(betas)} stops, at "
        f"beta={betas[-1]:.3g}: start too far away; try GaussianReference.fit(data) as start"
    )


def refine(plan: AnnealingPlan, betas: Sequence[float] | int, moves: int) -> AnnealingPlan:
    """A plan with other stops, its step sizes read off this one.

    Args:
        plan: of a pilot.
        betas: the stops, or how many steps to take, spread as evenly as those of the pilot.
        moves: kernel steps at each stop.
    """
    index = np.arange(len(plan.betas))
    if isinstance(betas, int):
        place = np.linspace(0.0, index[-1], betas + 1)
        stops = np.interp(place, index, plan.betas)
    else:
        stops = np.asarray(betas)
        place = np.interp(stops, plan.betas, index)
    sizes = np.exp(np.interp(place, index, np.log(plan.step_sizes)))
    return replace(plan, betas=stops.tolist(), step_sizes=sizes.tolist(), moves=moves)


def _next_step(gap: Tensor, rest: float) -> float:
    """The largest step, at most `rest`, that keeps the share `_KEPT` of the sample size."""
    finite = gap[gap.isfinite()]
    if len(finite) == 0:
        raise NumericalError(
            "the energy is not finite on any sample of start: choose a start that overlaps the "
            "density, such as GaussianReference.fit(data)"
        )
    shifted = finite - finite.min()

    def kept(step: float) -> float:
        weights = torch.exp(-step * shifted)
        return float(weights.mean() ** 2 / (weights**2).mean())

    if kept(rest) >= _KEPT:
        return rest
    low, high = -700.0, math.log(rest)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if kept(math.exp(middle)) >= _KEPT else (low, middle)
    return math.exp(low)
