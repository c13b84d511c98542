"""Mixtures of Gaussians seen through a random matrix, their posteriors, and distances to them.

Data have 25 components of unit covariance, at (8 i, 8 j, 8 i, 8 j, ...) with i and j from -2 to 2,
and weights in proportion to squares of normal draws. The matrix has random singular vectors and
singular values uniform on [0, 1]; the noise of y is uniform below the largest of them. The
posterior is a mixture again, of the same components moved and weighed by y.

Reference: Cardoso et al. 2023, https://arxiv.org/abs/2308.07983.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sde_score.models import GaussianMixture
from sde_score.posterior import Matrix, Measurement
from sde_score.sdes import EDM, SDE

SIZE = 8
DIRECTIONS = 100


@dataclass(frozen=True)
class Mixture:
    """A problem and its answer.

    Args:
        prior: the data, noised.
        seen: what was measured.
        posterior: the data given that, noised.
        log_evidence: log p(y).
    """

    prior: GaussianMixture
    seen: Measurement
    posterior: GaussianMixture
    log_evidence: float

    @classmethod
    def of(cls, means: Tensor, weights: Tensor, seen: Measurement, sde: SDE) -> Mixture:
        """The problem of components of unit covariance."""
        a, y = seen.operator.matrix, seen.y
        spread = a @ a.T + seen.noise_root @ seen.noise_root.T
        gain = a.T @ torch.linalg.inv(spread)
        off = y - means @ a.T
        logs = (weights / weights.sum()).log()
        logs = logs + MultivariateNormal(torch.zeros_like(y), spread).log_prob(off)
        covariance = torch.eye(means.shape[1], dtype=torch.float64) - gain @ a
        covariance = (0.5 * (covariance + covariance.T)).expand(len(means), *covariance.shape)
        share = logs.softmax(0).clamp(min=1e-300)
        posterior = GaussianMixture(means + off @ gain.T, covariance, sde, share)
        prior = GaussianMixture(means, 1.0, sde, weights)
        return cls(prior, seen, posterior, float(logs.logsumexp(0)))

    def exact(self, count: int, seed: int) -> Tensor:
        """Exact draws of the posterior."""
        return self.posterior.sample(count, generator=torch.Generator().manual_seed(seed))

    def mode_distance(self, x: Tensor) -> float:
        """Total variation between the weights of the components and the shares of x in them."""
        logs = []
        for share, mean, variance, axes in zip(
            self.posterior.weights, self.posterior.means, self.posterior.variances,
            self.posterior.axes, strict=True,
        ):  # fmt: skip
            along = (x.double() - mean) @ axes
            logs.append(share.log() - 0.5 * (along**2 / variance).sum(1))
        shares = torch.stack(logs).softmax(0).mean(1)
        return 0.5 * float((shares - self.posterior.weights).abs().sum())


def mixtures(measured: int, count: int, sde: SDE | None = None) -> Iterator[Mixture]:
    """Problems with the seeds 0, 1, ..., of each the weights, the matrix, its singular values, the
    noise of y, x0, and y.

    Args:
        measured: entries of y.
        count: of problems.
        sde: the diffusion; EDM's from .002 to 500 if not given.
    """
    sde = EDM(sigma_min=0.002, sigma_max=500.0) if sde is None else sde
    places = [8.0 * place for place in range(-2, 3)]
    means = torch.tensor([[i, j] * (SIZE // 2) for i, j in product(places, places)]).double()
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64, generator=generator)

        weights = normal(len(means)) ** 2
        u, singular, v = torch.linalg.svd(normal(measured, SIZE), full_matrices=False)
        uniform = torch.rand(measured + 1, dtype=torch.float64, generator=generator)
        singular = uniform[:-1].sort(descending=True).values
        a, std = (u * singular) @ v, float(uniform[-1] * singular[0])
        which = int(torch.multinomial(weights, 1, generator=generator))
        y = a @ (means[which] + normal(SIZE)) + std * normal(measured)
        yield Mixture.of(means, weights, Measurement(Matrix(a), y, std), sde)


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced 1-Wasserstein distance of two sets of one size, over 100 directions of one seed."""
    generator = torch.Generator().manual_seed(0)
    lines = torch.randn(DIRECTIONS, x.shape[1], dtype=torch.float64, generator=generator)
    lines = torch.nn.functional.normalize(lines, dim=1)
    a, b = ((each.double() @ lines.T).sort(0).values for each in (x, y))
    return float((a - b).abs().mean())
