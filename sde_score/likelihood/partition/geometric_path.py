r"""The geometric path from a density of known constant to one of unknown constant.

.. math:: E_\beta(x) = (1 - \beta) \left( E_0(x) + \log Z_0 \right) + \beta\, E(x),
          \qquad 0 \le \beta \le 1

so that the density is normalized at beta = 0 and integrates, or on discrete states sums, to Z at
beta = 1. Where both energies are linear in each site, so are those between, and block Gibbs draws
from each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from sde_score._core.checks import is_integer, require_batch, require_count, shown, sum_event
from sde_score._core.errors import ArgumentError
from sde_score.models import Density, IndependentSites, Sites, sites_of


@runtime_checkable
class Reference(Density, Protocol):
    """A density with exact samples and a known constant, the start of a path.

    `GaussianReference` is one, and so is every target of known log Z (`sde_score.models.Target`).
    """

    @property
    def log_z(self) -> float:
        """log of the integral of exp(-energy)."""
        ...

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Exact draws, shape `(count, *event)`."""
        ...


class GaussianReference:
    r"""A normalized Gaussian with independent entries.

    .. math:: E(x) = \sum_i \frac{(x_i - \mu_i)^2}{2 s_i^2} + \log s_i + \tfrac12 \log 2\pi

    Args:
        mean: shape `event`, floating point; gives draws their dtype and device.
        std: > 0, a number or shaped like the mean.

    Raises:
        TypeError: if the mean is not floating point.
        ValueError: if a number is not finite, or a standard deviation not positive.
    """

    log_z = 0.0

    def __init__(self, mean: Tensor, std: Tensor | float = 1.0) -> None:
        require_batch("mean", mean[None] if isinstance(mean, Tensor) else mean)
        self.mean = mean.detach()
        self.std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device).expand_as(mean)
        positive = self.std.isfinite() & (self.std > 0) & self.mean.isfinite()
        if not bool(positive.all()):
            raise ValueError("std must be finite and greater than 0, and mean finite")

    @classmethod
    def fit(cls, samples: Tensor, inflation: float = 1.0) -> GaussianReference:
        """The Gaussian with the mean and, times `inflation`, the standard deviation of samples.

        Args:
            samples: shape `(count, *event)`, at least two.
            inflation: above 1 the reference covers the tails of the samples.

        Raises:
            ValueError: for fewer than two samples, or an entry that does not vary.
        """
        require_batch("samples", samples)
        require_count(2, **{"number of samples": len(samples)})
        return cls(samples.mean(0), inflation * samples.std(0))

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Exact draws, shape `(count, *event)`."""
        shape, device = (count, *self.mean.shape), self.mean.device
        source = device if generator is None else generator.device
        z = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=source)
        return self.mean + self.std * z.to(device)

    def energy(self, x: Tensor) -> Tensor:
        """-log density in nats, shape `(batch,)`."""
        off, log_std = (x - self.mean) / self.std, self.std.log()
        return sum_event(0.5 * off**2 + log_std + 0.5 * math.log(2 * math.pi))

    def score(self, x: Tensor) -> Tensor:
        """-grad energy, like x."""
        return (self.mean - x) / self.std**2

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.energy(x), self.score(x)


def as_reference(
    start: Sequence[int] | Reference, like: Tensor, states: Sites | None = None
) -> Reference:
    """`start` itself, or the standard Gaussian of that event shape in the dtype of `like`; the
    uniform distribution on discrete states.

    Raises:
        TypeError: for anything else.
        ValueError: for a start on other states than those of the density.
    """
    if isinstance(start, Reference):
        _require_same_states(start, states)
        return start
    if isinstance(start, Sequence) and all(isinstance(n, int) for n in start):
        if states is not None:
            _require_shape(tuple(start), states)
            return IndependentSites(states)
        return GaussianReference(torch.zeros(tuple(start), dtype=like.dtype, device=like.device))
    what = shown(start) if is_integer(start) else f"a {type(start).__name__}"
    fix = f": write ({start},)" if is_integer(start) else ""
    raise ArgumentError(
        f"start is {what}; accepted: an event shape such as (2,), or a density with sample and "
        f"log_z, such as GaussianReference.fit(data) or a target{fix}"
    )


def _require_same_states(start: Reference, states: Sites | None) -> None:
    own = sites_of(start)
    if (own is None) != (states is None):
        kinds = ("continuous space", "discrete states")
        raise ArgumentError(
            f"start is a {type(start).__name__}, on {kinds[own is not None]}, and the density has "
            f"{kinds[states is not None]}; accepted: an event shape, or a start of that kind, such "
            "as IndependentSites(target.sites) for discrete states"
        )
    if own is not None and states is not None:
        _require_shape(own.shape, states)
        if own.values != states.values:
            raise ArgumentError(f"start has the values {own.values}, the density {states.values}")


def _require_shape(shape: tuple[int, ...], states: Sites) -> None:
    if shape != states.shape:
        raise ArgumentError(f"start has event shape {shape}, the density {states.shape}")


@dataclass(frozen=True, eq=False)
class GeometricPath:
    """The geometric path from a reference to a density.

    Args:
        reference: at beta = 0.
        density: at beta = 1.
    """

    reference: Reference
    density: Density

    def gap(self, x: Tensor) -> Tensor:
        """dE_beta / d beta = E - E_0 - log Z_0, float64 `(batch,)`; NaN becomes +inf."""
        # A NaN energy counts as +inf, so its weight is zero.
        start = self.reference.energy(x).double() + self.reference.log_z
        return (self.density.energy(x).double() - start).nan_to_num(
            nan=torch.inf, posinf=torch.inf, neginf=-torch.inf
        )

    def at(self, beta: float) -> Density:
        """The density at a beta in [0, 1]."""
        return Intermediate(self, beta)


@dataclass(frozen=True, eq=False)
class Intermediate:
    """The density exp(-E_beta) on a path, up to a constant, which no kernel sees.

    Args:
        path: from the reference to the density.
        beta: in [0, 1].
    """

    path: GeometricPath
    beta: float

    def energy(self, x: Tensor) -> Tensor:
        """E_beta less its constant (1 - beta) log Z_0, shape `(batch,)`."""
        return self._mix(*(end.energy(x) for end in self._ends))

    def score(self, x: Tensor) -> Tensor:
        """-grad E_beta, like x."""
        return self._mix(*(end.score(x) for end in self._ends))

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both, from one evaluation of each end."""
        energies, scores = zip(*(end.energy_and_score(x) for end in self._ends), strict=True)
        return self._mix(*energies), self._mix(*scores)

    @property
    def sites(self) -> Sites | None:
        """The discrete states of the density, if it has such."""
        return sites_of(self.path.density)

    @property
    def _ends(self) -> tuple[Density, Density]:
        return self.path.reference, self.path.density

    def _mix(self, start: Tensor, end: Tensor) -> Tensor:
        return (1 - self.beta) * start + self.beta * end
