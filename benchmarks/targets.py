"""Gaussian mixtures whose probability flow is known, from 2 to 64 dimensions, to measure samplers.

`TARGETS` names them; each entry is made with `create(name)`, or under another diffusion with
`create(name, sde)`. `HELD_OUT` were not looked at when defaults other than `auto` were chosen.
All numbers come from fixed seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from sde_score.evaluation import BENCHMARK_TARGETS, BenchmarkTarget, exact_target
from sde_score.models import GaussianMixture
from sde_score.random import generator_from
from sde_score.sdes import SDE

Mixture = tuple[Tensor, Tensor, Tensor | None]
"""Means, covariances in a standard form, and weights."""


def scattered(
    dimensions: int, modes: int, scales: tuple[float, ...], spread: float = 1.0, seed: int = 0,
    correlated: bool = True,
) -> Mixture:  # fmt: skip
    """Normal means of deviation `spread`, and in each mode `scales` in turn along random axes, or
    along the coordinates; weights between 1 and 3."""
    generator = generator_from(seed, dimensions)
    draw = partial(torch.randn, generator=generator, dtype=torch.float64)
    means = spread * draw(modes, dimensions)
    deviations = torch.tensor(scales, dtype=torch.float64)
    deviations = deviations[torch.arange(dimensions) % len(scales)]
    weights = 1 + 2 * torch.rand(modes, generator=generator, dtype=torch.float64)
    if len(scales) == 1:
        return means, torch.full((modes,), scales[0] ** 2, dtype=torch.float64), weights
    if not correlated:
        return means, deviations.square().expand(modes, dimensions).clone(), weights
    axes, _ = torch.linalg.qr(draw(modes, dimensions, dimensions))
    covariances = torch.einsum("kcd,d,ked->kce", axes, deviations.square(), axes)
    return means, (covariances + covariances.mT) / 2, weights


def spirals(modes: int, std: float, arms: int = 2, radius: float = 2.0) -> Mixture:
    """Narrow modes along spirals in the plane that begin near 0."""
    share = torch.arange(modes // arms, dtype=torch.float64) / (modes // arms)
    turn = 3 * math.pi * share.sqrt()
    means = []
    for arm in range(arms):
        angle = turn + 2 * math.pi * arm / arms
        line = torch.stack([angle.cos(), angle.sin()], 1)
        means.append((0.1 + radius * share.sqrt())[:, None] * line)
    return torch.cat(means), torch.tensor(std**2, dtype=torch.float64), None


def helix(modes: int, std: float) -> Mixture:
    """Narrow modes along three turns in space."""
    share = torch.linspace(0, 1, modes, dtype=torch.float64)
    angle = 6 * math.pi * share
    means = torch.stack([angle.cos(), angle.sin(), 3 * share - 1.5], 1)
    return means, torch.tensor(std**2, dtype=torch.float64), None


def lattice(side: int, std: float) -> Mixture:
    """Equal modes on a square."""
    line = torch.linspace(-1.5, 1.5, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line), torch.tensor(std**2, dtype=torch.float64), None


def gaussian(scales: tuple[float, ...], seed: int) -> Mixture:
    """One correlated Gaussian off the center."""
    return scattered(len(scales), 1, scales, 0.5, seed)


_FIVE = (0.02, 0.07, 0.25, 0.9, 3.0)

MIXTURES: Mapping[str, tuple[Callable[[], Mixture], str]] = {
    "pair": (partial(scattered, 2, 2, (0.2,), 1.0, 1), "vp"),
    "lattice": (partial(lattice, 5, 0.05), "edm"),
    "few-3d": (partial(scattered, 3, 3, (0.3,), 1.0, 2), "rectified"),
    "many-4d": (partial(scattered, 4, 50, (0.1,), 1.0, 3), "vp"),
    "wide-8d": (partial(scattered, 8, 6, (0.3, 1.0), 4.0, 4), "edm"),
    "small-8d": (partial(scattered, 8, 6, (0.02, 0.1), 0.2, 5), "rectified"),
    "gaussian-10d": (partial(gaussian, tuple(0.01 * 1.8**k for k in range(10)), 6), "vp"),
    "diagonal-12d": (partial(scattered, 12, 8, (0.05, 0.5, 1.0), 0.7, 7, False), "edm"),
    "many-32d": (partial(scattered, 32, 30, (0.1,), 1.0, 8), "rectified"),
    "thin-48d": (partial(scattered, 48, 8, (0.05, 0.05, 0.3), 0.6, 9), "vp"),
    "five-scales": (partial(scattered, 16, 6, _FIVE, 1.0, 10), "edm"),
    "spirals": (partial(spirals, 120, 0.02), "edm"),
    "helix": (partial(helix, 40, 0.05), "cosine"),
    "unequal-6d": (partial(scattered, 6, 4, (0.05, 0.2, 1.5), 1.5, 11), "vp"),
    "modes-24d": (partial(scattered, 24, 12, (0.2,), 0.8, 12), "rectified"),
    "scales-64d": (partial(scattered, 64, 5, (0.03, 0.1, 0.3, 1.0), 0.5, 13), "edm"),
}
"""A mixture and the diffusion it is under, by name."""

HELD_OUT = ("five-scales", "spirals", "helix", "unequal-6d", "modes-24d", "scales-64d")
"""Not used to choose the fields of any sampler but `auto`, whose rule was settled with all in
view."""

KNOWN = ("ring", "ring(sde='vp')", "digits-mixture", "digits-mixture(sde='rectified')")
"""Targets of the package that samplers were chosen on."""

TARGETS = (*KNOWN, *MIXTURES)
"""All names that `create` takes."""


def create(name: str, sde: SDE | str | None = None) -> BenchmarkTarget:
    """A target by name, under its own diffusion or another."""
    if name not in MIXTURES:
        return BENCHMARK_TARGETS.create(name)
    make, own = MIXTURES[name]
    means, covariances, weights = make()

    def mixture(under: SDE) -> GaussianMixture:
        return GaussianMixture(means, covariances, under, weights)

    return exact_target(name, mixture, sde or own)
