r"""Chains of published codes: their betas, and the diffusion through them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score.sdes import Tabulated


def betas(
    schedule: str,
    steps: int = 1000,
    start: float | None = None,
    end: float | None = None,
    cap: float = 0.999,
) -> Tensor:
    r"""Variances of the steps of a chain, float64 of shape `(steps,)`.

    Args:
        schedule: `"linear"`, from `start` to `end`; `"scaled_linear"`, linear in the square root;
            `"cosine"`, :math:`\bar\alpha = \cos^2(\frac{\pi}{2} (t + .008) / 1.008)`; or
            `"sigmoid"`, of lucidrains, from -3 to 3.
        steps: number of steps.
        start: first beta; None for 1e-4 times 1000 / steps.
        end: last beta; None for 0.02 times 1000 / steps.
        cap: largest beta of the schedules given by their products.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239; Nichol & Dhariwal 2021,
    https://arxiv.org/abs/2102.09672; Jabri et al. 2022, https://arxiv.org/abs/2212.11972.
    """
    require_choice("schedule", schedule, ("linear", "scaled_linear", "cosine", "sigmoid"))
    scale = 1000 / steps
    first = 1e-4 * scale if start is None else start
    last = 0.02 * scale if end is None else end
    if schedule == "linear":
        return torch.linspace(first, last, steps, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
    t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if schedule == "cosine":
        product = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    else:
        low, high = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=torch.float64))
        product = (high - torch.sigmoid(t * 6 - 3)) / (high - low)
    return (1 - product[1:] / product[:-1]).clamp(max=cap)


def through(values: Tensor) -> Tabulated:
    """The diffusion through a chain of these betas."""
    return Tabulated.from_betas(values.double().clamp(max=0.9999999))
