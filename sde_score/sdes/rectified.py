"""The straight line between data and noise, as used by flow matching."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score.sdes.base import SDE, of_time


@dataclass(frozen=True)
class Rectified(SDE):
    r"""Rectified flow: x_t is a straight line from data to noise.

    .. math:: \alpha(t) = 1 - t, \qquad \sigma(t) = t, \quad t \in [10^{-4}, 0.999]

    Its velocity noise - x_0 is regular everywhere, and matching it is flow matching. The SDE with
    these marginals,

    .. math:: dx = -\frac{x}{1-t} dt + \sqrt{\frac{2t}{1-t}}\, dw ,

    is an Ornstein-Uhlenbeck process that forgets the data in finite time: drift and diffusion are
    infinite at t = 1, where no signal is left, and nothing can be recovered from x_1 by conversion
    from the score. The range therefore stops short of 1, and of 0, where the score is infinite.

    Reference: Liu et al. 2022, https://arxiv.org/abs/2209.03003; Lipman et al. 2022,
    https://arxiv.org/abs/2210.02747.
    """

    t_min = 1e-4
    t_max = 0.999
    sampling_t_min = 1e-3

    @override
    @of_time
    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    @override
    @of_time
    def sigma(self, t: Tensor) -> Tensor:
        return t

    @override
    @of_time
    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    @override
    @of_time
    def sigma_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @override
    def _time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)
