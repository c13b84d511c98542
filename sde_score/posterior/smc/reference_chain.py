r"""The chain that particles are weighed against: the model's own reverse diffusion in steps.

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-h} x_t + \alpha_s (1 - e^{-2h})
          \left[D_t + \frac{1}{2 r} (D_t - D_{t'})\right] + \sigma_s \sqrt{1 - e^{-2h}}\, z

with h = log(alpha / sigma) at s less that at t, t' the time before t and r its step in shares of h.
With the second term of the bracket the chain's marginals are off by O(h^2), else by O(h), which is
ancestral sampling with the posterior variance.

Reference: Lu et al. 2022, https://arxiv.org/abs/2211.01095, appendix on SDE-DPM-Solver++(2M).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score.samplers import posterior_coefficients
from sde_score.sdes import SDE


@dataclass(frozen=True)
class ReferenceChain:
    """Coefficients of all steps along a grid.

    Args:
        on_x: factors on the state.
        on_x0: on the denoised mean.
        on_change: on the difference of the denoised mean to that of the step before.
        std: of the noise.
    """

    on_x: list[float]
    on_x0: list[float]
    on_change: list[float]
    std: list[float]

    @classmethod
    def of(cls, sde: SDE, times: Tensor) -> ReferenceChain:
        """The chain through these times, decreasing, float64."""
        t, s = times[:-1], times[1:]
        on_x0, on_x, std = posterior_coefficients(sde, s, t)
        h = (0.5 * sde.log_snr(times)).diff()
        on_change = torch.zeros_like(on_x0)
        on_change[1:] = on_x0[1:] * h[1:] / (2 * h[:-1])
        return cls(on_x.tolist(), on_x0.tolist(), on_change.tolist(), std.tolist())

    def mean(self, x: Tensor, x0: Tensor, before: Tensor, k: int) -> Tensor:
        """Mean of the state after step k.

        Args:
            x: the state.
            x0: its denoised mean.
            before: that of the step before, on the way to x.
            k: number of the step, from 0.
        """
        mean = self.on_x[k] * x + (self.on_x0[k] + self.on_change[k]) * x0
        return mean - self.on_change[k] * before
