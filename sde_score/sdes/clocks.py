r"""Coordinates of the noise: clocks in which a prediction is extrapolated.

All are functions of the noise ratio s = sigma / alpha, so a coordinate means the same on every SDE
(but for `time`, the SDE's own clock). Which one makes a model's prediction most nearly a polynomial
matters more than the polynomial's degree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sde_score.sdes import SDE

Coordinate = Callable[[Tensor], Tensor]
"""From noise ratios s to coordinates, float64, entry by entry."""


def noise_ratio(sde: SDE, t: Tensor) -> Tensor:
    """s = sigma / alpha at times t, float64."""
    return torch.exp(-0.5 * sde.log_snr(t.double()))


def time_of_ratio(sde: SDE, s: Tensor) -> Tensor:
    """The time at which sigma / alpha is s > 0; beyond the range of the SDE, its ends."""
    return sde.time_of_log_snr(-2 * torch.log(s))


def _log_snr(sde: SDE, grid: Tensor) -> Coordinate:
    return lambda s: -torch.log(s)


def _sigma(sde: SDE, grid: Tensor) -> Coordinate:
    return lambda s: s


def _rectified(sde: SDE, grid: Tensor) -> Coordinate:
    return lambda s: s / (1 + s)


def _angle(sde: SDE, grid: Tensor) -> Coordinate:
    return torch.atan


def _time(sde: SDE, grid: Tensor) -> Coordinate:
    return lambda s: time_of_ratio(sde, s)


def _index(sde: SDE, grid: Tensor) -> Coordinate:
    """The number of the step, linear in s within each."""

    def place(s: Tensor) -> Tensor:
        rising = grid.flip(0)
        right = torch.searchsorted(rising, s.detach().contiguous()).clamp(1, len(rising) - 1)
        share = (rising[right] - s) / (rising[right] - rising[right - 1])
        return (len(rising) - 1 - right) + share

    return place


COORDINATES: Mapping[str, Callable[[SDE, Tensor], Coordinate]] = {
    "log_snr": _log_snr,
    "sigma": _sigma,
    "rectified": _rectified,
    "angle": _angle,
    "time": _time,
    "index": _index,
}
"""From an SDE and the noise ratios of a grid to the coordinate.

- `log_snr`: log(alpha / sigma), of DPM-Solver and its kin; infinite at zero noise;
- `sigma`: s itself, the clock of EDM and of k-diffusion;
- `rectified`: u = s / (1 + s) = sigma / (alpha + sigma), time in rectified flow;
- `angle`: atan s, the angle between data and noise;
- `time`: the SDE's own t, of DEIS;
- `index`: the number of the step, as if the grid were even: the fixed Adams-Bashforth coefficients
  of PNDM.
"""

FINITE = ("sigma", "rectified", "angle", "index")
"""Those that are finite at zero noise, where a polynomial can be followed to the end."""
