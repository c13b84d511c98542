"""Variance-preserving diffusions: the signal fades as noise comes in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count, require_increasing, require_positive
from sde_score.sdes.base import SDE, of_time


@dataclass(frozen=True)
class _LinearBeta(SDE):
    """Base of VP and sub-VP: a noise rate beta(t) linear in t, and alpha = exp(-B/2) with B its
    integral. The prior is the stationary distribution, which unit-variance data have at every t."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    sampling_t_min = 1e-3
    prior_std = 1.0

    def __post_init__(self) -> None:
        require_increasing(
            "it is the noise rate at t=1", beta_min=self.beta_min, beta_max=self.beta_max
        )
        check_fields(self)

    @of_time
    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t) = beta_min + t (beta_max - beta_min), in the shape of t."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def _beta_integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def _time_of_beta_integral(self, integral: Tensor) -> Tensor:
        # The root of the quadratic written without subtracting near-equal numbers.
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._beta_integral(t))

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)


@dataclass(frozen=True)
class VP(_LinearBeta):
    r"""Variance-preserving diffusion with a linear noise rate.

    .. math:: \beta(t) = \beta_{min} + t (\beta_{max} - \beta_{min}), \qquad
              \alpha(t) = e^{-\frac12 \int_0^t \beta}, \qquad
              \sigma(t)^2 = 1 - \alpha(t)^2, \quad t \in [10^{-5}, 1]

    Its discretization at n times is the chain of DDPM.

    Args:
        beta_min: noise rate at t = 0; 0 < beta_min < beta_max.
        beta_max: noise rate at t = 1.

    Raises:
        ValueError: if the rates are not positive, finite and increasing.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 11 and appendix C.
    """

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self._beta_integral(t))).sqrt()

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return 0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._time_of_beta_integral(softplus(-log_snr, threshold=40))

    @override
    def discrete_times(self, n: int) -> Tensor:
        """The times i / n of the n states of DDPM's chain."""
        require_count(n=n)
        return torch.arange(1, n + 1, dtype=torch.float64) / n


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    r"""Sub-variance-preserving diffusion: the signal of VP with less noise.

    .. math:: \alpha(t) = e^{-\frac12 \int_0^t \beta}, \qquad
              \sigma(t) = 1 - \alpha(t)^2, \quad t \in [10^{-5}, 1]

    Args:
        beta_min: noise rate at t = 0; 0 < beta_min < beta_max.
        beta_max: noise rate at t = 1.

    Raises:
        ValueError: if the rates are not positive, finite and increasing.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, section 3.4 and appendix C.
    """

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._beta_integral(t))

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t) ** 2

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # alpha / sigma = 1 / (2 sinh(B/2))
        return self._time_of_beta_integral(2 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr)))


@dataclass(frozen=True)
class Cosine(SDE):
    r"""Variance-preserving diffusion whose signal falls as a cosine.

    .. math:: \alpha(t) = \cos \theta(t) / \cos \theta(0), \qquad
              \theta(t) = \frac{\pi}{2} \frac{t + s}{1 + s}, \qquad
              \sigma^2 = 1 - \alpha^2, \quad t \in [10^{-5}, 0.995]

    The signal vanishes at t = 1, where the noise rate is infinite; the range stops short of it,
    with alpha = 0.008.

    Args:
        offset: s > 0; keeps the noise from starting too slowly.

    Raises:
        ValueError: if `offset` is not positive and finite.

    Reference: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17.
    """

    offset: float = 0.008

    t_max = 0.995
    sampling_t_min = 1e-3
    prior_std = 1.0

    def __post_init__(self) -> None:
        require_positive(offset=self.offset)
        check_fields(self)

    @property
    def _speed(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    @property
    def _start(self) -> float:
        return self._speed * self.offset

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._start + self._speed * t) / math.cos(self._start)

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation at small t
        turned = self._speed * t
        product = torch.sin(turned) * torch.sin(turned + 2 * self._start)
        return product.sqrt() / math.cos(self._start)

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -self._speed * torch.sin(self._start + self._speed * t) / math.cos(self._start)

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.alpha_derivative(t) / self.sigma(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        alpha2, sigma2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        cos2 = math.cos(self._start) ** 2
        angle = torch.atan2(
            (math.sin(self._start) ** 2 + cos2 * sigma2).sqrt(), (cos2 * alpha2).sqrt()
        )
        return (angle - self._start) / self._speed
