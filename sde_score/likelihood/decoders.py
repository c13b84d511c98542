r"""What a variational bound leaves at its start: the step from the least noisy state back to data.

A bound starts at a time t_0 > 0. A decoder p(x_0 | x_{t_0}) closes the gap and makes the bound one
on the data; without a decoder, the bound is one on the slightly noisy state itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sde_score._core.checks import require_positive
from sde_score.distributions import Normal, Quantization
from sde_score.models import Model


class DataTerm(Protocol):
    """The last term of a bound."""

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Tensor | None
    ) -> Tensor:
        """The term in nats for data x0 and their state x at time t, shape `(batch,)`."""
        ...


@dataclass(frozen=True)
class GaussianDecoder:
    r"""-log N(x_0; E[x_0 | x], std^2): data have a density, and the bound is one on it.

    Args:
        std: > 0; sigma / alpha of the state if not given, which is the spread that the posterior of
            data with a smooth density tends to.

    Raises:
        ValueError: if `std` is not positive.
    """

    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is not None:
            require_positive(std=self.std)

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Tensor | None
    ) -> Tensor:
        """The term in nats, shape `(batch,)`; one evaluation of the model."""
        return -_decoded(model, x, t, condition, self.std).log_prob(x0)


@dataclass(frozen=True)
class LevelDecoder:
    r"""-log P(level | x): the same normal law cut into bins; the bound is one on a probability.

    Args:
        levels: their number, if they fill [-1, 1] as those of
            `Scaling.discrete`, or a `Quantization`.
        std: as for `GaussianDecoder`.

    Raises:
        ValueError: for fewer than 2 levels, or `std` not positive; when called, if x0 holds what is
            not the center of a level.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, eq. 13.
    """

    levels: int | Quantization
    std: float | None = None

    def __post_init__(self) -> None:
        Quantization.resolve(self.levels)
        if self.std is not None:
            require_positive(std=self.std)

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Tensor | None
    ) -> Tensor:
        """The term in nats for centers of levels x0, shape `(batch,)`; one evaluation."""
        levels = Quantization.resolve(self.levels)
        level = levels.levels(x0)
        return -levels.discretize(_decoded(model, x, t, condition, self.std)).log_prob(level)


@dataclass(frozen=True)
class KernelEntropy:
    r"""Entropy of x_t given x_0, D/2 log(2 pi e sigma^2): no decoder.

    The bound is then ScoreFlow's, on -log p(x_t) averaged over the noise of x_t.
    """

    def __call__(
        self, model: Model, x0: Tensor, x: Tensor, t: float, condition: Tensor | None
    ) -> Tensor:
        """The term in nats, shape `(batch,)`; no evaluation of the model."""
        return Normal(x0, model.sde.sigma(torch.tensor(t, dtype=torch.float64))).entropy()


def _decoded(
    model: Model, x: Tensor, t: float, condition: Tensor | None, std: float | None
) -> Normal:
    spread = math.exp(-0.5 * float(model.sde.log_snr(t))) if std is None else std
    return Normal(model.denoise(x, t, condition), torch.tensor(spread, dtype=torch.float64))
