r"""Sequential Monte Carlo: weighted particles along a path of distributions.

A `FeynmanKac` model says how particles start, how they step and how each step weighs them; the
driver `SMC` moves, weighs and resamples, whatever they stand for: a posterior, a product of models,
guidance, a tempered or a tilted distribution.

Particles come in *islands*, populations that never meet. Within one, those of little weight are
replaced by copies of the others as soon as

.. math:: ESS = \frac{(\sum_i w_i)^2}{\sum_i w_i^2} < threshold \cdot particles .

The mean weight of an island is an unbiased estimate of the normalizing constant Z; islands are
independent, so that log Z has a standard error.

Reference: Del Moral, Doucet & Jasra 2006, https://doi.org/10.1111/j.1467-9868.2006.00553.x.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_shape
from sde_score._core.conditions import Condition, mapped
from sde_score._core.modules import blank_like
from sde_score._core.progress import progress_bar
from sde_score.models import Model, as_condition, require_model
from sde_score.posterior.smc.particles import Particles
from sde_score.random import ExampleStreams, example_seeds, generator_from, mix
from sde_score.samplers import GRIDS, Grid

MANY_PARTICLES = (
    "exact in the limit of many particles, up to the steps of the model's own chain, whose error "
    "falls with their square"
)

Seen = tuple[Tensor, ...]
"""What was evaluated of the particles, each with them in front."""


class FeynmanKac(ABC):
    """A distribution that weighted particles reach along a grid of times; `print` says how well.

    Args:
        model: the one whose network is evaluated; it says where and how precise particles are.
        event_shape: of one particle.
        condition: what all particles are told: an entry for one example, shape `(1, ...)`.

    Raises:
        TypeError: if `model` lacks the protocol.
        ValueError: for a shape that is none, or a condition that the model does not take.
    """

    def __init__(
        self, model: Model, event_shape: Sequence[int], condition: Condition = None
    ) -> None:
        require_model(model)
        self.model = model
        self.event_shape = require_shape("event_shape", event_shape, "the shape of one particle")
        self.condition = None if condition is None else as_condition(condition, 1, model=model)

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.limit}"

    @property
    @abstractmethod
    def limit(self) -> str:
        """What the weighted particles tend to, and with what."""

    @abstractmethod
    def stages(self, times: Tensor, island_seeds: Sequence[int], particles: int) -> Stages:
        """The stages along these times, decreasing, float64.

        Args:
            times: at which the network is evaluated.
            island_seeds: seed of each island, for what its particles share.
            particles: of each island.
        """


class Stages(ABC):
    """The stages of a `FeynmanKac` model along a grid of n times: start, n - 1 steps, finish."""

    @abstractmethod
    def start(self, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        """The first particles, what is seen of them, and the logarithm of their weights.

        Args:
            z: standard normal draws, shape `(particles, *event)`, the islands one after another.
        """

    @abstractmethod
    def step(self, x: Tensor, seen: Seen, k: int, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        """Particles at time k + 1, what is seen of them, and the log of the factor on the weights.

        Args:
            x: particles at time k.
            seen: what was seen of them.
            k: number of the step, from 0.
            z: standard normal draws like x.
        """

    @abstractmethod
    def finish(self, x: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """The data behind the particles at the last time, and the log of the last factor."""


@dataclass(frozen=True)
class SMC:
    """The driver: calling it moves the particles of a `FeynmanKac` model from noise to data.

    Particles of one island depend on each other, so that their number belongs to the result;
    island i depends on seed i alone.

    Args:
        steps: stages, the last one to the data included; as many evaluations of each particle.
        grid: at which times; a name from `samplers.GRIDS`, or an object.
        particles: of each island.
        islands: independent populations, at least 2 for a standard error.
        threshold: share of the particles, in [0, 1], below which the effective sample size leads to
            resampling; 0 never resamples, 1 always.

    Raises:
        ValueError: for arguments outside their range.
    """

    steps: int = 100
    grid: str | Grid = "karras"
    particles: int = 128
    islands: int = 8
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(steps=self.steps, particles=self.particles, islands=self.islands)
        GRIDS.resolve(self.grid, name="grid")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must lie in [0, 1]")

    def __call__(
        self,
        target: FeynmanKac,
        *,
        seed: int = 0,
        batch_size: int = 4096,
        progress: bool = True,
    ) -> Particles:
        """Draw weighted particles.

        Args:
            target: what they shall be of.
            seed: random seed.
            batch_size: particles that the network sees at once, rounded to islands.
            progress: show a bar for what takes over two seconds.
        """
        times = GRIDS.resolve(self.grid).times(target.model.sde, self.steps)
        seeds = example_seeds(seed, self.islands)
        together = max(1, batch_size // self.particles)
        blocks = [seeds[i : i + together] for i in range(0, self.islands, together)]
        with progress_bar(total=len(blocks) * self.steps, name="smc", shown=progress) as bar:
            parts = [_Islands(self, target, times, block).run(bar.update) for block in blocks]
        return Particles.joined(parts)


class _Islands:
    """Some islands while they move together."""

    def __init__(self, driver: SMC, target: FeynmanKac, times: Tensor, seeds: list[int]) -> None:
        self.driver = driver
        self.model = target.model
        self.stages = target.stages(times, seeds, driver.particles)
        self.shape = (len(seeds), driver.particles)
        blank = blank_like(target.model, (math.prod(self.shape), *target.event_shape))
        own = [seed for each in seeds for seed in example_seeds(each, driver.particles)]
        self.draw = ExampleStreams(own, blank)
        offsets = [
            torch.rand(driver.steps, generator=generator_from(mix(each)), dtype=torch.float64)
            for each in seeds
        ]
        self.offsets = torch.stack(offsets, 1).to(blank.device)
        self.log_weights = torch.zeros(self.shape, dtype=torch.float64, device=blank.device)
        self.log_evidence = self.log_weights[:, 0].clone()
        self.origins = torch.arange(driver.particles, device=blank.device).expand(self.shape)
        self.sizes: list[Tensor] = []

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self, tick: Callable[[], object]) -> Particles:
        """Move them from the start to the data."""
        before = self.model.nfe
        x, seen, factor = self.stages.start(self.draw().clone())
        self._weigh(factor)
        for k in range(self.driver.steps - 1):
            x, seen = self._resampled(x, seen, k)
            x, seen, factor = self.stages.step(x, seen, k, self.draw())
            self._weigh(factor)
            tick()
        x, seen = self._resampled(x, seen, self.driver.steps - 1)
        x, factor = self.stages.finish(x, seen)
        self._weigh(factor)
        tick()
        total = self.log_weights.logsumexp(1)
        evidence = self.log_evidence + total - math.log(self.shape[1])
        sizes = torch.stack([*self.sizes, self._size()], 1)
        return Particles(
            x.reshape(*self.shape, *x.shape[1:]), self.log_weights - total[:, None], evidence,
            sizes, self.origins, self.model.nfe - before,
        )  # fmt: skip

    def _weigh(self, factor: Tensor) -> None:
        self.log_weights = self.log_weights + factor.double().reshape(self.shape)

    def _size(self) -> Tensor:
        """Effective sample size of each island."""
        return (-(2 * self.log_weights.log_softmax(1)).logsumexp(1)).exp()

    def _resampled(self, x: Tensor, seen: Seen, k: int) -> tuple[Tensor, Seen]:
        """The particles, those of islands with few effective ones drawn anew by their weights."""
        sizes, count = self._size(), self.shape[1]
        self.sizes.append(sizes)
        stay = (sizes >= self.driver.threshold * count)[:, None]
        own = torch.arange(count, device=x.device)
        drawn = systematic(self.log_weights.softmax(1), self.offsets[k])
        parent = torch.where(stay, own, drawn)
        mean = self.log_weights.logsumexp(1, keepdim=True) - math.log(count)
        self.log_evidence = self.log_evidence + torch.where(stay, 0.0, mean)[:, 0]
        self.log_weights = torch.where(stay, self.log_weights, 0.0)
        self.origins = self.origins.gather(1, parent)
        flat = (parent + count * torch.arange(len(parent), device=x.device)[:, None]).flatten()
        return x[flat], tuple(part[flat] for part in seen)


def for_all(condition: Condition, x: Tensor) -> Condition:
    """What all particles x are told, from an entry for one of them, shape `(1, ...)`."""
    return mapped(condition, lambda c: c.to(x.device).expand(len(x), *c.shape[1:]))


def systematic(weights: Tensor, offset: Tensor) -> Tensor:
    """Parents by systematic resampling: particle i has floor or ceil of N w_i children.

    Args:
        weights: normalized, shape `(islands, particles)`.
        offset: one uniform number in [0, 1) for each island, shape `(islands,)`.

    Returns:
        Indices, increasing, shape `(islands, particles)`.

    Reference: Kitagawa 1996, https://doi.org/10.1080/10618600.1996.10474692.
    """
    count = weights.shape[1]
    points = (torch.arange(count, device=weights.device) + offset[:, None]) / count
    edges = weights.cumsum(1)
    edges = edges / edges[:, -1:]
    return torch.searchsorted(edges, points).clamp(max=count - 1)
