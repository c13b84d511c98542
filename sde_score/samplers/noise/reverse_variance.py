r"""Variances of a step back in time: of p(x_s | x_t) for an earlier time s.

Given the data, the step back from t to s is exact and normal,

.. math:: q(x_s \mid x_t, x_0) = N\!\left(
          \frac{\alpha_s\, std^2}{\sigma_t^2} x_0 + \frac{scale\, \sigma_s^2}{\sigma_t^2} x_t,\
          \frac{std^2 \sigma_s^2}{\sigma_t^2} I\right),

with `scale` and `std` of the exact transition from s to t. A model puts its denoised mean in the
place of x_0; the spread of x_0 given x_t then widens the best normal step, to a variance between
that of this posterior and that of the transition if the data have at most unit variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.registry import Registry
from sde_score.sdes import SDE

Numbers = float | tuple[float, ...]


def posterior_coefficients(sde: SDE, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors on x_0 and on x_t in the mean of q(x_s | x_t, x_0), and its standard deviation.

    Args:
        sde: the diffusion.
        s: earlier times, float64.
        t: later times, in the shape of s.

    Returns:
        Three tensors in the shape of s.
    """
    scale, std = sde.transition(s, t)
    fresh, narrow = (std / sde.sigma(t)) ** 2, sde.sigma(s) / sde.sigma(t)
    return sde.alpha(s) * fresh, scale * narrow**2, std * narrow


class ReverseVariance(ABC):
    """A rule for the variance of a step back from t to s."""

    @abstractmethod
    def std(self, sde: SDE, s: Tensor, t: Tensor) -> Tensor:
        """Standard deviation of each step, float64, in the shape of s and t."""


@dataclass(frozen=True)
class PosteriorVariance(ReverseVariance):
    """The variance of q(x_s | x_t, x_0), the smallest: exact when the data are one point."""

    def std(self, sde: SDE, s: Tensor, t: Tensor) -> Tensor:
        """std sigma_s / sigma_t."""
        return posterior_coefficients(sde, s, t)[2]


@dataclass(frozen=True)
class TransitionVariance(ReverseVariance):
    """The variance of the forward step: exact when the data are N(0, I) and the SDE keeps it."""

    def std(self, sde: SDE, s: Tensor, t: Tensor) -> Tensor:
        """The std of the transition."""
        return sde.transition(s, t)[1]


@dataclass(frozen=True)
class InterpolatedVariance(ReverseVariance):
    r"""Geometric mean of the two: ln variance = v ln transition + (1 - v) ln posterior.

    Args:
        v: in [0, 1]; one number, or one for each of the times `at` (linear in log-SNR between).
        at: strictly increasing times t from which the steps back start, if v has one each.

    Raises:
        ValueError: for v outside [0, 1], or times that do not increase or do not match v.

    Reference: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 15.
    """

    v: Numbers = 0.5
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        _require_table("v", self.v, self.at, 1.0)

    def std(self, sde: SDE, s: Tensor, t: Tensor) -> Tensor:
        """std (sigma_s / sigma_t)^(1 - v)."""
        return interpolated_std(sde, s, t, _read(sde, self.v, self.at, t))


def interpolated_std(sde: SDE, s: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """std (sigma_s / sigma_t)^(1 - v), for any v that broadcasts: 0 the posterior's, 1 the
    transition's."""
    return sde.transition(s, t)[1] * (sde.sigma(s) / sde.sigma(t)) ** (1 - v)


@dataclass(frozen=True)
class OptimalVariance(ReverseVariance):
    r"""Optimal (Analytic-DPM) variance: the posterior's plus scaled Cov(x_0 given x_t).

    .. math:: \frac{std^2 \sigma_s^2}{\sigma_t^2} + \left(\frac{\alpha_s\, std^2}{\sigma_t^2}
              \right)^2 spread(t), \qquad spread(t) = E\, \mathrm{tr\,Cov}(x_0 \mid x_t) / D

    Since `spread` belongs to one time and not to a step, steps of any length share it.

    Args:
        spread: at least 0; one number, or one for each of the times `at` (linear in log-SNR
            between).
        at: strictly increasing times, if `spread` has one each.

    Raises:
        ValueError: for a negative spread, or times that do not increase or do not match it.

    Reference: Bao et al. 2022, https://arxiv.org/abs/2201.06503, theorem 1.
    """

    spread: Numbers
    at: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        _require_table("spread", self.spread, self.at, float("inf"))

    def std(self, sde: SDE, s: Tensor, t: Tensor) -> Tensor:
        """The square root of the formula."""
        on_x0, _, std = posterior_coefficients(sde, s, t)
        return (std**2 + on_x0**2 * _read(sde, self.spread, self.at, t)).sqrt()


VARIANCES: Registry[ReverseVariance] = Registry(
    "variance",
    {
        "posterior": PosteriorVariance,
        "transition": TransitionVariance,
        "interpolated": InterpolatedVariance,
        "optimal": OptimalVariance,
    },
    base=ReverseVariance,
)


def _require_table(name: str, values: Numbers, at: tuple[float, ...], most: float) -> None:
    entries = values if isinstance(values, tuple) else (values,)
    if not all(0 <= value <= most and value < float("inf") for value in entries):
        raise ValueError(f"{name} must be finite and lie in [0, {most:g}], got {values!r:.80}")
    if isinstance(values, tuple) != bool(at) or (at and len(entries) != len(at)):
        raise ValueError(
            f"{name} must be one number, or a tuple with one for each of the times in at; got "
            f"{len(entries)} for {len(at)} times"
        )
    if any(not early < late for early, late in pairwise(at)):
        raise ValueError("at must be strictly increasing times")


def _read(sde: SDE, values: Numbers, at: tuple[float, ...], t: Tensor) -> Tensor:
    """Values of a table at times t: linear in log-SNR between its times, constant beyond them."""
    table = torch.tensor(values, dtype=torch.float64)
    if table.ndim == 0 or len(table) == 1:
        return table.reshape(()).expand(t.shape)
    nodes = -sde.log_snr(torch.tensor(at, dtype=torch.float64))
    place = -sde.log_snr(t).to(nodes)
    right = torch.searchsorted(nodes, place).clamp(1, len(nodes) - 1)
    share = (place - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    return torch.lerp(table[right - 1], table[right], share.clamp(0, 1))
