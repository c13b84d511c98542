"""The contract of a target: a law known up to, and including, its constant."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from sde_score._core.checks import require_batch
from sde_score.models.exact.diffused import Diffused
from sde_score.models.parametrization import Scales
from sde_score.models.protocol import EnergyBased
from sde_score.sdes import SDE


class Target(ABC):
    r"""An exact law on events: p(x) = exp(-energy(x)) / Z, a `Density` with known log Z.

    Subclasses are frozen dataclasses that give `event_shape`, `log_z`, `_energy`, `sample` and
    `diffused_log_prob`; the rest follows. Arithmetic is float64 inside, on the device of x;
    results have the dtype of x.
    """

    @property
    @abstractmethod
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""

    @property
    @abstractmethod
    def log_z(self) -> float:
        """log of the integral of exp(-energy)."""

    @abstractmethod
    def _energy(self, x: Tensor) -> Tensor:
        """Energy in nats, shape `(batch,)`, of float64 x, differentiable in x."""

    @abstractmethod
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Exact draws, shape `(count, *event)`, float64, on the CPU.

        Raises:
            ValueError: if `count` is not a whole number of at least 1.
        """

    @abstractmethod
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        """Log density of x_t in nats, shape `(batch,)`, of float64 x: what `diffused` is made of.

        Args:
            x: shape `(batch, *event)`.
            at: the scales alpha and sigma > 0, each a scalar or `(batch,)`.
        """

    def energy(self, x: Tensor) -> Tensor:
        """Energy in nats, shape `(batch,)`, differentiable in x.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if it does not have the shape `(batch, *event)`.
        """
        return self._energy(self.checked(x)).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        """-grad energy, like x; carries a graph to x where gradients are enabled."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy `(batch,)` and score, like x."""
        keep = torch.is_grad_enabled()
        self.checked(x)
        with torch.enable_grad():
            point = x if keep and x.requires_grad else x.detach().requires_grad_()
            energy = self.energy(point)
            (gradient,) = torch.autograd.grad(energy.sum(), point, create_graph=keep)
            if keep and not gradient.requires_grad:
                gradient = gradient + 0 * point  # constant, but may be differentiated like any
        return (energy if keep else energy.detach()), -gradient

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log density in nats, shape `(batch,)`."""
        return (-self._energy(self.checked(x)) - self.log_z).to(x.dtype)

    def diffused(self, sde: SDE) -> EnergyBased:
        """The law of x_t for this data: an energy-based model with the exact score."""
        return Diffused(self, sde)

    def checked(self, x: Tensor) -> Tensor:
        """x in float64, or a refusal.

        Raises:
            TypeError: if x is not a floating-point tensor.
            ValueError: if it does not have the shape `(batch, *event)`.
        """
        require_batch("x", x)
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}, {type(self).__name__} has "
                f"{self.event_shape}: x needs the shape (batch, {self.event_shape[0]})"
            )
        return x.double()
