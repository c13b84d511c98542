r"""NCSNv2's design rules: ends and ratio of the noise levels, Langevin steps and their size.

Each rule is a function of its own inputs alone and returns a `DesignChoice`, a number with its
reason in plain words; `sde_score.discrete.design` applies them in turn.

Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, techniques 1, 2 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from sde_score._core.checks import (
    require_batch,
    require_choice,
    require_count,
    require_increasing,
    require_positive,
)
from sde_score.discrete.ncsn.noise_scales import NoiseScales
from sde_score.random import generator_from
from sde_score.samplers import annealed_variance, choose_step_ratio, choose_steps_each

Stds = float | tuple[float, ...]
"""Standard deviations of data: one, or those of several directions."""

Number = TypeVar("Number", int, float)

RADIUS_DISTRIBUTIONS = ("normal", "chi")

_LARGEST_RATIO = 100.0

_SPREAD = 3.0  # standard deviations of the radius within which a noise level counts as present


@dataclass(frozen=True)
class DesignChoice(Generic[Number]):
    """A number and the reason for it; prints as the reason.

    Args:
        value: the number.
        reason: a sentence that names the rule, its formula and the numbers that went in.
    """

    value: Number
    reason: str

    def __str__(self) -> str:
        return self.reason


def largest_scale(data: Tensor, *, examples: int = 5000) -> DesignChoice[float]:
    """Technique 1: the first level as large as the largest distance between two examples.

    The chain can then reach any example from any other at that level.

    Args:
        data: shape `(count, *event)`, in the range that models see.
        examples: of a larger data set a random subset of this size is measured, as the number of
            pairs grows with its square.

    Raises:
        ValueError: for fewer than two examples, or examples that are all alike.
    """
    require_batch("data", data)
    require_count(minimum=2, examples=examples)
    chosen, which = data, f"{len(data)} examples"
    if len(data) > examples:
        chosen = data[torch.randperm(len(data), generator=generator_from(0))[:examples]]
        which = f"{examples} of {len(data)} examples, a lower bound"
    points = chosen.detach().reshape(len(chosen), -1).double()
    points = points - points.mean(0)  # far from zero, distances would cancel digits
    parts = torch.split(points, 1024)
    largest = max((torch.cdist(part, points).max().item() for part in parts), default=0.0)
    if not largest > 0:
        raise ValueError(f"data of {len(data)} examples that do not differ have no largest scale")
    return DesignChoice(
        largest,
        f"sigma_max = {largest:.4g}: the largest distance between two examples, on {which} "
        "(technique 1), so that at the first level all of them are within reach of each other.",
    )


def smallest_scale(data: Tensor) -> DesignChoice[float]:
    """The last level: a hundredth of the range of the data, NCSN's 0.01 for images in [0, 1].

    Noise of that size is invisible in images; data on finer structure need less.

    Raises:
        ValueError: for data that are constant.
    """
    require_batch("data", data)
    low, high = data.min().item(), data.max().item()
    if not high > low:
        raise ValueError(f"data that are {low:g} everywhere have no smallest scale")
    smallest = 0.01 * (high - low)
    return DesignChoice(
        smallest,
        f"sigma_min = {smallest:.4g}: a hundredth of the range of the data, {low:.4g} to "
        f"{high:.4g}, which is NCSN's 0.01 for images in [0, 1].",
    )


def level_overlap(ratio: float, dim: int, radius: str = "normal") -> float:
    r"""Overlap of two neighboring noise levels: the share of one that lies within the other.

    With all data at one point the noise sigma has a radius of about sigma sqrt(D), for D large
    normally distributed with variance sigma^2 / 2. Of the level sigma the share

    .. math:: \Phi(\sqrt{2D} (g - 1) + 3 g) - \Phi(\sqrt{2D} (g - 1) - 3 g)

    lies within three standard deviations of the radii of the level g sigma.

    Args:
        ratio: g, of neighboring levels, at least 1.
        dim: D, entries of an example.
        radius: `"normal"` is the formula above, as published. In few dimensions a level lies inside
            the larger one whatever the ratio, and the radius is not normal; `"chi"` is for any D:
            the share of the larger level within the smaller one, by the exact distribution of the
            radius and its quantiles at three standard deviations. For images the two agree.

    Raises:
        ValueError: for arguments outside their range.
    """
    from scipy import stats

    require_count(dim=dim)
    require_positive(ratio=ratio)
    require_choice("radius", radius, RADIUS_DISTRIBUTIONS)
    if ratio < 1:
        raise ValueError(f"ratio={ratio} must be at least 1: the larger level over the smaller")
    if radius == "chi":
        ends = stats.chi.ppf(stats.norm.cdf([-_SPREAD, _SPREAD]), dim)
        low, high = stats.chi.cdf(ends / ratio, dim)
    else:
        shift = math.sqrt(2 * dim) * (ratio - 1)
        low, high = stats.norm.cdf([shift - _SPREAD * ratio, shift + _SPREAD * ratio])
    return float(high - low)


def scale_ratio(dim: int, overlap: float = 0.5, radius: str = "normal") -> DesignChoice[float]:
    """Technique 2: the ratio of neighboring levels at which they overlap by a given share.

    The chain then enters each level where the score of that level has been trained.

    Args:
        dim: D, entries of an example.
        overlap: share of a level within its neighbor, by `level_overlap`.
        radius: as for `level_overlap`. `"normal"` finds no ratio for D < 5, and too large a one in
            few dimensions.

    Raises:
        ValueError: for arguments outside their range, or if no ratio has that overlap.
    """
    from scipy.optimize import brentq

    most, least = level_overlap(1.0, dim, radius), level_overlap(_LARGEST_RATIO, dim, radius)
    if not 0 < overlap < most:
        raise ValueError(f"overlap={overlap} must lie between 0 and {most:.4f}")
    if overlap <= least:
        hint = "radius='chi', which is for few dimensions" if radius == "normal" else "a larger one"
        raise ValueError(
            f"overlap={overlap} is found at no ratio of levels up to {_LARGEST_RATIO:g} in "
            f"dim={dim}: try {hint}"
        )
    ratio = brentq(
        lambda g: level_overlap(g, dim, radius) - overlap, 1.0, _LARGEST_RATIO, xtol=1e-13
    )
    formula = (
        f"Phi(sqrt(2 D)(g - 1) + 3 g) - Phi(sqrt(2 D)(g - 1) - 3 g) = {overlap:g}"
        if radius == "normal"
        else f"P(a < g R < b) = {overlap:g}, R chi-distributed, a and b its three-sigma quantiles"
    )
    return DesignChoice(
        ratio,
        f"ratio = {ratio:.5g}: neighboring levels overlap by {overlap:g} in D = {dim} dimensions "
        f"(technique 2), the root g of {formula}.",
    )


def count_scales(sigma_max: float, sigma_min: float, ratio: float) -> DesignChoice[int]:
    """The fewest geometric levels from sigma_max to sigma_min whose ratio is at most `ratio`.

    Raises:
        ValueError: if the bounds are not positive and increasing, or the ratio is not above 1.
    """
    require_increasing(sigma_min=sigma_min, sigma_max=sigma_max)
    require_increasing(one=1.0, ratio=ratio)
    wanted = math.log(sigma_max / sigma_min) / math.log(ratio)
    count = max(2, 1 + math.ceil(wanted - 1e-9))  # an integer number of ratios may round up
    found = (sigma_max / sigma_min) ** (1 / (count - 1))
    return DesignChoice(
        count,
        f"levels = {count}: 1 + log({sigma_max:.4g} / {sigma_min:.4g}) / log({ratio:.5g}) = "
        f"{1 + wanted:.2f}, rounded up, with which the ratio becomes {found:.5g}.",
    )


def langevin_steps(
    scales: NoiseScales, tolerance: float = 0.05, data_std: Stds = 0.0
) -> DesignChoice[int]:
    """Technique 4: the fewest Langevin steps at each level that keep the variance right.

    Args:
        scales: the ladder.
        tolerance: on the relative error of the variance at the end, > 0.
        data_std: standard deviation of the data, or several; 0, the published rule, is data at a
            point.

    Raises:
        ValueError: for arguments outside their range, or if no number of steps meets it.
    """
    steps = choose_steps_each(scales.sigmas, data_std, tolerance)
    return DesignChoice(
        steps,
        f"steps_each = {steps}: the fewest Langevin steps at each level with which the variance "
        f"of the chain can end within {100 * tolerance:g} % of the truth on Gaussian data of "
        f"standard deviation {_spell(data_std)} (technique 4).",
    )


def variance_after_level(ratio: float, steps_each: int, step_ratio: float) -> float:
    r"""Technique 4: variance after Langevin steps at one level, from that of the level before.

    .. math:: (1 - r)^{2T} (g^2 - v) + v, \qquad v = \frac{2 r}{1 - (1 - r)^2}

    in units of the level's own variance, with all data at one point; it should be near 1.

    Args:
        ratio: g, of the level before to this one.
        steps_each: T, Langevin steps at the level.
        step_ratio: r, step size in units of the variance of the level.

    Raises:
        ValueError: for arguments outside their range.
    """
    return annealed_variance([1.0], 0.0, steps_each, step_ratio, start_std=ratio).item()


def langevin_size(
    scales: NoiseScales, steps_each: int, data_std: Stds = 0.0
) -> DesignChoice[float]:
    """Technique 4: the Langevin step size, as a ratio r to the variance of the noise.

    The published rule takes one level and makes `variance_after_level` nearly 1. Errors of levels
    add up, so r here is the one whose recursion over all levels ends nearest the truth, by
    `sde_score.samplers.choose_step_ratio`.

    Args:
        scales: the ladder.
        steps_each: Langevin steps at each level.
        data_std: as for `langevin_steps`.

    Raises:
        ValueError: for arguments outside their range.
    """
    size = choose_step_ratio(scales.sigmas, data_std, steps_each)
    left = variance_after_level(scales.ratio, steps_each, size)
    step_lr = size * scales.sigma_min**2
    return DesignChoice(
        size,
        f"step_ratio = {size:.4g}, NCSN's step_lr = {step_lr:.4g}: the step r sigma^2 for which "
        f"{steps_each} steps a level end nearest that truth; of a level {scales.ratio:.5g} times "
        "as large they leave (1 - r)^(2 T) (g^2 - v) + v, v = 2 r / (1 - (1 - r)^2), that is "
        f"{left:.4f} times the variance of the level.",
    )


def _spell(data_std: Stds) -> str:
    several = [data_std] if isinstance(data_std, (int, float)) else list(data_std)
    return " and ".join(f"{std:g}" for std in several)
