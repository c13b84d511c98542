r"""Parametrizations: how a network is fed, and what its output means.

Any one of data, noise, velocity and score at (x, t) fixes the other three, because with x there are
two equations for the expected data and the expected noise:

.. math:: x = \alpha \hat x_0 + \sigma \hat\epsilon, \qquad
          F = a\, \hat x_0 + b\, \hat\epsilon

where the output F is given by its two coefficients (a, b) alone. Every conversion is one 2x2 solve,
`conversion`; what a network is told and what it returns is a row of one table,
`PARAMETRIZATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_positive
from sde_score._core.registry import Registry, format_spec
from sde_score.sdes import SDE

Coefficients = tuple[Tensor, Tensor]
"""Coefficients on (expected data, expected noise), each in the shape of t."""


class Scales:
    """The scales of an SDE at given times, each computed once and only if it is needed.

    Args:
        sde: the diffusion.
        t: float64 times, a scalar or `(batch,)`.
        sigma_data: root mean square of the data.
    """

    def __init__(self, sde: SDE, t: Tensor, sigma_data: float = 1.0) -> None:
        self.sde = sde
        self.t = t
        self.sigma_data = sigma_data

    @cached_property
    def alpha(self) -> Tensor:
        """Signal scale."""
        return self.sde.alpha(self.t)

    @cached_property
    def sigma(self) -> Tensor:
        """Noise scale."""
        return self.sde.sigma(self.t)

    @cached_property
    def spread(self) -> Tensor:
        """Root mean square of x_t."""
        return (self.sigma**2 + (self.sigma_data * self.alpha) ** 2).sqrt()

    @cached_property
    def zero(self) -> Tensor:
        """0 in the shape of t."""
        return torch.zeros_like(self.t)

    @cached_property
    def one(self) -> Tensor:
        """1 in the shape of t."""
        return torch.ones_like(self.t)


def noise(at: Scales) -> Coefficients:
    """The noise in x_t."""
    return at.zero, at.one


def data(at: Scales) -> Coefficients:
    """The data behind x_t."""
    return at.one, at.zero


def velocity(at: Scales) -> Coefficients:
    """alpha' data + sigma' noise."""
    return at.sde.alpha_derivative(at.t), at.sde.sigma_derivative(at.t)


def score(at: Scales) -> Coefficients:
    """Gradient of log p_t."""
    return at.zero, -1 / at.sigma


def conversion(at: Scales, known: Coefficients, wanted: Coefficients) -> tuple[Tensor, Tensor]:
    """Factors (on x, on the known quantity) whose sum of products is the wanted quantity.

    Args:
        at: gives x its coefficients (alpha, sigma).
        known: coefficients of the known quantity.
        wanted: coefficients of the wanted one.
    """
    determinant = at.alpha * known[1] - at.sigma * known[0]
    on_x = (wanted[0] * known[1] - wanted[1] * known[0]) / determinant
    on_known = (at.alpha * wanted[1] - at.sigma * wanted[0]) / determinant
    return on_x, on_known


@dataclass(frozen=True, repr=False)
class Parametrization:
    r"""One row of `PARAMETRIZATIONS`: with (a, b) the coefficients of its output, a network obeys

    .. math:: network(x / S,\ label,\ condition) = a\, \hat x_0 + b\, \hat\epsilon .

    A row for a network trained elsewhere is one expression, for example
    `Parametrization("ddpm", lambda at: at.one, lambda at: 999 * at.t, noise)`.

    Args:
        name: of the row.
        input_scale: S at given scales, in the shape of t.
        time_label: label of the time at given scales, in the shape of t.
        output: (a, b) at given scales.
        sigma_data: root mean square of the data, their standard deviation where the mean is 0; > 0.
        options: further arguments of the row's spec.

    Raises:
        ValueError: for a `sigma_data` that is not positive.
    """

    name: str
    input_scale: Callable[[Scales], Tensor]
    time_label: Callable[[Scales], Tensor]
    output: Callable[[Scales], Coefficients]
    sigma_data: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_positive(sigma_data=self.sigma_data)

    def __repr__(self) -> str:
        return format_spec(self.name, {**self.options, "sigma_data": self.sigma_data})


def spread(at: Scales) -> Tensor:
    """Root mean square of x_t: that of the network's input is 1."""
    return at.spread


def noise_level(at: Scales) -> Tensor:
    """log(sigma / alpha) / 4, within -4 .. 4 for any diffusion in use."""
    return 0.25 * torch.log(at.sigma / at.alpha)


def sigma_score(at: Scales) -> Coefficients:
    """sigma times the score."""
    return at.zero, -at.one


def edm_mixture(at: Scales) -> Coefficients:
    """(sigma data / sigma_data - alpha sigma_data noise) / spread."""
    scale = at.spread * at.sigma_data
    return at.sigma / scale, -at.alpha * at.sigma_data**2 / scale


def spread_score(at: Scales) -> Coefficients:
    """The spread times the score."""
    return at.zero, -at.spread / at.sigma


def _row(name: str, output: Callable[[Scales], Coefficients]) -> Callable[..., Parametrization]:
    """A row with the input and the time label of this package."""

    def make(sigma_data: float = 1.0) -> Parametrization:
        return Parametrization(name, spread, noise_level, output, sigma_data)

    return make


PARAMETRIZATIONS: Registry[Parametrization] = Registry(
    "prediction",
    {
        name: _row(name, output)
        for name, output in {
            "noise": noise,
            "data": data,
            "velocity": velocity,
            "score": sigma_score,
            "edm": edm_mixture,
            "scaled_score": spread_score,
        }.items()
    },
    base=Parametrization,
)
r"""The parametrizations by name. With S^2 = sigma^2 + alpha^2 sigma_data^2, all of these take x / S
and log(sigma / alpha) / 4, and return

============== =================================================================================
`noise`        the noise in x_t
`data`         the data behind x_t
`velocity`     alpha' data + sigma' noise
`score`        sigma times the score, the scaling of NCSN++
`edm`          (sigma data / sigma_data - alpha sigma_data noise) / S, of unit variance at every t
`scaled_score` S times the score: of unit variance where the data have a smooth density, so it is
               the one to train without noise; the others grow without bound as sigma falls
============== =================================================================================

Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
"""

OURS = ("noise", "data", "velocity", "score", "edm", "scaled_score")
"""Rows with the input and time label of this package; the others belong to published networks."""
