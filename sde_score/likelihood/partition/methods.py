"""The methods that estimate log Z: each anneals along the path and combines the weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.registry import Registry
from sde_score.likelihood.partition.annealing import (
    AnnealingPlan,
    ParticleRun,
    Tick,
    anneal,
    resample,
    sequential,
)
from sde_score.likelihood.partition.estimators import (
    Measurement,
    bennett,
    exponential_average,
    negative,
    thermodynamic,
)
from sde_score.likelihood.partition.geometric_path import GeometricPath
from sde_score.likelihood.partition.result import LogPartition
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix


@dataclass(frozen=True, eq=False)
class PartitionProblem:
    """A path with its annealing plan, and the settings of one estimate of log Z."""

    path: GeometricPath
    plan: AnnealingPlan
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
        best: Measurement | None,
        walk: ParticleRun,
        forward: Tensor | None = None,
        reverse: Tensor | None = None,
        samples: Tensor | None = None,
    ) -> LogPartition:
        """The best estimate, by default the only bound, with all bounds, weights and samples."""
        lower = None if forward is None else exponential_average(forward)
        upper = None if reverse is None else negative(exponential_average(reverse))
        value = best or lower or upper or Measurement(math.nan, math.nan)
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


class PartitionMethod(ABC):
    """A method that estimates log Z."""

    walks: ClassVar[int] = 1
    """Number of times that it anneals along the path."""

    populations: ClassVar[bool] = False
    """Whether the chains are divided into populations, each resampled on its own."""

    reference: ClassVar[str] = ""
    """The paper."""

    @abstractmethod
    def run(self, problem: PartitionProblem) -> LogPartition:
        """Estimate log Z of the density at the end of the path."""


@dataclass(frozen=True)
class AnnealedImportance(PartitionMethod):
    """Annealed importance sampling: a lower bound on average."""

    reference = "Neal 2001, https://arxiv.org/abs/physics/9803008"

    @override
    def run(self, problem: PartitionProblem) -> LogPartition:
        walk = problem.forward()
        return problem.result(None, walk, forward=walk.log_weights)


@dataclass(frozen=True)
class ReverseAnnealedImportance(PartitionMethod):
    """Annealed importance sampling from exact samples of the density: an upper bound on average."""

    reference = "Grosse et al. 2015, https://arxiv.org/abs/1511.02543"

    @override
    def run(self, problem: PartitionProblem) -> LogPartition:
        walk = problem.backward()
        return problem.result(None, walk, reverse=walk.log_weights)


@dataclass(frozen=True)
class Bridge(PartitionMethod):
    """Bennett's acceptance ratio of both directions."""

    walks = 2
    reference = "Bennett 1976, https://doi.org/10.1016/0021-9991(76)90078-4"

    @override
    def run(self, problem: PartitionProblem) -> LogPartition:
        reverse, forward = problem.backward().log_weights, problem.forward()
        best = bennett(forward.log_weights, reverse)
        return problem.result(best, forward, forward.log_weights, reverse)


@dataclass(frozen=True)
class SequentialMonteCarlo(PartitionMethod):
    """Sequential Monte Carlo: chains resampled by weight, a lower bound on average."""

    populations = True
    reference = "Del Moral et al. 2006, https://doi.org/10.1111/j.1467-9868.2006.00553.x"

    @override
    def run(self, problem: PartitionProblem) -> LogPartition:
        return _resampled(problem, integrate=False)


@dataclass(frozen=True)
class ThermodynamicIntegration(PartitionMethod):
    """The mean energy integrated over the path of sequential Monte Carlo."""

    populations = True
    reference = "Gelman & Meng 1998, https://doi.org/10.1214/ss/1028905934"

    @override
    def run(self, problem: PartitionProblem) -> LogPartition:
        return _resampled(problem, integrate=True)


def _resampled(problem: PartitionProblem, integrate: bool) -> LogPartition:
    generator = generator_from(problem.seed, 5)
    walk = problem.particles(generator)
    best = thermodynamic(walk, problem.plan.betas) if integrate else None
    resample(walk, problem.populations, generator, threshold=2.0)
    return problem.result(best, walk, forward=walk.log_gain, samples=walk.x)


PARTITION_METHODS: Registry[PartitionMethod] = Registry(
    "partition method",
    {
        "ais": AnnealedImportance,
        "reverse-ais": ReverseAnnealedImportance,
        "bridge": Bridge,
        "smc": SequentialMonteCarlo,
        "thermodynamic": ThermodynamicIntegration,
    },
    base=PartitionMethod,
)
"""Methods that estimate log Z, by name."""
