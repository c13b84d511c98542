"""Gaussian targets: one, and a mixture of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Generator, Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_numbers, require_positive, shown
from sde_score.models.exact.gaussian_mixture import GaussianMixture
from sde_score.models.exact.target import Target
from sde_score.models.parametrization import Scales
from sde_score.sdes import SDE, VP

Numbers = Any
"""A number, a nested sequence of numbers, or a tensor."""

_DEFAULT_MEANS = ((-1.6, -1.2), (1.7, -0.5), (0.3, 1.9))
_DEFAULT_COVARIANCES = (
    ((0.5, 0.2), (0.2, 0.4)),
    ((0.3, -0.15), (-0.15, 0.5)),
    ((0.6, 0.1), (0.1, 0.15)),
)
_DEFAULT_WEIGHTS = (0.5, 0.3, 0.2)


@dataclass(frozen=True)
class Mixture(Target):
    r"""A mixture of Gaussians; the default is the one that all examples share.

    .. math:: energy = -\log \sum_k w_k |\Sigma_k|^{-1/2}
              e^{-(x - \mu_k)^T \Sigma_k^{-1} (x - \mu_k) / 2}, \qquad
              \log Z = \tfrac D2 \log 2 \pi

    This is the target: the distribution of the data, without a diffusion, with numbers as a spec
    holds them. `diffused(sde)` is the model: a `GaussianMixture`, in closed form.

    Args:
        means: shape `(components, D)`; numbers, kept as tuples, or a tensor.
        covariances: shape `(components, D, D)`, `(components, D)` (variances), `(components,)` or
            a number (isotropic).
        weights: positive, one per component, normalized in use. None means equal, but for the
            default means, whose weights are 0.5, 0.3 and 0.2.

    Raises:
        ValueError: if shapes do not agree, a weight is not positive, or a covariance is not
            positive definite.
    """

    means: Numbers = _DEFAULT_MEANS
    covariances: Numbers = _DEFAULT_COVARIANCES
    weights: Numbers = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("means", "covariances", "weights"):
            if name != "weights" or self.weights is not None:
                require_numbers(name, getattr(self, name))
            object.__setattr__(self, name, _tuples(getattr(self, name)))
        if self.weights is None and self.means == _DEFAULT_MEANS:
            object.__setattr__(self, "weights", _DEFAULT_WEIGHTS)
        mixture = self._mixture(VP())
        if len(mixture.event_shape) != 1:
            raise ValueError(f"means has events of shape {mixture.event_shape}; accepted: (D,)")
        if not bool((mixture.variances > 0).all()):
            raise ValueError(
                "covariances must be positive definite, or there is no density: try adding 1e-6 "
                "to the variances"
            )

    @classmethod
    def two_modes(cls, separation: float = 6.0, weight: float = 0.8, dim: int = 1) -> Mixture:
        """Two modes of unit variance: when far apart, the score hardly depends on their weights.

        Args:
            separation: distance of the modes, > 0; they lie at minus and plus half of it on the
                first axis.
            weight: of the mode on the negative side, in (0, 1).
            dim: entries of an event, at least 1.

        Raises:
            ValueError: if an argument is out of range.
        """
        require_positive(separation=separation)
        require_count(dim=dim)
        if not 0 < weight < 1:
            raise ValueError(f"weight={weight!r} must lie in (0, 1): the other mode has the rest")
        rest = (0.0,) * (dim - 1)
        means = ((-separation / 2, *rest), (separation / 2, *rest))
        return cls(means, 1.0, (weight, 1 - weight))

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return (len(self.means[0]),)

    @property
    @override
    def log_z(self) -> float:
        return 0.5 * self.event_shape[0] * math.log(2 * math.pi)

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return -self._mixture(VP(), x.device).log_prob(x) - self.log_z

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        return self._mixture(VP()).sample(count, generator=generator)

    @override
    def diffused(self, sde: SDE) -> GaussianMixture:
        """The distribution of x_t: a mixture again."""
        return GaussianMixture(
            self.means, torch.tensor(self.covariances, dtype=torch.float64), sde, self.weights
        )

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        return self._mixture(at.sde, x.device).log_prob(x, at.t)

    @cached_property
    def _mixtures(self) -> dict[tuple[SDE, torch.device], GaussianMixture]:
        return {}

    def _mixture(self, sde: SDE, device: torch.device | None = None) -> GaussianMixture:
        """`diffused`, made once per SDE and device; the data are the same for any SDE."""
        where = device or torch.device("cpu")
        if (sde, where) not in self._mixtures:
            self._mixtures[sde, where] = self.diffused(sde).to(where)
        return self._mixtures[sde, where]


@dataclass(frozen=True)
class Gaussian(Target):
    r"""The Gaussian N(mean, covariance).

    .. math:: energy = \tfrac12 (x - \mu)^T \Sigma^{-1} (x - \mu), \qquad
              \log Z = \tfrac12 \log |2 \pi \Sigma|

    `diffused` is a `GaussianMixture` of one component, in closed form.

    Args:
        mean: shape `(D,)`; numbers, kept as tuples, or a tensor.
        covariance: shape `(D, D)`, `(D,)` (variances) or a number (isotropic).

    Raises:
        ValueError: if shapes do not agree or the covariance is not positive definite.
    """

    mean: Numbers = (0.5, -0.5)
    covariance: Numbers = ((1.5, 0.6), (0.6, 0.5))

    def __post_init__(self) -> None:
        check_fields(self)
        mean = require_numbers("mean", self.mean)
        covariance = require_numbers("covariance", self.covariance)
        if mean.ndim == 1 and covariance.shape not in ((), 2 * mean.shape, mean.shape):
            raise ValueError(
                f"covariance of shape {tuple(covariance.shape)} does not fit mean of shape "
                f"{tuple(mean.shape)}; accepted: a number, (D,) or (D, D)"
            )
        object.__setattr__(self, "mean", _tuples(self.mean))
        object.__setattr__(self, "covariance", _tuples(self.covariance))
        if mean.ndim != 1:
            raise ValueError(f"mean={self.mean!r} has no entries; accepted: shape (D,)")
        try:
            _ = self._mixture
        except ValueError as error:
            raise ValueError(f"covariance={shown(self.covariance)} is none: {error}") from error

    @property
    @override
    def event_shape(self) -> tuple[int, ...]:
        return self._mixture.event_shape

    @cached_property
    @override
    def log_z(self) -> float:
        variances = self.diffused(VP()).variances
        return 0.5 * float((2 * math.pi * variances).log().sum())

    @override
    def _energy(self, x: Tensor) -> Tensor:
        return -self._mixture.log_prob(x) - self.log_z

    @override
    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        return self._mixture.sample(count, generator)

    @override
    def diffused(self, sde: SDE) -> GaussianMixture:
        """The distribution of x_t: a Gaussian again."""
        return self._mixture.diffused(sde)

    @override
    def diffused_log_prob(self, x: Tensor, at: Scales) -> Tensor:
        return self._mixture.diffused_log_prob(x, at)

    @cached_property
    def _mixture(self) -> Mixture:
        number = not isinstance(self.covariance, tuple)
        return Mixture((self.mean,), self.covariance if number else (self.covariance,), (1.0,))


def _tuples(values: Numbers) -> Numbers:
    """Numbers in nested tuples, which can be compared, hashed and printed."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, Sequence):
        return tuple(_tuples(value) for value in values)
    return values
