"""The contract of a likelihood: log-probability of raw data under a model, with its error.

With it stand what likelihoods share: independent draws, standard errors, checks of arguments.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import shown
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score._core.gradients import require_gradients
from sde_score._core.registry import Registry
from sde_score.models import Model, as_condition, require_model
from sde_score.random import mix
from sde_score.scaling import Scaling
from sde_score.sdes import SDE


@dataclass(frozen=True, eq=False)
class Estimate:
    """Log-likelihoods of a batch.

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


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and the raw data whose likelihood is asked for.

    Args:
        model: anything with the model protocol.
        raw: data in their own units, shape `(batch, *event)`.
        scaling: of the data set that the model was trained on.
        seeds: one number per example; its value depends on no other.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        grad: keep the graph to continuous raw data, the condition and the model's parameters.
        progress: show a bar.
    """

    model: Model
    raw: Tensor
    scaling: Scaling
    seeds: list[int]
    condition: Condition = None
    grad: bool = False
    progress: bool = False


class Likelihood(ABC):
    """An immutable description of how log-likelihoods are computed; subclasses give `estimate`."""

    def __call__(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Condition = None,
        grad: bool = False,
        progress: bool = False,
    ) -> Estimate:
        """Log-likelihoods of raw data; the arguments are those of `Problem`.

        Raises:
            TypeError: for a model without the protocol, or another scaling than a `Scaling`.
            ValueError: for raw data that `Scaling.require_raw` refuses, and for a gradient that is
                required and not asked for, or the reverse.
        """
        require_model(model)
        raw = checked_raw(raw, scaling)
        condition = as_condition(condition, len(raw), raw.device, model)
        require_gradients(grad, raw=raw, condition=condition)
        problem = Problem(model, raw, scaling, list(seeds), condition, grad, progress)
        evaluations = model.nfe
        values, error = self.estimate(problem)
        return Estimate(values, error.detach(), model.nfe - evaluations)

    @abstractmethod
    def estimate(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Values and standard errors of an `Estimate`, each of shape `(batch,)`, float64."""


LIKELIHOODS: Registry[Likelihood] = Registry("likelihood", base=Likelihood)
"""All likelihoods by name; `sde_score.likelihood` fills it."""


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


def checked_raw(raw: Tensor, scaling: Scaling) -> Tensor:
    """Raw data as a tensor, where they are data of the scaling; see `Scaling.require_raw`.

    Raises:
        TypeError: for another scaling than a `Scaling`, or raw data that are no numbers.
        ValueError: for raw data that are empty, not finite, or no levels of the scaling.
    """
    if not isinstance(scaling, Scaling):
        raise ArgumentError(
            f"scaling={shown(scaling)} must be the `Scaling` of the data that the model was "
            "trained on, such as Scaling.discrete(256) for 8-bit images over [-1, 1]"
        )
    return scaling.require_raw(raw)


def start_time(sde: SDE, start: float | None) -> float:
    """The time at which data enter: `t_min` if not given.

    Raises:
        ValueError: if it lies outside [t_min, t_max).
    """
    if start is None:
        return sde.t_min
    if not sde.t_min <= start < sde.t_max:
        raise ValueError(
            f"start={start!r} must be a time in [{sde.t_min:g}, {sde.t_max:g}), from t_min of "
            f"{sde} up to t_max"
        )
    return float(start)
