"""log Z of an energy, by annealing from a density whose constant is known.

All methods walk chains from the known density, `start`, along the geometric path
exp(-(1 - beta) E_start - beta E):

=============== ====================== ================================================
`ais`           lower bound            annealed importance sampling
`reverse-ais`   upper bound            the same backwards, from samples of the density
`bridge`        both, and between      Bennett's acceptance ratio of the two walks
`smc`           lower bound            sequential Monte Carlo: chains resampled by weight
`thermodynamic` -                      mean energy integrated over the path of `smc`
=============== ====================== ================================================

A bound is one on average, E[lower] <= log Z <= E[upper], and lower - log Z > b has probability
below exp(-b): the gap between both, which closes as steps grow, tells how well the walk did. The
upper bound needs *exact* samples; with those of an unconverged chain it may be anything. Where the
density has an edge, it stays above by -log of the share of start that lies inside. `thermodynamic`
needs an energy whose mean under start is finite, and not huge.

A pilot of 256 particles first finds stops at which the weights stay even, and the step size at
which the kernel is accepted as often as it should be. The estimate uses neither its particles nor
its noise, and so stays unbiased: E[exp(value)] = Z for `ais` and `smc`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sde_score._core.checks import require_batch, require_count
from sde_score._core.errors import ArgumentError
from sde_score._core.modules import blank_like
from sde_score._core.progress import progress_bar
from sde_score.likelihood.partition.annealing import AnnealingPlan, Tick
from sde_score.likelihood.partition.geometric_path import GeometricPath, Reference, as_reference
from sde_score.likelihood.partition.methods import (
    PARTITION_METHODS,
    PartitionMethod,
    PartitionProblem,
)
from sde_score.likelihood.partition.result import LogPartition
from sde_score.likelihood.partition.schedule import pilot, refine
from sde_score.mcmc import KERNELS, Kernel
from sde_score.models import Density, Marginal, Model, Sites, sites_of
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix

_PILOT = 256


@torch.no_grad()
def log_partition(
    density: Density | Model,
    start: Sequence[int] | Reference,
    *,
    method: str | PartitionMethod = "ais",
    chains: int = 1024,
    steps: int = 200,
    moves: int = 1,
    kernel: str | Kernel = "mala",
    betas: Sequence[float] | None = None,
    tune: bool = True,
    samples: Tensor | None = None,
    populations: int = 16,
    seed: int | None = 0,
    progress: bool = True,
) -> LogPartition:
    r"""log of the integral of exp(-energy), or on discrete states the sum, with an error bar.

    Error bars are those of the mean over independent chains (`ais`, `bridge`) or populations
    (`smc`, `thermodynamic`), by the delta method: they tell nothing of modes no chain has seen.

    Args:
        density: an energy with its score; a model stands for its marginal at `t_min` (for another
            time or a condition see `Marginal`). Where an energy is infinite or NaN the density is
            zero.
        start: event shape, for the standard normal distribution (of discrete states the uniform
            one), or a density with `sample` and `log_z` that covers this one, such as
            `GaussianReference.fit(data)`, `IndependentSites.fit(sites, data)` or any target.
        method: `ais`, `reverse-ais`, `bridge`, `smc`, `thermodynamic`, or an object.
        chains: walked at once, at least 2 (at least 2 per population, and a multiple of them).
        steps: stops after beta = 0, at least 1.
        moves: kernel steps at each stop, at least 1.
        kernel: a name from `KERNELS` such as `"hmc(leapfrogs=5)"`, or an object: adjusted, and at
            temperature 1; on discrete states `gibbs` or `gibbs-gradients`.
        betas: the stops themselves, increasing from 0 to 1, instead of `steps`.
        tune: find step sizes by the pilot; otherwise `kernel.step_size`, which needs `betas`.
        samples: exact samples of the density for `reverse-ais` and `bridge`, `(count, *event)`, at
            least 2; by default `density.sample(chains)`.
        populations: independent runs of `smc` and `thermodynamic`, at least 2.
        seed: of all randomness; None draws one.
        progress: show a bar once it takes over two seconds.

    Returns:
        a `LogPartition`. Network evaluations per chain: `steps` energies and `steps` energies with
        score, and `steps * moves` times those of the kernel; for `bridge` twice that.

    Raises:
        TypeError: if start is neither a shape nor such a density, or the model has no energy.
        ValueError: for an unknown name, a number outside its range, a kernel that is not adjusted,
            or samples that are missing.
        RuntimeError: if the energy is finite on no sample of start, or the path does not end.
    """
    chosen, mover = PARTITION_METHODS.resolve(method), KERNELS.resolve(kernel)
    _check(mover, chains, steps, moves, populations, betas, tune, samples)
    if chosen.populations:
        _require_populations(chains, populations)
    seed = int(torch.randint(1 << 62, ()).item()) if seed is None else seed
    end = _density(density)
    holder = density.model if isinstance(density, Marginal) else density
    like = blank_like(holder, otherwise=torch.float64)
    path = GeometricPath(as_reference(start, like, _states(end, mover)), end)
    with progress_bar(name="pilot", unit="stop", shown=progress) as bar:
        plan = _plan(
            path, mover, steps if betas is None else betas, moves, tune, like, seed, bar.update
        )
    total = chosen.walks * (len(plan.betas) - 1) + chosen.populations
    with progress_bar(total=total, name="log Z", unit="stop", shown=progress) as bar:
        return chosen.run(
            PartitionProblem(path, plan, chains, populations, samples, like, seed, bar.update)
        )


def _states(density: Density, kernel: Kernel) -> Sites | None:
    """The states of a discrete density, for which the kernel must be meant."""
    states = sites_of(density)
    if kernel.discrete == (states is not None):
        return states
    accepted = "mala, hmc, nuts" if states is None else "gibbs, gibbs-gradients"
    kind = "a continuous space" if states is None else "discrete states"
    raise ArgumentError(f"kernel={kernel} is not for {kind}, which the density has: try {accepted}")


def _density(density: Model | Density) -> Density:
    """The density itself, or that of a model at `t_min`."""
    end = Marginal(density) if isinstance(density, Model) else density
    if not isinstance(end, Density):
        raise ArgumentError(
            f"density is a {type(density).__name__}; accepted: an energy-based model, or a density "
            "with energy and score, such as a target or Marginal(model, t)"
        )
    return end


def _plan(
    path: GeometricPath,
    kernel: Kernel,
    stops: Sequence[float] | int,
    moves: int,
    tune: bool,
    like: Tensor,
    seed: int,
    tick: Tick,
) -> AnnealingPlan:
    if not tune and not isinstance(stops, int):
        return AnnealingPlan(list(stops), [kernel.step_size] * len(stops), kernel, moves)
    generator = generator_from(seed, 0)
    x = path.reference.sample(_PILOT, generator).to(like)
    noise = ExampleStreams(example_seeds(mix(seed, 1), _PILOT), x)
    return refine(pilot(path, kernel, x, noise, generator, tick), stops, moves)


def _check(
    kernel: Kernel,
    chains: int,
    steps: int,
    moves: int,
    populations: int,
    betas: Sequence[float] | None,
    tune: bool,
    samples: Tensor | None,
) -> None:
    require_count(2, chains=chains, populations=populations)
    require_count(steps=steps, moves=moves)
    if not kernel.adjusted or kernel.temperature != 1:
        raise ValueError(
            f"kernel={kernel} does not keep exp(-energy); accepted: an adjusted kernel at "
            "temperature 1, such as mala or hmc"
        )
    if betas is not None:
        ends = len(betas) >= 2 and betas[0] == 0 and betas[-1] == 1
        if not ends or any(not a < b for a, b in pairwise(betas)):
            raise ValueError(f"betas={list(betas)} must increase from 0 to 1")
    elif not tune:
        raise ValueError("tune=False needs betas: the pilot that it leaves out would find them")
    if samples is not None:
        require_batch("samples", samples)
        require_count(2, **{"number of samples": len(samples)})


def _require_populations(chains: int, populations: int) -> None:
    if chains % populations or chains < 2 * populations:
        raise ValueError(
            f"chains={chains} must be a multiple of populations={populations}, at least 2 in each"
        )
