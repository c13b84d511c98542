"""Heun's method in the noise level, with EDM's churn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._checks import require_positive
from sde_score.samplers.base import March, Problem, Sampler
from sde_score.samplers.grids import Grid


@dataclass(frozen=True)
class Heun(Sampler):
    r"""Second-order steps of the probability-flow ODE in s = sigma / alpha, on y = x / alpha.

    .. math:: \frac{dy}{ds} = \frac{y - \hat x_0(\alpha y)}{s}

    Churn raises the noise before each step, s to (1 + gamma) s with gamma = min(churn / steps,
    sqrt(2) - 1), and steps down from there; it corrects errors at the price of noise. The final
    denoising is Euler's step to s = 0, so EDM's n steps are `steps=n`, with 2n - 1 evaluations.

    The grid is Karras's unless another is asked for, on every SDE: with even steps in t, Heun
    needs many more of them.

    Args:
        churn: overall amount of noise put back, >= 0; 0 is the ODE.
        churn_min: churn only where s is at least this.
        churn_max: churn only where s is at most this. The noise is never raised beyond that of
            `t_max`.
        churn_noise: standard deviation of the fresh noise, near 1.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithms 1 and 2.
    """

    steps: int = 18
    grid: str | Grid = "karras"
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    convergence_order = 2
    evaluations = "2"
    reference = "Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(churn_noise=self.churn_noise)
        if not self.churn >= 0:
            raise ValueError(f"churn={self.churn} must be at least 0; 0 is the ODE")
        if not 0 <= self.churn_min <= self.churn_max:
            raise ValueError(
                f"churn_min={self.churn_min} and churn_max={self.churn_max} must be increasing"
            )

    @property
    @override
    def stochastic(self) -> bool:
        return self.churn > 0

    @override
    def march(self, problem: Problem, x: Tensor) -> March:
        sde, times = problem.sde, problem.times
        here = _noise_ratio(sde.log_snr(times))
        raised = self._raise(here)
        start = torch.where(raised > here, sde.time_of_log_snr(-2 * raised.log()), times)
        scale, scale_start = sde.alpha(times), sde.alpha(start)
        lift = (scale_start / scale).tolist()
        fresh = (raised**2 - here**2).clamp(min=0).sqrt()
        added = (scale_start * self.churn_noise * fresh).tolist()
        # With r the ratio of the noise levels, Euler's step is r y + (1 - r) x0_hat, and Heun's
        # adds (1 - r) / 2r times the change of x0_hat.
        ratio = here[1:] / raised[:-1]
        keep = (ratio * scale[1:] / scale_start[:-1]).tolist()
        pull = (1 - ratio) * scale[1:]
        bend, pulls = (0.5 * pull / ratio).tolist(), pull.tolist()
        at, before = problem.moments(x.device), start.to(x.device).unbind()
        for k, arrival in enumerate(times[1:].tolist()):
            if added[k]:
                x.mul_(lift[k]).add_(problem.noise(), alpha=added[k])
            first = problem.denoise(x, before[k])
            ahead = torch.mul(x, keep[k]).add_(first, alpha=pulls[k])
            second = problem.denoise(ahead, at[k + 1])
            x = ahead.add_(second, alpha=bend[k]).add_(first, alpha=-bend[k])
            yield arrival, x

    def _raise(self, ratio: Tensor) -> Tensor:
        """Noise levels after churn; shape and dtype of `ratio`."""
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        churned = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        return torch.where(churned, (1 + gamma) * ratio, ratio).clamp(max=float(ratio[0]))


def _noise_ratio(log_snr: Tensor) -> Tensor:
    """sigma / alpha from the log signal-to-noise ratio."""
    return torch.exp(-0.5 * log_snr)
