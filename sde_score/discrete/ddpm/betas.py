"""Published step variances of DDPM's chain, for `HierarchicalVAE.from_betas`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.checks import require_count, require_positive


def linear_betas(layers: int, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Evenly spaced from `first` to `last`: shape `(layers,)`, float64.

    Raises:
        ValueError: for fewer than 2 layers, or bounds outside (0, 1).

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, section 4.
    """
    require_count(2, layers=layers)
    for name, value in {"first": first, "last": last}.items():
        if not 0 < value < 1:
            raise ValueError(f"{name}={value!r} must lie in (0, 1): it is the variance of a step")
    return torch.linspace(first, last, layers, dtype=torch.float64)


def cosine_betas(layers: int, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    r"""Betas whose signal falls as a cosine: shape `(layers,)`, float64.

    .. math:: \beta_i = \min\!\left(1 - \frac{f(i/n)}{f((i-1)/n)},\ \beta_{max}\right), \qquad
              f(u) = \cos^2\!\left(\frac{\pi}{2} \frac{u + s}{1 + s}\right)

    Args:
        layers: their number n, at least 2.
        offset: s > 0; keeps the first steps from being too small.
        largest: the cap, in (0, 1); without one the last beta is 1.

    Raises:
        ValueError: for arguments outside these ranges.

    Reference: Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672, eq. 17.
    """
    require_count(2, layers=layers)
    require_positive(offset=offset)
    if not 0 < largest < 1:
        raise ValueError(f"largest={largest!r} must lie in (0, 1): a beta of 1 leaves no signal")
    u = torch.arange(layers + 1, dtype=torch.float64) / layers
    angle = 0.5 * math.pi * (u + offset) / (1 + offset)
    early, late = angle[:-1], angle[1:]
    # cos^2 a - cos^2 b = sin(b - a) sin(b + a): no cancellation in the first steps
    betas = torch.sin(late - early) * torch.sin(late + early) / torch.cos(early) ** 2
    return betas.clamp(max=largest)
