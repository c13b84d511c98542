"""What a likelihood is, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sde_score.models import Model
from sde_score.random import mix
from sde_score.scaling import Scaling


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a likelihood returns.

    Args:
        values: log-probability of discrete data, or log density of continuous data in their own
            units, or a lower bound on it: nats, shape `(batch,)`, float64.
        standard_error: of each value over its own draws, NaN where there is only one, 0 where
            nothing is drawn.
        nfe: evaluations of the model for the batch.
    """

    values: Tensor
    standard_error: Tensor
    nfe: int


class Likelihood(Protocol):
    """An immutable description of how log-likelihoods are computed."""

    def __call__(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Tensor | None = None,
        progress: bool = False,
    ) -> Estimate:
        """Log-likelihood of raw data.

        Args:
            model: anything with the model protocol.
            raw: data in their own terms, shape `(batch, *event)`.
            scaling: of the data set the model was trained on.
            seeds: one number per example; its value depends on no other.
            condition: passed to the model unchanged, shape `(batch, ...)`.
            progress: show a bar.
        """
        ...


def independent_draws(
    one: Callable[[list[int]], tuple[Tensor, Tensor]], count: int, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Values and standard errors of independent draws, each of shape `(count, batch)`."""
    found = [one([mix(number, draw) for number in seeds]) for draw in range(count)]
    values, errors = zip(*found, strict=True)
    return torch.stack(values), torch.stack(errors)


def standard_error(rows: Tensor) -> Tensor:
    """Standard error of the mean over independent rows `(n, batch)`; NaN for a single row."""
    if len(rows) == 1:
        return torch.full_like(rows[0], torch.nan)
    return rows.std(0) / math.sqrt(len(rows))
