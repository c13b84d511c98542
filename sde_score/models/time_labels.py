"""Time labels: the numbers that networks take in place of t, of every published kind.

A noise level has many labels: an index that counts from the most noise or from the least, the noise
itself, its logarithm, a multiple of t. Those that networks look up are int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sde_score.models.parametrization import Scales


@dataclass(frozen=True)
class Formula:
    """A formula of the scales with its numbers, such as a time label: equal where both are.

    Args:
        function: of the scales and the numbers.
        numbers: behind the scales.
    """

    function: Callable[..., Any]
    numbers: tuple[object, ...] = ()

    def __call__(self, at: Scales) -> Any:
        """The formula at given scales."""
        return self.function(at, *self.numbers)


def noise_level(at: Scales) -> Tensor:
    """log(sigma / alpha) / 4, within -4 .. 4 for any diffusion in use."""
    return 0.25 * torch.log(at.sigma / at.alpha)


def noise_ratio(at: Scales) -> Tensor:
    """sigma / alpha."""
    return at.sigma / at.alpha


def log_noise(at: Scales, unit: float = 1.0, factor: float = 1.0) -> Tensor:
    """factor log(sigma / alpha / unit)."""
    return factor * torch.log(at.sigma / at.alpha / unit)


def angle(at: Scales) -> Tensor:
    """atan(sigma / (alpha sigma_data))."""
    return torch.atan2(at.sigma, at.alpha * at.sigma_data)


def multiple(at: Scales, factor: float) -> Tensor:
    """factor t."""
    return at.t * factor


def share(at: Scales) -> Tensor:
    """t, of an SDE whose t runs to 1, so that a multiple of it means one noise level.

    Raises:
        ValueError: for another SDE.
    """
    if at.sde.t_max > 1:
        raise ValueError(
            f"the time label counts in shares of t, which runs to 1, but that of {at.sde} runs to "
            f"{at.sde.t_max:g}: try a prediction whose label is the noise, such as 'edm' or 'sigma'"
        )
    return at.t


def share_multiple(at: Scales, factor: float) -> Tensor:
    """factor t."""
    return share(at) * factor


def layer(at: Scales, n: int, labels: float, rounded: bool, kept: tuple[int, ...] | None) -> Tensor:
    """(n t - 1) labels / n: the index of a layer, 0 the least noise; from `kept`, if some are."""
    count = n if kept is None else len(kept)
    index = (share(at) * count - 1).clamp(0, count - 1)
    if kept is not None:
        table = torch.tensor(kept, dtype=index.dtype, device=index.device)
        low = index.floor().long().clamp(max=count - 2)
        index = torch.lerp(table[low], table[low + 1], index - low)
    if rounded and labels == n:
        return index.round().long()
    return (index.round() if rounded else index) * (labels / n)


def index_in_time(at: Scales, n: int) -> Tensor:
    """round((1 - t)(n - 1)): 0 is the most noise."""
    return ((1 - share(at)) * (n - 1)).round()


def index_in_noise(at: Scales, n: int) -> Tensor:
    """Nearest of n levels even in log sigma between the ends of the SDE, int64: 0 is the most
    noise."""
    low, high = at.sde.log_snr_range
    place = (at.sde.log_snr(at.t) - low) / (high - low) * (n - 1)
    return place.round().long().clamp(0, n - 1)


def vp_time(at: Scales, beta_min: float, beta_max: float, factor: float) -> Tensor:
    """factor t, where beta_min t + (beta_max - beta_min) t^2 / 2 = log(1 + (sigma / alpha)^2)."""
    slope = beta_max - beta_min
    grown = torch.log1p((at.sigma / at.alpha) ** 2)
    return factor * ((beta_min**2 + 2 * slope * grown).sqrt() - beta_min) / slope


@lru_cache(maxsize=8)
def iddpm_levels(c1: float, c2: float, n: int) -> Tensor:
    r"""Noise levels u_0 > ... > u_n = 0 of improved DDPM, float64 of shape `(n + 1,)`.

    .. math:: u_{j-1} = \sqrt{\frac{u_j^2 + 1}{\max(\bar\alpha_{j-1} / \bar\alpha_j, c_1)} - 1},
              \qquad \bar\alpha_j = \sin^2\left(\frac{\pi j}{2 n (c_2 + 1)}\right)

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """
    alpha_bar = torch.sin(math.pi / 2 * torch.arange(n + 1).double() / n / (c2 + 1)) ** 2
    levels = torch.zeros(n + 1, dtype=torch.float64)
    for j in range(n, 0, -1):
        ratio = max(float(alpha_bar[j - 1] / alpha_bar[j]), c1)
        levels[j - 1] = ((levels[j] ** 2 + 1) / ratio - 1).sqrt()
    return levels


def nearest_level(at: Scales, c1: float, c2: float, n: int) -> Tensor:
    """n - 1 - argmin |u_j - sigma / alpha|, among the levels of improved DDPM."""
    levels = iddpm_levels(c1, c2, n).to(at.t.device)
    ratio = (at.sigma / at.alpha)[..., None]
    return (n - 1 - (levels - ratio).abs().argmin(-1)).to(at.t.dtype)
