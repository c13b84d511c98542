r"""Weights of the noise levels in a loss.

Each weighting is stated as the factor on the squared error of the predicted *noise*, the form that
neither overflows nor vanishes. In terms of the other errors, with s = sigma / alpha:

.. math:: \lVert \hat\epsilon - \epsilon \rVert^2
          = \sigma^2 \lVert \hat{score} - score \rVert^2
          = s^{-2} \lVert \hat x_0 - x_0 \rVert^2 .
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_positive
from sde_score._core.registry import Registry
from sde_score.sdes import SDE


@runtime_checkable
class Weighting(Protocol):
    """Factor on the squared noise error at each time."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """Weights in the shape of t; t is float64."""
        ...


@dataclass(frozen=True)
class Variance:
    """sigma^2 on the score error: every noise level counts the same, DDPM's simple loss.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 14.
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)


@dataclass(frozen=True)
class Likelihood:
    """g^2 on the score error: half its sum over entries, over time, bounds the negative
    log-likelihood.

    Its variance is large at small t; the time sampler `importance` takes it away.

    Reference: Song et al. 2021, https://arxiv.org/abs/2101.09258, theorem 1.
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """g^2 / sigma^2."""
        return (sde.diffusion(t) / sde.sigma(t)) ** 2


@dataclass(frozen=True)
class EDMWeighting:
    """EDM's weighting: unit weight at every noise level on the network behind its preconditioning.

    Args:
        sigma_data: standard deviation of the data, > 0.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, table 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(sigma_data=self.sigma_data)

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """1 + s^2 / sigma_data^2, that is (s^2 + sigma_data^2) / (s sigma_data)^2 on the data
        error."""
        return 1 + torch.exp(-sde.log_snr(t)) / self.sigma_data**2


@dataclass(frozen=True)
class MinSNR:
    """min(snr, gamma) on the data error: low noise levels stop dominating.

    Args:
        gamma: largest weight, > 0.

    Reference: Hang et al. 2023, https://arxiv.org/abs/2303.09556.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(gamma=self.gamma)

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """min(1, gamma s^2)."""
        return (self.gamma * torch.exp(-sde.log_snr(t))).clamp(max=1.0)


@dataclass(frozen=True)
class Unit:
    """1 on the score error: the Fisher divergence itself, which small noise dominates."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        """1 / sigma^2."""
        return sde.sigma(t) ** -2


WEIGHTINGS: Registry[Weighting] = Registry(
    "weighting",
    {
        "variance": Variance,
        "likelihood": Likelihood,
        "edm": EDMWeighting,
        "min_snr": MinSNR,
        "unit": Unit,
    },
    base=Weighting,
    aliases={"simple": "variance"},
)
