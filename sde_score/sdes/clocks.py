r"""Clocks: monotone functions of the noise ratio s = sigma / alpha, with their inverses.

A clock means the same on every SDE, except `time`, the SDE's own t. Samplers space their steps
evenly in one and extrapolate a model's prediction as a polynomial in one; which of them makes the
prediction most nearly a polynomial matters more than the degree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score.sdes.base import SDE

Function = Callable[[Tensor], Tensor]
"""Entry by entry, float64 to float64."""


@dataclass(frozen=True)
class Clock:
    """A monotone function u of the noise ratio s and its inverse.

    Args:
        forward: from s to u.
        inverse: from u to s.
        forward_log: from log s to u; None for `forward` of its exponential. Given where that would
            overflow or lose digits at small noise.
        inverse_log: from u to log s; None for the logarithm of `inverse`.
    """

    forward: Function
    inverse: Function
    forward_log: Function | None = None
    inverse_log: Function | None = None

    def of_log_ratio(self, log_ratio: Tensor) -> Tensor:
        """u at log s, in its shape."""
        if self.forward_log is None:
            return self.forward(torch.exp(log_ratio))
        return self.forward_log(log_ratio)

    def log_ratio(self, u: Tensor) -> Tensor:
        """log s at u, in its shape."""
        return torch.log(self.inverse(u)) if self.inverse_log is None else self.inverse_log(u)

    def at(self, sde: SDE, t: Tensor | float) -> Tensor:
        """u at times of an SDE, in the shape of t."""
        return self.of_log_ratio(-0.5 * sde.log_snr(t))

    def time(self, sde: SDE, u: Tensor) -> Tensor:
        """The times of an SDE at u, in its shape; beyond the range of the SDE, its ends."""
        return sde.time_of_log_snr(-2 * self.log_ratio(u))


def _itself(x: Tensor) -> Tensor:
    return x


LOG_SNR = Clock(
    forward=lambda s: -torch.log(s),
    inverse=lambda u: torch.exp(-u),
    forward_log=torch.neg,
    inverse_log=torch.neg,
)
"""log(alpha / sigma), half the log signal-to-noise ratio; infinite at zero noise."""

SIGMA = Clock(forward=_itself, inverse=_itself)
"""The noise ratio s itself."""

RECTIFIED = Clock(
    forward=lambda s: s / (1 + s),
    inverse=lambda u: u / (1 - u),
    forward_log=torch.sigmoid,
    inverse_log=torch.logit,
)
"""s / (1 + s) = sigma / (alpha + sigma), time in rectified flow."""

ANGLE = Clock(forward=torch.atan, inverse=torch.tan)
"""atan s, the angle between data and noise."""


def root(rho: float) -> Clock:
    """s^(1/rho), rho > 0: s itself for 1, and nearly log s for a large one."""
    return Clock(
        forward=lambda s: s ** (1 / rho),
        inverse=lambda u: u**rho,
        forward_log=lambda log_ratio: torch.exp(log_ratio / rho),
        inverse_log=lambda u: rho * torch.log(u),
    )


def shifted(clock: Clock, factor: float) -> Clock:
    """A clock of s / factor: the same readings at noise ratios that are `factor` times as large."""
    shift = math.log(factor)
    return Clock(
        forward=lambda s: clock.forward(s / factor),
        inverse=lambda u: factor * clock.inverse(u),
        forward_log=lambda log_ratio: clock.of_log_ratio(log_ratio - shift),
        inverse_log=lambda u: clock.log_ratio(u) + shift,
    )


def powered(clock: Clock, power: float) -> Clock:
    """A clock of s^power, power > 0: below 1 it tells noise levels apart over a wider range."""
    return Clock(
        forward=lambda s: clock.forward(s**power),
        inverse=lambda u: clock.inverse(u) ** (1 / power),
        forward_log=lambda log_ratio: clock.of_log_ratio(power * log_ratio),
        inverse_log=lambda u: clock.log_ratio(u) / power,
    )


def asinh(bend: float) -> Clock:
    """asinh(s / bend): proportional to s far below the bend and to log s far above it."""
    return Clock(
        forward=lambda s: torch.asinh(s / bend),
        inverse=lambda u: bend * torch.sinh(u),
    )


def quantile(mean: float, std: float) -> Clock:
    """The share of a normal distribution of log s, N(mean, std^2), that lies above s."""
    return Clock(
        forward=lambda s: torch.special.ndtr((mean - torch.log(s)) / std),
        inverse=lambda u: torch.exp(mean - std * torch.special.ndtri(u)),
        forward_log=lambda log_ratio: torch.special.ndtr((mean - log_ratio) / std),
        inverse_log=lambda u: mean - std * torch.special.ndtri(u),
    )


def time_of(sde: SDE) -> Clock:
    """The SDE's own t."""
    return Clock(forward=sde.time_of_noise_ratio, inverse=sde.noise_ratio)


def index_in(ratios: Tensor) -> Clock:
    """The number of the step along a grid, linear in s within each.

    Args:
        ratios: noise ratios of the grid, decreasing, two or more.
    """
    rising = ratios.flip(0)
    last = len(rising) - 1

    def forward(s: Tensor) -> Tensor:
        right = torch.searchsorted(rising, s.detach().contiguous()).clamp(1, last)
        share = (rising[right] - s) / (rising[right] - rising[right - 1])
        return (last - right) + share

    def inverse(u: Tensor) -> Tensor:
        left = u.detach().floor().long().clamp(0, last - 1)
        return torch.lerp(ratios[left], ratios[left + 1], u - left)

    return Clock(forward, inverse)


CLOCKS: Mapping[str, Callable[[SDE, Tensor], Clock]] = {
    "log_snr": lambda sde, ratios: LOG_SNR,
    "sigma": lambda sde, ratios: SIGMA,
    "rectified": lambda sde, ratios: RECTIFIED,
    "angle": lambda sde, ratios: ANGLE,
    "time": lambda sde, ratios: time_of(sde),
    "index": lambda sde, ratios: index_in(ratios),
}
"""From an SDE and the noise ratios of a grid to a clock.

- `log_snr`: log(alpha / sigma), of DPM-Solver and its kin; infinite at zero noise;
- `sigma`: s itself, of EDM and of k-diffusion;
- `rectified`: s / (1 + s), of rectified flow;
- `angle`: atan s, of the cosine schedule;
- `time`: the SDE's own t, of DEIS;
- `index`: the number of the step, as if the grid were even: the fixed Adams-Bashforth coefficients
  of PNDM.
"""

FINITE = ("sigma", "rectified", "angle", "index")
"""The clocks that are finite at zero noise, where a polynomial can be followed to the end."""
