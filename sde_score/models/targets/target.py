"""The contract of a target: a law known up to, and including, its constant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from sde_score.models.base import Model
from sde_score.sdes import SDE


class Target(ABC):
    r"""An exact law on events: p(x) = exp(-energy(x)) / Z, a `Density` with known log Z.

    Subclasses give `event_shape`, `log_z` and `energy`; the score follows by autograd unless a
    closed form is given. Arithmetic is float64 inside; results have the dtype of x.
    """

    event_shape: tuple[int, ...]
    """Shape of one example."""

    log_z: float
    """log of the integral of exp(-energy)."""

    @abstractmethod
    def energy(self, x: Tensor) -> Tensor:
        """Energy in nats, shape `(batch,)`, differentiable in x."""

    def score(self, x: Tensor) -> Tensor:
        """-grad energy, like x; carries a graph to x where gradients are enabled."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x."""
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            point = x if keep and x.requires_grad else x.detach().requires_grad_()
            energy = self.energy(point)
            (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=keep)
        return (energy if keep else energy.detach()), -gradient

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log density in nats, shape `(batch,)`."""
        return -self.energy(x) - self.log_z

    @abstractmethod
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Exact draws, shape `(count, *event)`, float64."""

    @abstractmethod
    def diffused(self, sde: SDE) -> Model:
        """The law of x_t for this data: an energy-based model with the exact score."""
