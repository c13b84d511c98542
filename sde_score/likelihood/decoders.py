r"""Data terms of a variational bound: the step from the least noisy state back to the data.

A bound starts at a time t_0 > 0. A decoder p(x_0 | x_{t_0}) closes the gap and makes the bound one
on the data; without a decoder, the bound is one on the slightly noisy state itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sde_score._core.checks import require_positive
from sde_score._core.conditions import Condition
from sde_score.distributions import Normal, Quantization
from sde_score.likelihood.base import Problem
from sde_score.likelihood.dequantization import (
    DEQUANTIZATIONS,
    Dequantization,
    NoDequantization,
)
from sde_score.models import Model
from sde_score.sdes import SDE


class DataTerm(Protocol):
    """The term of a bound at its start."""

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Condition
    ) -> Tensor:
        """The term in nats for data x0 and their state x at time t, shape `(batch,)`."""
        ...


@dataclass(frozen=True)
class GaussianDecoder:
    r"""-log N(x_0; E[x_0 | x], std^2), for a bound on the density of continuous data.

    Args:
        std: > 0; None for sigma / alpha of the state, the limit of the posterior's spread for data
            with a smooth density.

    Raises:
        ValueError: if `std` is not positive.
    """

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None:
            require_positive(std=self.std)

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Condition
    ) -> Tensor:
        """The term in nats, shape `(batch,)`; one evaluation of the model."""
        return -_decoded(model, x, t, condition, self.std).log_prob(x0)


@dataclass(frozen=True)
class LevelDecoder:
    r"""-log P(level | x), that normal distribution discretized, for a bound on a probability.

    Args:
        levels: their number, if they fill [-1, 1] as those of
            `Scaling.discrete`, or a `Quantization`.
        std: as for `GaussianDecoder`.

    Raises:
        ValueError: for fewer than 2 levels, or `std` not positive; when called, if an entry of x0
            is not the center of a level.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 13.
    """

    levels: int | Quantization
    std: float | None = None

    def __post_init__(self) -> None:
        Quantization.resolve(self.levels)
        if self.std is not None:
            require_positive(std=self.std)

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Condition
    ) -> Tensor:
        """The term in nats for centers of levels x0, shape `(batch,)`; one evaluation."""
        quantization = Quantization.resolve(self.levels)
        decoded = quantization.discretize(_decoded(model, x, t, condition, self.std))
        return -decoded.log_prob(quantization.levels(x0))


@dataclass(frozen=True)
class KernelEntropy:
    r"""Entropy of x_t given x_0, D/2 log(2 pi e sigma^2): no decoder.

    The bound is then ScoreFlow's, on -log p(x_t) averaged over the noise of x_t.
    """

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Condition
    ) -> Tensor:
        """The term in nats, shape `(batch,)`; no evaluation of the model."""
        return Normal(x0, model.sde.sigma(torch.tensor(t, dtype=torch.float64))).entropy()


def _decoded(model: Model, x: Tensor, t: float, condition: Condition, std: float | None) -> Normal:
    spread = math.exp(-0.5 * float(model.sde.log_snr(t))) if std is None else std
    return Normal(model.denoise(x, t, condition), torch.tensor(spread, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class BoundedPoints:
    """Points in model space whose log-probability or log density is bounded.

    Args:
        x: centers of levels, or points with a density, shape `(batch, *event)`.
        log_q: log density of the points given the raw data, 0 for centers, shape `(batch,)`.
        quantization: of the levels that are decoded; None for a density.
    """

    x: Tensor
    log_q: Tensor
    quantization: Quantization | None


def bounded_points(
    dequantization: str | Dequantization, problem: Problem, seeds: Sequence[int]
) -> BoundedPoints:
    """Points for raw data: centers of discrete data that are not dequantized, else a draw.

    Raises:
        ValueError: if the draw does not live at `t_min`.
    """
    raw, scaling, chosen = problem.raw, problem.scaling, DEQUANTIZATIONS.resolve(dequantization)
    if scaling.levels is not None and isinstance(chosen, NoDequantization):
        zero = raw.new_zeros(len(raw), dtype=torch.float64)
        return BoundedPoints(scaling.to_model(raw), zero, scaling.quantization)
    points = chosen(raw, scaling, problem.model.sde, seeds)
    if points.start is not None:
        raise ValueError(
            f"dequantization={dequantization!r} puts data at t={points.start:.3g}, the bound is "
            "for data at t_min: use 'none' or 'uniform'"
        )
    return BoundedPoints(points.x, points.log_q, None)


def decoding_time(sde: SDE, quantization: Quantization | None) -> float:
    """`t_min`, or for levels the time at which sigma / alpha is a third of half a bin, if later."""
    if quantization is None:
        return sde.t_min
    low, high = quantization.bounds
    half_bin = 0.5 * (high - low) / (quantization.count - 1)
    return float(sde.time_of_noise_ratio(half_bin / 3))
