"""The ways to estimate log Z: each walks the path and reads the weights in its own manner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from sde_score.likelihood.partition.annealing import (
    ParticleRun,
    Plan,
    Tick,
    anneal,
    resample,
    sequential,
)
from sde_score.likelihood.partition.estimators import (
    Estimate,
    bennett,
    exponential_average,
    negative,
    thermodynamic,
)
from sde_score.likelihood.partition.geometric_path import Path
from sde_score.likelihood.partition.result import LogPartition
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix


@dataclass(frozen=True, eq=False)
class Task:
    """What a method needs to know."""

    path: Path
    plan: Plan
    chains: int
    populations: int
    samples: Tensor | None
    like: Tensor
    seed: int
    tick: Tick

    def start(self, stream: int) -> tuple[Tensor, ExampleStreams]:
        """Exact samples of the reference and a source of noise."""
        drawn = self.path.reference.sample(self.chains, generator_from(self.seed, stream))
        x = drawn.to(self.like)
        return x, self.noise(stream, x)

    def noise(self, stream: int, x: Tensor) -> ExampleStreams:
        """A source of noise for each of the chains at x."""
        return ExampleStreams(example_seeds(mix(self.seed, stream), len(x)), x)

    def forward(self) -> ParticleRun:
        """From the reference to the density."""
        return anneal(self.path, self.plan, *self.start(2), self.tick)

    def backward(self) -> ParticleRun:
        """From exact samples of the density to the reference.

        Raises:
            ValueError: if there are none.
        """
        x = self.samples
        if x is None:
            draw = getattr(self.path.density, "sample", None)
            if draw is None:
                raise ValueError(
                    "the reverse direction starts from samples of the density, which has no "
                    "sample(count, generator); give samples=..., such as those of long chains "
                    "(run_chains) or of log_partition(..., method='smc').samples"
                )
            x = draw(self.chains, generator_from(self.seed, 3))
        x = x.to(self.like)
        return anneal(self.path, self.plan.reverse(), x, self.noise(3, x), self.tick)

    def particles(self, generator: Generator) -> ParticleRun:
        """Populations of particles from the reference to the density."""
        x, noise = self.start(4)
        return sequential(self.path, self.plan, x, noise, self.populations, generator, self.tick)

    def result(
        self,
        best: Estimate | None,
        walk: ParticleRun,
        forward: Tensor | None = None,
        reverse: Tensor | None = None,
        samples: Tensor | None = None,
    ) -> LogPartition:
        """The best estimate, by default the only bound there is, with what else is known."""
        lower = None if forward is None else exponential_average(forward)
        upper = None if reverse is None else negative(exponential_average(reverse))
        value = best or lower or upper or Estimate(math.nan, math.nan)
        return LogPartition(
            value=value.value,
            standard_error=value.standard_error,
            lower=lower,
            upper=upper,
            forward=forward,
            reverse=reverse,
            samples=samples,
            betas=self.plan.betas,
            step_sizes=self.plan.step_sizes,
            acceptance=torch.stack(walk.acceptance) if walk.acceptance else torch.empty(0),
        )


def _ais(task: Task) -> LogPartition:
    walk = task.forward()
    return task.result(None, walk, forward=walk.log_weights)


def _reverse_ais(task: Task) -> LogPartition:
    walk = task.backward()
    return task.result(None, walk, reverse=walk.log_weights)


def _bridge(task: Task) -> LogPartition:
    reverse, forward = task.backward().log_weights, task.forward()
    best = bennett(forward.log_weights, reverse)
    return task.result(best, forward, forward.log_weights, reverse)


def _smc(task: Task, integrate: bool = False) -> LogPartition:
    generator = generator_from(task.seed, 5)
    walk = task.particles(generator)
    best = thermodynamic(walk, task.plan.betas) if integrate else None
    resample(walk, task.populations, generator, threshold=2.0)
    return task.result(best, walk, forward=walk.log_gain, samples=walk.x)


@dataclass(frozen=True)
class Method:
    """One way to estimate log Z.

    Args:
        run: does it.
        walks: times that it walks the path.
        reference: the paper.
    """

    run: Callable[[Task], LogPartition]
    walks: int
    reference: str


PARTITION_METHODS: Mapping[str, Method] = {
    "ais": Method(_ais, 1, "Neal 2001, https://arxiv.org/abs/physics/9803008"),
    "reverse-ais": Method(_reverse_ais, 1, "Grosse et al. 2015, https://arxiv.org/abs/1511.02543"),
    "bridge": Method(_bridge, 2, "Bennett 1976, https://doi.org/10.1016/0021-9991(76)90078-4"),
    "smc": Method(
        _smc, 1, "Del Moral et al. 2006, https://doi.org/10.1111/j.1467-9868.2006.00553.x"
    ),
    "thermodynamic": Method(
        partial(_smc, integrate=True),
        1,
        "Gelman & Meng 1998, https://doi.org/10.1214/ss/1028905934",
    ),
}
"""Ways to estimate log Z, by name."""
