"""Discrete targets: distributions on finitely many states, with sums in the place of integrals."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import Self, override

from sde_score._core.checks import require_count
from sde_score._core.errors import ArgumentError
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.models.sites import Sites


class DiscreteTarget(Target):
    r"""A distribution on states that are points, p(x) = exp(-energy(x)) / Z with Z a sum.

    Subclasses give `sites` and `_energy`; the rest follows by enumeration, up to 2^20 states. The
    energy is a formula of x, so that its gradient is known at the states; between them it means
    nothing. `diffused` is exact, a mixture with a component for each state.
    """

    @property
    @abstractmethod
    def sites(self) -> Sites:
        """The states."""

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return self.sites.shape

    @property
    @override
    def log_z(self) -> float:
        return float((-self._energy(self.sites.states())).logsumexp(0))

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        states = self.sites.states()
        weights = (-self._energy(states)).softmax(0)
        return states[drawn(weights, count, generator)]

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        states = self.sites.states().to(x.device)
        weights = (-self._energy(states)).log_softmax(0)
        flat, points = x.flatten(1), states.flatten(1)
        alpha, sigma = (scale.to(x).reshape(-1, 1) for scale in (at.alpha, at.sigma))
        square = (flat**2).sum(1, keepdim=True) + alpha**2 * (points**2).sum(1)
        exponent = (2 * alpha * (flat @ points.mT) - square) / (2 * sigma**2)
        volume = 0.5 * flat.shape[1] * (2 * math.pi * sigma**2).log()
        log_prob: Tensor = (weights + exponent - volume).logsumexp(1)
        return log_prob


@dataclass(frozen=True, eq=False)
class IndependentSites(DiscreteTarget):
    r"""Independent sites, each with its own probabilities: where a path to a model starts.

    .. math:: p(x) = \prod_i \pi_{i, x_i}

    Args:
        states: of the model.
        probabilities: positive, `(sites, choices)`, normalized here; None for the uniform
            distribution.

    Raises:
        ValueError: for probabilities of another shape, or that are not positive.
    """

    states: Sites
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        shape = (self.states.count, self.states.choices)
        given = torch.ones(shape) if self.probabilities is None else self.probabilities
        given = torch.as_tensor(given, dtype=torch.float64)
        if given.shape != shape or not bool((given > 0).all() & given.isfinite().all()):
            raise ArgumentError(f"probabilities must be positive, of shape {shape}")
        object.__setattr__(self, "probabilities", given / given.sum(1, keepdim=True))

    @classmethod
    def fit(cls, states: Sites, samples: Tensor) -> Self:
        """The frequencies in a sample of the data, with one more example of each value.

        Args:
            states: of the model.
            samples: states, `(count, *shape)`.
        """
        states.require_states("samples", samples)
        return cls(states, states.coordinates(samples.double()).sum(0) + 1)

    @property
    @override
    def sites(self) -> Sites:
        everyone = torch.ones(self.states.count, dtype=torch.bool)
        return Sites(self.states.shape, self.states.values, (everyone,))

    @property
    @override
    def log_z(self) -> float:
        return 0.0

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return -(self._log.to(x) * self.sites.coordinates(x)).sum((1, 2))

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        require_count(count=count)
        chosen = torch.multinomial(self._log.exp(), count, replacement=True, generator=generator)
        return self.sites.encoded(chosen.mT, self._log)

    @property
    def _log(self) -> Tensor:
        return torch.as_tensor(self.probabilities).log()


def drawn(weights: Tensor, count: int, generator: Generator | None) -> Tensor:
    """Indices with the probabilities of the weights, however many there are."""
    ends = weights.cumsum(0)
    points = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1]
    return torch.searchsorted(ends, points, right=True).clamp(max=len(weights) - 1)
