r"""Stochasticity of a sampler: tau, between the probability-flow ODE and the reverse SDE.

All samplers of

.. math:: dx = \left[f x - \tfrac{1 + \tau^2}{2} g^2 score\right] dt + \tau\, g\, d\bar w

share the marginals of the diffusion, whatever tau >= 0: 0 is the probability-flow ODE and 1 the
reverse SDE. The argument `eta` of a sampler is tau. More noise forgets the errors of earlier steps
and costs more steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import is_number
from sde_score._core.registry import Registry


class EtaSchedule(ABC):
    r"""tau as a function of the noise ratio s = sigma / alpha.

    Where the data are extrapolated, the linear part of a step is phi(s_1) / phi(s_0), with

    .. math:: \frac{d \log \phi}{d \log s} = 1 + \tau(s)^2 .
    """

    constant: bool = True
    """Whether tau is constant within a step."""

    @abstractmethod
    def rate(self, s: Tensor, start: Tensor) -> Tensor:
        """tau^2 at s within a step that starts at `start`; they broadcast."""

    def log_phi(self, s: Tensor, start: Tensor) -> Tensor:
        """log phi, up to a constant of the step."""
        return (1 + self.rate(s, start)) * torch.log(s)

    @property
    def stochastic(self) -> bool:
        """Whether any noise is added."""
        return True


@dataclass(frozen=True)
class Constant(EtaSchedule):
    """The same tau at all noise ratios.

    Args:
        eta: tau, at least 0.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.eta < math.inf:
            raise ValueError(
                f"eta={self.eta} must be at least 0: 0 is the ODE, 1 the reverse-time SDE"
            )

    def rate(self, s: Tensor, start: Tensor) -> Tensor:
        """eta^2."""
        return torch.full_like(s, self.eta**2)

    @property
    def stochastic(self) -> bool:
        """Whether eta > 0."""
        return self.eta > 0


@dataclass(frozen=True)
class Interval(EtaSchedule):
    """tau for steps that start at a noise ratio between two bounds, 0 for the others.

    Args:
        eta: tau in between, at least 0.
        low: smallest noise ratio, in units of the data.
        high: largest.

    Raises:
        ValueError: for a negative eta, or bounds that do not increase.

    Reference: Xue et al. 2023 (SA-Solver), https://arxiv.org/abs/2309.05019.
    """

    eta: float = 1.0
    low: float = 0.05
    high: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta={self.eta} must be at least 0")
        if not 0 <= self.low < self.high:
            raise ValueError(f"low={self.low} and high={self.high} must be increasing")

    def rate(self, s: Tensor, start: Tensor) -> Tensor:
        """eta^2 where the step starts in the interval."""
        inside = (start >= self.low) & (start <= self.high)
        return torch.full_like(s, self.eta**2) * inside


@dataclass(frozen=True)
class Extended(EtaSchedule):
    r"""ER-SDE's schedule: tau falls with the noise.

    .. math:: \phi(s) = s\, (e^{s^{0.3}} + 10), \qquad
              \tau^2 = \frac{0.3\, s^{0.3} e^{s^{0.3}}}{e^{s^{0.3}} + 10}

    Reference: Cui et al. 2023 (ER-SDE-Solver), https://arxiv.org/abs/2309.06169.
    """

    constant = False

    def rate(self, s: Tensor, start: Tensor) -> Tensor:
        """d log phi / d log s - 1."""
        power = s**0.3
        return 0.3 * power / (1 + 10 * torch.exp(-power))

    def log_phi(self, s: Tensor, start: Tensor) -> Tensor:
        """log s + log(exp(s^0.3) + 10)."""
        power = s**0.3
        return torch.log(s) + torch.logaddexp(power, torch.full_like(s, math.log(10)))


ETA_SCHEDULES: Registry[EtaSchedule] = Registry(
    "eta schedule",
    {"constant": Constant, "interval": Interval, "extended": Extended},
    base=EtaSchedule,
)


def eta_schedule(eta: float | str | EtaSchedule) -> EtaSchedule:
    """A schedule from a number, the name of one such as `"interval(eta=0.8)"`, or an object.

    Raises:
        ValueError: for a negative number or an unknown name.
    """
    if not isinstance(eta, (str, EtaSchedule)) and is_number(eta):
        return Constant(eta)
    return ETA_SCHEDULES.resolve(cast("str | EtaSchedule", eta), name="eta")
