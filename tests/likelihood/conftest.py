from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sde_score import sdes
from sde_score.models import GaussianMixture
from sde_score.sdes import SDE


@pytest.fixture(params=sdes.available())
def sde(request) -> SDE:
    return sdes.create(request.param)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass
class GaussianFlow:
    """The probability flow of data N(mean, covariance) in closed form."""

    mean: Tensor
    covariance: Tensor
    sde: SDE

    @property
    def model(self) -> GaussianMixture:
        return GaussianMixture(self.mean[None], self.covariance[None], self.sde)

    def latent(self, x: Tensor) -> Tensor:
        """x_T = a_T m + S_T^(1/2) S_0^(-1/2) (x - a_0 m), S_t the covariance at t."""
        start, end = self._ends()
        ratio = (end[1] / start[1]).sqrt()
        off = (x.flatten(1) - start[0]) @ self._axes
        return (end[0] + (off * ratio) @ self._axes.mT).reshape(x.shape)

    def stretch(self) -> Tensor:
        """Eigenvalues of the integral of the Jacobian of the flow, 1/2 log(S_T / S_0)."""
        start, end = self._ends()
        return 0.5 * (end[1] / start[1]).log()

    def log_prob(self, x: Tensor) -> Tensor:
        return self.sde.prior(x.shape).log_prob(self.latent(x)) + self.stretch().sum()

    @property
    def _axes(self) -> Tensor:
        return torch.linalg.eigh(self.covariance)[1]

    def _ends(self) -> list[tuple[Tensor, Tensor]]:
        """Mean and variances along the principal axes, at t_min and t_max."""
        variances = torch.linalg.eigh(self.covariance)[0]
        ends = []
        for t in (self.sde.t_min, self.sde.t_max):
            alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
            ends.append((alpha * self.mean.flatten(), alpha**2 * variances + sigma**2))
        return ends


@pytest.fixture
def gaussian_flow(generator):
    """Makes the flow of a Gaussian with a full covariance, for an SDE and an event shape."""

    def make(sde: SDE, event: tuple[int, ...] = (3,)) -> GaussianFlow:
        mean = torch.randn(event, generator=generator, dtype=torch.float64)
        size = mean.numel()
        root = torch.randn(size, size, generator=generator, dtype=torch.float64) / size**0.5
        return GaussianFlow(mean, root @ root.mT + 0.05 * torch.eye(size), sde)

    return make
