"""A Markov chain at one noise level as a sampler, so that any kernel draws from any model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_positive
from sde_score.mcmc.adaptation import require_tunable
from sde_score.mcmc.chains import Walk
from sde_score.mcmc.kernel import KERNELS, Kernel
from sde_score.models import Marginal
from sde_score.samplers.base import Sampler
from sde_score.samplers.grids import Grid
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE


@dataclass(frozen=True)
class OneTime(Grid):
    """One time, at which a chain stays; `end`, or `sde.t_min`."""

    @override
    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        return torch.full_like(u, end)

    @override
    def times(self, sde: SDE, count: int) -> Tensor:
        time = sde.t_min if self.end is None else self.end
        sde.check_time(time)
        return self.place(sde, torch.empty(count, dtype=torch.float64), time)


@dataclass(frozen=True)
class MCMC(Sampler):
    """One chain per sample at one time of the diffusion; the samples are where the chains end.

    The way to sample an energy-based model that was trained without noise. Between modes that are
    far apart a chain does not move: then the share of each mode is that of the start, and
    `annealed-langevin` or the kernel `tempering` serve better. For all draws of few long chains,
    with diagnostics, see `run_chains`.

    Args:
        steps: of the kernel, after the warm-up; the denoising, if any, counts as the last.
        kernel: a name from `KERNELS`, such as `"hmc(step_size=0.2)"`, or an object. With a model
            that knows its score alone: `"mala-score"`, `"ula"`, `"baoab"`, `"obabo"`.
        t: time at which the model is sampled; None for `sde.t_min`, which stands for the data.
        start_std: standard deviation of a start that is drawn, > 0; a given start is one at t.
        warmup: steps before, in which each chain's step size is tuned where the kernel is adjusted.
        adapt_mass: learn each chain's mass in the warm-up too.
        denoise: end with E[x0 | x_t], for a t whose noise is to be seen.

    Raises:
        ValueError: for arguments outside their range, on construction; when called, if t does not
            lie in the times of the SDE.
        TypeError: when called, if the kernel needs an energy that the model does not have.
    """

    grid: str | Grid = field(default="native", init=False, repr=False)
    denoise: bool = False
    kernel: str | Kernel = "mala"
    t: float | None = None
    start_std: float = 1.0
    warmup: int = 0
    adapt_mass: bool = False

    descends: ClassVar[bool] = False
    from_noise: ClassVar[bool] = False

    undifferentiable = "a step of a chain may be rejected"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "grid", OneTime(self.t))
        require_positive(start_std=self.start_std)
        require_count(0, warmup=self.warmup)
        require_tunable(KERNELS.resolve(self.kernel, name="kernel"), self.adapt_mass)

    @override
    def start_spread(self, sde: SDE, sigma_data: float = 1.0) -> float:
        return self.start_std

    @property
    @override
    def total(self) -> int | None:
        return self.warmup + self.steps - self.denoise

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        density = Marginal(problem.model, problem.moments(x.device)[0], problem.condition)
        kernel = KERNELS.resolve(self.kernel)
        walk = Walk(density, x, kernel, problem.noise, self.warmup, adapt_mass=self.adapt_mass)
        for _ in range(self.warmup):
            walk.step()
            problem.tick()
        for time in problem.times[1:].tolist():
            yield time, walk.step().state.x
