r"""Parametrizations: how a network is fed, and what its output means.

Any one of data, noise, velocity and score at (x, t) fixes the other three, because with x there are
two equations for the expected data and the expected noise:

.. math:: x = \alpha \hat x_0 + \sigma \hat\epsilon, \qquad
          F = a\, \hat x_0 + b\, \hat\epsilon

where the output F is given by its two coefficients (a, b) alone. Every conversion is one 2x2 solve,
`conversion`; what a network is told and what it returns is a `Parametrization`, a row of one
table, in `sde_score.models.rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_positive
from sde_score._core.registry import format_spec
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


def unit(at: Scales) -> Tensor:
    """1: the network takes x as it is."""
    return at.one


def signal(at: Scales) -> Tensor:
    """alpha: the network takes data plus noise, on any SDE."""
    return at.alpha


def spread(at: Scales) -> Tensor:
    """Root mean square of x_t: that of the network's input is 1."""
    return at.spread


def unit_spread(at: Scales) -> Tensor:
    """sqrt(sigma^2 + alpha^2): the input of a variance-preserving network."""
    return (at.sigma**2 + at.alpha**2).sqrt()


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


def v(at: Scales) -> Coefficients:
    """alpha noise - sigma data."""
    return -at.sigma, at.alpha


def sigma_score(at: Scales) -> Coefficients:
    """sigma times the score."""
    return at.zero, -at.one


def spread_score(at: Scales) -> Coefficients:
    """The spread times the score."""
    return at.zero, -at.spread / at.sigma


def score_of_ratio(at: Scales) -> Coefficients:
    """Score of x / alpha: -noise / (sigma / alpha)."""
    return at.zero, -at.alpha / at.sigma


def edm_mixture(at: Scales) -> Coefficients:
    """(sigma data / sigma_data - alpha sigma_data noise) / spread."""
    scale = at.spread * at.sigma_data
    return at.sigma / scale, -at.alpha * at.sigma_data**2 / scale


def bounded_mixture(at: Scales, sigma_min: float) -> Coefficients:
    r"""F in D = c_skip x / alpha + c_out F, the data at sigma_min and at all noise levels above.

    .. math:: c_{skip} = \frac{\sigma_d^2}{(s - s_{min})^2 + \sigma_d^2}, \qquad
              c_{out} = \frac{(s - s_{min}) \sigma_d}{\sqrt{s^2 + \sigma_d^2}}
    """
    ratio, variance = at.sigma / at.alpha, at.sigma_data**2
    above = (ratio - sigma_min).clamp(min=1e-9)
    skip = variance / (above**2 + variance)
    out = above * at.sigma_data / (ratio**2 + variance).sqrt()
    return above**2 / (above**2 + variance) / out, -skip * ratio / out


def trig_velocity(at: Scales) -> Coefficients:
    """(cos sigma_data noise - sin data) / sigma_data, with tan = sigma / (alpha sigma_data)."""
    cos, sin = at.alpha * at.sigma_data / at.spread, at.sigma / at.spread
    return -sin / at.sigma_data, cos


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
    r"""One row of the table: with (a, b) the coefficients of its output, a network obeys

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
