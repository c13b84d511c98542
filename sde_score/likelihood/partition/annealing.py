"""Annealing: move many chains along a path of densities, and weigh them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from sde_score.likelihood.partition.geometric_path import GeometricPath
from sde_score.mcmc import Kernel
from sde_score.random import Noise


@dataclass(frozen=True)
class AnnealingPlan:
    """Stops on the path, and the moves at each.

    Args:
        betas: from 0 to 1, increasing.
        step_sizes: of the kernel at each beta.
        kernel: an adjusted one, which leaves the density invariant at every beta.
        moves: kernel steps at each beta.
    """

    betas: list[float]
    step_sizes: list[float]
    kernel: Kernel
    moves: int

    def reverse(self) -> AnnealingPlan:
        """The same stops from 1 to 0."""
        return replace(self, betas=self.betas[::-1], step_sizes=self.step_sizes[::-1])


@dataclass
class ParticleRun:
    """Chains after an annealing run, with their weights.

    Args:
        x: states of the chains, `(chains, *event)`.
        log_weights: log of (density at the end / density at the start) along each chain since it
            was last resampled, float64 `(chains,)`.
        log_gain: log of the factor that resampling took out of the weights, one per population, or
            0.
        gaps: dE / d beta at each stop before the weights moved on, if recorded.
        weights: normalized over each population, at each stop, if recorded.
        acceptance: mean over the chains of each stop's moves.
    """

    x: Tensor
    log_weights: Tensor
    log_gain: Tensor
    gaps: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    acceptance: list[Tensor] = field(default_factory=list)


Tick = Callable[[], object]


def move(
    path: GeometricPath, beta: float, x: Tensor, noise: Noise, plan: AnnealingPlan, step_size: float
) -> tuple[Tensor, Tensor]:
    """Positions after `plan.moves` kernel steps at one beta, and their mean acceptance."""
    density = path.at(beta)
    tuning = plan.kernel.tuning(x)
    tuning = replace(tuning, step_size=torch.full_like(tuning.step_size, step_size))
    state = plan.kernel.start(density, x, noise)
    acceptance = []
    for _ in range(plan.moves):
        transition = plan.kernel.step(density, state, noise, tuning)
        state = transition.state
        acceptance.append(transition.acceptance.double().mean())
    return state.x, torch.stack(acceptance).mean()


def anneal(
    path: GeometricPath, plan: AnnealingPlan, x: Tensor, noise: Noise, tick: Tick
) -> ParticleRun:
    r"""Annealed importance sampling along the plan, in the order of its betas.

    .. math:: \log w = -\sum_j (\beta_{j+1} - \beta_j)\, \frac{dE_\beta}{d\beta}(x_j), \qquad
              x_j \sim T_{\beta_j}(\cdot \mid x_{j-1}), \quad x_0 \sim p_{\beta_0}

    Forwards E[w] = Z; on the reverse plan, from exact samples of the density, E[w] = 1 / Z. The
    two walks are each other's time reversal, as the kernels are reversible.

    Cost per stop: one energy, one energy with score, and the moves.
    """
    walk = ParticleRun(
        x, x.new_zeros(len(x), dtype=torch.float64), x.new_zeros((), dtype=torch.float64)
    )
    last = len(plan.betas) - 1
    for j in range(last):
        if j > 0:
            walk.x, accepted = move(path, plan.betas[j], walk.x, noise, plan, plan.step_sizes[j])
            walk.acceptance.append(accepted)
        walk.log_weights -= (plan.betas[j + 1] - plan.betas[j]) * path.gap(walk.x)
        tick()
    return walk


def sequential(
    path: GeometricPath,
    plan: AnnealingPlan,
    x: Tensor,
    noise: Noise,
    populations: int,
    generator: Generator,
    tick: Tick,
    threshold: float = 0.5,
) -> ParticleRun:
    r"""Sequential Monte Carlo along the plan: weigh, resample where weights are uneven, move.

    The populations are independent runs: particles are resampled within their own population only,
    and only where its effective sample size has fallen below `threshold` of its particles.
    On a plan that was fixed beforehand, each gives an unbiased estimate of Z.
    """
    zero = x.new_zeros(len(x), dtype=torch.float64)
    walk = ParticleRun(x, zero, zero[:populations].clone())
    for j, beta in enumerate(plan.betas):
        if j > 0:
            resample(walk, populations, generator, threshold)
            walk.x, accepted = move(path, beta, walk.x, noise, plan, plan.step_sizes[j])
            walk.acceptance.append(accepted)
        gap = path.gap(walk.x)
        walk.gaps.append(gap.reshape(populations, -1))
        walk.weights.append(walk.log_weights.reshape(populations, -1).softmax(1))
        if j + 1 < len(plan.betas):
            walk.log_weights = walk.log_weights - (plan.betas[j + 1] - beta) * gap
        tick()
    return walk


def resample(walk: ParticleRun, populations: int, generator: Generator, threshold: float) -> None:
    """Resample, in place, the populations with uneven weights; no decision leaves the device.

    Args:
        walk: its weights become equal where it is resampled, their mean goes into `log_gain`.
        populations: of equal size, one after the other.
        generator: of the draws.
        threshold: share of the particles; above 1 every population is resampled.
    """
    log_weights = walk.log_weights.reshape(populations, -1)
    size = log_weights.shape[1]
    weights = log_weights.softmax(1)
    uneven = (1 / (weights**2).sum(1) < threshold * size)[:, None]
    rows = torch.arange(populations, device=weights.device)[:, None]
    identity = torch.arange(size, device=weights.device).expand(populations, size)
    chosen = torch.where(uneven, systematic(weights, generator), identity) + rows * size
    walk.x = walk.x[chosen.flatten()]
    walk.log_gain = walk.log_gain + torch.where(uneven[:, 0], log_mean(log_weights), 0.0)
    walk.log_weights = torch.where(uneven, 0.0, log_weights).flatten()


def log_mean(log_weights: Tensor) -> Tensor:
    """log of the mean of exp over the last dimension."""
    size = torch.tensor(log_weights.shape[-1], dtype=torch.float64)
    return log_weights.logsumexp(-1) - size.log().to(log_weights)


def systematic(weights: Tensor, generator: Generator) -> Tensor:
    """Systematic resampling: particle i is drawn floor or ceil of n w_i times, on average n w_i.

    Args:
        weights: each row sums to one, `(populations, n)`.
        generator: gives one uniform number per row.

    Returns:
        indices into each row, like the weights.

    Reference: Kitagawa 1996, https://doi.org/10.2307/1390750.
    """
    rows, size = weights.shape
    offset = torch.rand(
        (rows, 1), generator=generator, dtype=weights.dtype, device=generator.device
    )
    points = (offset.to(weights.device) + torch.arange(size).to(weights)) / size
    index = torch.searchsorted(weights.cumsum(1), points, right=True)
    # Rounding may leave the last cumulated weight just below one.
    return index.clamp(max=size - 1)
