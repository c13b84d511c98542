"""Targets: distributions whose density is known with its constant, and their diffused models."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sde_score._core.checks import require_batch
from sde_score._core.conditions import Condition
from sde_score.models.base import BaseEnergy
from sde_score.models.parametrization import Scales
from sde_score.models.protocol import EnergyBased
from sde_score.random import normal
from sde_score.sdes import SDE


class Target(ABC):
    r"""A distribution on events, p(x) = exp(-energy(x)) / Z: a `Density` with known log Z.

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
            ValueError: if `count` is not an integer of at least 1.
        """

    @abstractmethod
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        """Log density of x_t in nats, shape `(batch,)`, of float64 x; `diffused` is made of it.

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
        """The distribution of x_t for this data: an energy-based model with the exact score."""
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


class Diffused(nn.Module, BaseEnergy):
    r"""A target, diffused by any SDE: exact density, score, denoiser and samples.

    .. math:: p_t(x) = \int p_0(y)\, N(x;\ \alpha y,\ \sigma^2 I)\, dy

    The target gives the integral, in closed form or by quadrature over one latent (see
    `quadrature`); the score is its gradient. It satisfies the model protocol and is normalized:
    energy = -log p_t.

    Range and cost: against a quadrature on thousands of panels, log p_t is right to 1e-11
    (relative, absolute where it is small) for sigma from 1e-4 to 80 and alpha from 1e-4 to 1, far
    tails included. Where there is an integral it takes 704 nodes, 192 of them with a graph: about
    0.1 ms per integral and score on one core.

    Args:
        target: the distribution of the data.
        sde: the forward diffusion.
    """

    takes_condition = False

    def __init__(self, target: Target, sde: SDE) -> None:
        super().__init__()
        self.target = target
        self._sde = sde
        self.event_shape = target.event_shape

    def log_prob(self, x: Tensor, t: Tensor | float | None = None) -> Tensor:
        """Exact log density in nats, shape `(batch,)`: of the data, or of x_t if t is given."""
        if t is None:
            return self.target.log_prob(x)
        return -self._energy(x, self._scales(x, t), None)

    def sample(
        self, count: int, t: float | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Exact draws of the data, or of x_t at one time t: shape `(count, *event)`, float64."""
        x0 = self.target.sample(count, generator)
        return x0 if t is None else self.sde.perturb(x0, t, normal(x0, generator))

    @override
    def _energy(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        if condition is not None:
            raise ValueError(
                f"a diffused {type(self.target).__name__} takes no condition: leave it out"
            )
        return -self.target.diffused_log_prob(self.target.checked(x), at).to(x.dtype)

    @override
    def extra_repr(self) -> str:
        return f"{self.target}, {self.sde}"
