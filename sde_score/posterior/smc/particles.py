"""Weighted particles: means, samples, and log Z with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.random import generator_from


@dataclass(frozen=True, eq=False)
class Particles:
    """Weighted particles of several islands.

    Args:
        samples: shape `(islands, particles, *event)`.
        log_weights: normalized within each island, float64, `(islands, particles)`.
        log_evidences: estimate of log Z by each island, whose exponentials are unbiased, float64,
            `(islands,)`.
        sizes: effective sample size before each step and at the end, `(islands, steps + 1)`.
        origins: which particle of the start each comes from, `(islands, particles)`.
        nfe: network evaluations of each particle.
    """

    samples: Tensor
    log_weights: Tensor
    log_evidences: Tensor
    sizes: Tensor
    origins: Tensor
    nfe: float

    @classmethod
    def joined(cls, parts: Sequence[Particles]) -> Particles:
        """The islands of several calls."""
        first, *rest = parts
        if not rest:
            return first
        names = ("samples", "log_weights", "log_evidences", "sizes", "origins")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls(**joined, nfe=first.nfe)

    @property
    def log_evidence(self) -> float:
        """log Z: the logarithm of the mean over islands, in nats."""
        mean = self.log_evidences.logsumexp(0) - math.log(len(self.log_evidences))
        return float(mean)

    @property
    def standard_error(self) -> float:
        """Of `log_evidence`: relative standard error of the mean over islands; NaN for one."""
        share = (self.log_evidences - self.log_evidence).exp()
        return float(share.std() / math.sqrt(len(share))) if len(share) > 1 else math.nan

    @property
    def weights(self) -> Tensor:
        """Weights of all particles, those of an island in proportion to its estimate of Z; they sum
        to 1, shape `(islands, particles)`."""
        return (self.log_evidences.log_softmax(0)[:, None] + self.log_weights).exp()

    @property
    def ess(self) -> float:
        """Effective sample size of all particles at the end; copies count as particles."""
        return float(1 / (self.weights**2).sum())

    @property
    def survivors(self) -> float:
        """Mean number of particles of the start, in an island, that have descendants: where it is
        small, what was decided early was decided by few."""
        return sum(len(set(row)) for row in self.origins.tolist()) / len(self.origins)

    def mean(self) -> Tensor:
        """Weighted mean, shape `event`."""
        return torch.einsum("n,nd->d", self.weights.flatten(), self._flat()).reshape(
            self.samples.shape[2:]
        )

    def covariance(self) -> Tensor:
        """Weighted covariance over flattened events, shape `(D, D)`."""
        off = self._flat() - self.mean().flatten()
        return torch.einsum("n,nc,nd->cd", self.weights.flatten(), off, off)

    def resampled(self, num: int, seed: int = 0) -> Tensor:
        """Samples with equal weights, shape `(num, *event)`; the same particle may come again.

        Args:
            num: how many.
            seed: random seed.
        """
        require_count(num=num)
        flat = self.samples.flatten(0, 1)
        offset = torch.rand((), generator=generator_from(seed), dtype=torch.float64).to(flat.device)
        edges = self.weights.flatten().cumsum(0)
        points = (torch.arange(num, device=flat.device) + offset) / num
        chosen = torch.searchsorted(edges / edges[-1], points).clamp(max=len(flat) - 1)
        mixed = torch.randperm(num, generator=generator_from(seed, 1)).to(flat.device)
        return flat[chosen[mixed]]

    def __str__(self) -> str:
        islands, count = self.log_weights.shape
        return (
            f"log Z = {self.log_evidence:.4f} +- {self.standard_error:.4f} nats, {islands} islands "
            f"of {count} particles, ess {self.ess:.1f}, {self.survivors:.1f} of {count} starts "
            "survive"
        )

    def _flat(self) -> Tensor:
        return self.samples.flatten(0, 1).flatten(1).double()
