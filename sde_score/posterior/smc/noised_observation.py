r"""Particles led by noised observations: the network is evaluated alone, without gradients.

All is done in the coordinates of the singular values s of A, in which an observation is
y_j = s_j x0_j + sigma_y n_j, and the steps of the model's chain are conjugate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, sum_event
from sde_score._core.conditions import Condition
from sde_score.models import Model
from sde_score.posterior.observations import Observation, as_measurement
from sde_score.posterior.smc.driver import MANY_PARTICLES, FeynmanKac, Seen, Stages, for_all
from sde_score.posterior.smc.reference_chain import ReferenceChain
from sde_score.random import generator_from


class NoisedObservation(FeynmanKac):
    r"""The posterior of a model given a linear measurement, by particles that need no gradients.

    With `path="mean"`, as MCG-diff, a noisy state is weighed by the likelihood under a flat prior,

    .. math:: g_t(x_t) = \prod_j N(y_j;\ s_j x_{t, j} / \alpha,\ \sigma_y^2 + s_j^2 \sigma^2 /
              \alpha^2),

    which the next step takes back, so that at the data the likelihood alone remains. With
    `path="drawn"`, as FPS, each island draws a walk of y_j to noise, as examples walk, from
    \sigma / \alpha = \sigma_y / s_j on, where y_j itself is a noisy example; particles agree with
    it, and are weighed by how probable that was.

    Args:
        model: of the prior; anything with the model protocol.
        observation: a `Measurement` whose noise is one number.
        path: of the noised observation, one of the above.
        condition: what all particles are told: an entry for one example, shape `(1, ...)`.

    Raises:
        TypeError: for another observation.
        ValueError: for an unknown path, or noise that is not one number.

    Reference: Cardoso et al. 2023 (MCG-diff), https://arxiv.org/abs/2308.07983; Dou & Song 2024
    (FPS), https://openreview.net/forum?id=tplXNcHZs1.
    """

    def __init__(
        self,
        model: Model,
        observation: Observation,
        path: str = "mean",
        condition: Condition = None,
    ) -> None:
        seen = as_measurement(observation, type(self).__name__)
        require_choice("path", path, ("mean", "drawn"))
        variance = seen.scalar_variance
        if variance is None:
            raise ValueError(
                "the observation's noise differs from entry to entry; accepted: one std for all, "
                "or the particles of Twisted"
            )
        super().__init__(model, seen.operator.event_shape, condition)
        self.observation = seen
        self.variance = variance
        self.path = path

    @property
    @override
    def limit(self) -> str:
        return MANY_PARTICLES

    @override
    def stages(self, times: Tensor, island_seeds: Sequence[int], particles: int) -> Stages:
        if self.path == "mean":
            return _ConjugateStages(self, times)
        return _WalkStages(self, times, island_seeds, particles)


class _SpectralStages(Stages):
    """What is seen of a particle: D, and that of the step before."""

    def __init__(self, target: NoisedObservation, times: Tensor) -> None:
        self.target, self.times = target, times.tolist()
        self.chain = ReferenceChain.of(target.model.sde, times)
        self.ratio = target.model.sde.noise_ratio(times)
        self.alpha = target.model.sde.alpha(times).tolist()
        observation = target.observation
        self.spectrum = observation.operator.spectrum
        self.singular = self.spectrum.singular
        self.variance = target.variance
        y = observation.y.double()[None]
        self.y = self.spectrum.of_measured(y)
        rest = y - self.spectrum.to_measured(self.y)
        unseen = prod(observation.operator.measured_shape) - len(self.singular)
        constant = unseen * (self.variance.log() + math.log(2 * math.pi))
        self.unseen = -0.5 * float(sum_event(rest**2) / self.variance + constant)

    @override
    def start(self, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        nothing, std = torch.zeros_like(z), self.target.model.sde.prior_std
        factor = self._log_predicted(nothing, nothing, std, -1) + self.unseen
        x = self._moved(nothing, nothing, std, z, -1)
        x0 = self._denoise(x, 0)
        return x, (x0, x0), factor + self._log_factor(x, x0, x0, 0)

    @override
    def step(self, x: Tensor, seen: Seen, k: int, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        x0, before = seen
        mean = self.chain.mean(x, x0, before, k)
        x = self._moved(x, mean, self.chain.std[k], z, k)
        now = self._denoise(x, k + 1)
        return x, (now, x0), self._log_factor(x, now, x0, k + 1)

    @override
    def finish(self, x: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        return seen[0], x.new_zeros(len(x))

    def _denoise(self, x: Tensor, k: int) -> Tensor:
        told = for_all(self.target.condition, x)
        return self.target.model.denoise(x, self.times[k], told)

    def _log_factor(self, x: Tensor, x0: Tensor, before: Tensor, k: int) -> Tensor:
        """log of the weight of particles at time k, for the step that follows."""
        if k + 1 == len(self.times):
            return self._log_end(x, x0, k)
        mean = self.chain.mean(x, x0, before, k)
        return self._log_predicted(x, mean, self.chain.std[k], k) - self._log_taken_back(x, k)

    @abstractmethod
    def _moved(self, x: Tensor, mean: Tensor, std: float, z: Tensor, k: int) -> Tensor:
        """Draws at time k + 1: the chain's, given the observation there."""

    @abstractmethod
    def _log_predicted(self, x: Tensor, mean: Tensor, std: float, k: int) -> Tensor:
        """log density of the observation at time k + 1, predicted by the chain."""

    @abstractmethod
    def _log_taken_back(self, x: Tensor, k: int) -> Tensor | float:
        """log of what the weights hold of the observation at time k."""

    @abstractmethod
    def _log_end(self, x: Tensor, x0: Tensor, k: int) -> Tensor:
        """log of the weight of particles at the last time."""


class _ConjugateStages(_SpectralStages):
    """Particles step from the product of the chain with g at the next time."""

    def __init__(self, target: NoisedObservation, times: Tensor) -> None:
        super().__init__(target, times)
        self.variances = self.variance + (self.singular * self.ratio[:, None]) ** 2

    def _moved(self, x: Tensor, mean: Tensor, std: float, z: Tensor, k: int) -> Tensor:
        on, y, variance = self._observed(k + 1, mean)
        precision = 1 / std**2 + on**2 / variance
        center = self.spectrum.of_event(mean) / std**2 + on * y / variance
        coordinates = center / precision + self.spectrum.of_event(z) / precision.sqrt()
        return self.spectrum.replace(mean + std * z, coordinates)

    def _log_predicted(self, x: Tensor, mean: Tensor, std: float, k: int) -> Tensor:
        on, y, variance = self._observed(k + 1, mean)
        return log_normal(y - on * self.spectrum.of_event(mean), variance + (on * std) ** 2)

    def _log_taken_back(self, x: Tensor, k: int) -> Tensor:
        return self._log_predicted(x, x, 0.0, k - 1)

    def _log_end(self, x: Tensor, x0: Tensor, k: int) -> Tensor:
        end = self.target.observation.log_prob(x0).double() - self.unseen
        return end - self._log_taken_back(x, k)

    def _observed(self, k: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of g_k: the factor on coordinates, what is observed of them, and its variance."""
        parts = self.singular / self.alpha[k], self.y, self.variances[k]
        return parts[0].to(like), parts[1].to(like), parts[2].to(like)


class _WalkStages(_SpectralStages):
    r"""Particles agree with a walk of y above the noise of y, and with y itself where they pass it.

    Coordinates are taken in units of x_t / alpha: c = x / alpha, y / s, with sigma_y / s the noise
    that y / s has as a noisy example.
    """

    def __init__(
        self, target: NoisedObservation, times: Tensor, seeds: Sequence[int], particles: int
    ) -> None:
        super().__init__(target, times)
        self.noise = self.variance.sqrt() / self.singular
        walks = [self._walk(generator_from(seed, 2)) for seed in seeds]
        self.walks = torch.stack([walk for walk, _ in walks], 1).repeat_interleave(particles, 1)
        self.density = torch.stack([log for _, log in walks]).repeat_interleave(particles)

    def _walk(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A walk at each time `(times, coordinates)`, y itself below its noise; its log density."""
        levels = self.ratio.flip(0)[:, None].maximum(self.noise)
        stds = (levels**2).diff(dim=0, prepend=self.noise[None] ** 2).clamp(min=0).sqrt()
        z = torch.randn(stds.shape, generator=generator, dtype=torch.float64)
        walk = (self.y / self.singular + (stds * z).cumsum(0)).flip(0)
        logs = -0.5 * z**2 - (stds * math.sqrt(2 * math.pi)).log()
        # y has the density of y / s over s.
        return walk, torch.where(stds > 0, logs, 0.0).sum() + self.singular.log().sum()

    @override
    def start(self, z: Tensor) -> tuple[Tensor, Seen, Tensor]:
        x, seen, factor = super().start(z)
        return x, seen, factor - self.density.to(x.device)

    def _moved(self, x: Tensor, mean: Tensor, std: float, z: Tensor, k: int) -> Tensor:
        above, passes, center, spread, _, _ = self._cases(x, mean, std, k)
        alpha = self.alpha[k + 1]
        free = torch.where(passes, center, self.spectrum.of_event(mean) / alpha)
        free = free + torch.where(passes, spread, std / alpha) * self.spectrum.of_event(z)
        coordinates = torch.where(above, self.walks[k + 1].to(free), free)
        return self.spectrum.replace(mean + std * z, coordinates * alpha)

    def _log_predicted(self, x: Tensor, mean: Tensor, std: float, k: int) -> Tensor:
        above, passes, _, _, off, variance = self._cases(x, mean, std, k)
        return log_normal(off, variance, above | passes)

    def _log_taken_back(self, x: Tensor, k: int) -> float:
        return 0.0

    def _log_end(self, x: Tensor, x0: Tensor, k: int) -> Tensor:
        """What was above the noise of y at the last time still has to meet y: as in a step."""
        above = (self.ratio[k] > self.noise).to(x.device)
        off = self.y.to(x0) / self.singular.to(x0) - self.spectrum.of_event(x0)
        return log_normal(off, (self.noise**2).to(x0), above)

    def _cases(self, x: Tensor, mean: Tensor, std: float, k: int) -> tuple[Tensor, ...]:
        """Which coordinates are above their noise of y after the step, and which pass it; the mean
        and spread of those after it; what the walk, or y, is off its prediction, and its variance.
        """
        noise, alpha = self.noise.to(x), self.alpha[k + 1]
        high = torch.inf if k < 0 else float(self.ratio[k])
        low = float(self.ratio[k + 1])
        above, passes = noise < low, (noise >= low) & (noise < high)
        predicted = self.spectrum.of_event(mean) / alpha
        if k < 0:  # from the prior, whose mean is zero and whose noise is that of the first time
            data, here, share = torch.zeros_like(predicted), torch.zeros_like(predicted), 0.0
            kept = torch.zeros_like(noise)
        else:
            here = self.spectrum.of_event(x) / self.alpha[k]
            share = (low / high) ** 2
            data = (predicted - share * here) / (1 - share)  # the denoised mean of the step
            kept = (noise / high) ** 2
        at_y = kept * here + (1 - kept) * data
        walk = self.walks[k + 1].to(x)
        off = walk - torch.where(passes, at_y, predicted)
        variance = torch.where(passes, noise**2 * (1 - kept), (std / alpha) ** 2)
        after = (low / noise) ** 2
        center = after * walk + (1 - after) * data
        spread = low * (1 - after).clamp(min=0).sqrt()
        return above, passes, center, spread, off, variance


def log_normal(off: Tensor, variance: Tensor, counted: Tensor | None = None) -> Tensor:
    """log N(off; 0, variance), summed over the coordinates that are counted, float64 `(batch,)`."""
    logs = -0.5 * (off**2 / variance + (2 * math.pi * variance).log()).double()
    return (logs if counted is None else torch.where(counted, logs, 0.0)).sum(1)
