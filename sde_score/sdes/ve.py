"""Variance-exploding diffusions: the data stay, noise is added."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_increasing
from sde_score.sdes.base import SDE, of_time

_HINT = (
    "it is the noise at t_max; try the largest distance between data points "
    "(sde-score data info PATH)"
)


@dataclass(frozen=True)
class VE(SDE):
    r"""Variance-exploding diffusion: noise grows geometrically.

    .. math:: \alpha(t) = 1, \qquad
              \sigma(t) = \sigma_{min} (\sigma_{max} / \sigma_{min})^t, \quad t \in [0, 1]

    Its discretization at n times is the noise ladder of NCSN.

    Args:
        sigma_min: noise at t = 0, in units of the data; 0 < sigma_min < sigma_max.
        sigma_max: noise at t = 1; about the largest distance between two data points
            (Song & Ermon 2020, technique 1, https://arxiv.org/abs/2006.09011).

    Raises:
        ValueError: if the bounds are not positive, finite and increasing.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 9 and appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    t_min = 0.0

    def __post_init__(self) -> None:
        require_increasing(_HINT, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_fields(self)

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._log_ratio * t)

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return self._log_ratio * self.sigma(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._log_ratio

    @override
    def discrete_times(self, n: int) -> Tensor:
        """The NCSN ladder: n geometric noise levels, from sigma_min to sigma_max.

        Raises:
            ValueError: if n < 2; a ladder has two ends.
        """
        require_count(minimum=2, n=n)
        return torch.linspace(0, 1, n, dtype=torch.float64)


@dataclass(frozen=True)
class EDM(SDE):
    r"""Variance-exploding diffusion whose time is the noise itself.

    .. math:: \alpha(t) = 1, \qquad \sigma(t) = t, \quad t \in [\sigma_{min}, \sigma_{max}]

    Args:
        sigma_min: smallest noise, in units of the data; 0 < sigma_min < sigma_max.
        sigma_max: largest noise.

    Raises:
        ValueError: if the bounds are not positive, finite and increasing.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    native_grid = "karras"

    def __post_init__(self) -> None:
        require_increasing(_HINT, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        check_fields(self)

    @property
    @override
    def t_min(self) -> float:
        """The smallest noise."""
        return self.sigma_min

    @property
    @override
    def t_max(self) -> float:
        """The largest noise."""
        return self.sigma_max

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return t

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr)
