"""The contract of an objective: a loss for each example, not averaged over the batch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import is_integer, shown
from sde_score._core.conditions import Condition
from sde_score._core.errors import ArgumentError
from sde_score._core.registry import Registry
from sde_score.models import (
    Marginal,
    Model,
    as_batch,
    as_condition,
    require_model,
    require_units,
)
from sde_score.objectives.time_samplers import TIME_SAMPLERS, TimeSampler
from sde_score.objectives.weightings import WEIGHTINGS, Weighting
from sde_score.random import BatchSlice, Draws, normal
from sde_score.sdes import SDE


@runtime_checkable
class Objective(Protocol):
    """A way to learn a score from data."""

    @property
    def needs(self) -> str:
        """What the objective evaluates of the model: `"score"` or `"energy"`."""
        ...

    @property
    def second_derivatives(self) -> bool:
        """Whether the loss differentiates the score with respect to x."""
        ...

    @property
    def all_noise_levels(self) -> bool:
        """Whether the model is trained at every t, or on data without noise at `t_min` alone."""
        ...

    @property
    def divergence_limit(self) -> float:
        """Mean loss per entry, in absolute value, beyond which training has run away."""
        ...

    @property
    def cost(self) -> str:
        """Passes per example: forward F, backward B, backward through a backward D."""
        ...

    @property
    def converges_to(self) -> str:
        """The model at the minimum."""
        ...

    @property
    def reference(self) -> str:
        """The paper."""
        ...

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Condition = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example.

        Args:
            model: what is trained.
            x0: data of shape `(batch, *event)`; left as it is.
            condition: passed on to the model.
            generator: source of all randomness; None uses torch's global one.

        Returns:
            losses of shape `(batch,)`, differentiable in the model's parameters.
        """
        ...


OBJECTIVES: Registry[Objective] = Registry("objective", base=Objective)


class BaseObjective(ABC):
    """The contract with its defaults; an objective of your own gives `losses_of`."""

    needs: ClassVar[str] = "score"
    second_derivatives: ClassVar[bool] = False
    divergence_limit: ClassVar[float] = math.inf
    takes_pairs: ClassVar[bool] = False  # whether the noise may come with the examples
    converges_to: ClassVar[str] = "not stated"
    reference: ClassVar[str] = "none"

    @property
    def all_noise_levels(self) -> bool:
        """Whether the model is trained at every t."""
        return True

    @property
    def cost(self) -> str:
        """Passes per example."""
        return "not stated"

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Condition = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example, shape `(batch,)`; see `Objective`."""
        require_model(model, whole=False)
        x0 = as_batch("x0", x0)
        require_units("x0", x0, model)
        _require_draws(generator)
        condition = as_condition(condition, len(x0), x0.device)
        return self.losses_of(model, x0, condition, generator)

    def at_step(self, step: int) -> BaseObjective:
        """The objective at a step of a training, for those that change on the way; itself for most.

        Args:
            step: counted from 0.
        """
        return self

    def require_precision(self, model: Model, rounding: float) -> None:  # noqa: B027
        """Refuse a precision in which the gradients of this objective are wrong.

        Args:
            model: what is trained.
            rounding: relative rounding error of what it computes, 4e-3 or more in bfloat16.

        Raises:
            ValueError: with the precision and a way out; no objective but finite differences does.
        """

    @abstractmethod
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        """Loss of each example of a batch that has been checked, shape `(batch,)`."""


def _require_draws(generator: Draws) -> None:
    if generator is not None and not isinstance(generator, (torch.Generator, BatchSlice)):
        fix = f": try torch.Generator().manual_seed({generator})" if is_integer(generator) else ""
        raise ArgumentError(f"generator={shown(generator)} must be a torch.Generator or None{fix}")


class StatefulObjective(nn.Module, BaseObjective):
    """An objective with a state: all that it learns and keeps is in its parameters and buffers.

    The trainer optimizes its parameters along with the model's and stores both in checkpoints.
    """

    needs: ClassVar[str] = "energy"

    @property
    @override
    def all_noise_levels(self) -> bool:
        """Whether the model is trained at every t; by default on the data, at `t_min`."""
        return False

    def setup(self, examples: Tensor) -> None:
        """Take from a sample of the data what must be known before the first step."""

    def finish_step(self) -> None:
        """Take over what the batches of a step have left, once per optimizer step."""

    def forward(
        self,
        model: Model,
        x0: Tensor,
        condition: Condition = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example, shape `(batch,)`."""
        return BaseObjective.__call__(self, model, x0, condition, generator)


class NoiseLevels:
    """Times at which noisy data are seen, and the weight of each.

    Args:
        time_sampler: a name in `TIME_SAMPLERS`, or an object.
        weighting: a name in `WEIGHTINGS`, or an object.

    Raises:
        ValueError: for an unknown name or argument.
        TypeError: for an object of another kind.
    """

    def __init__(self, time_sampler: str | TimeSampler, weighting: str | Weighting) -> None:
        self.times = TIME_SAMPLERS.resolve(time_sampler, name="time_sampler")
        self.weights = WEIGHTINGS.resolve(weighting, name="weighting")

    def draw(self, sde: SDE, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor]:
        """Times, and the factor on a score error at each: importance x sigma^2 x weight, both
        float64 `(batch,)`."""
        t, importance = self.times(sde, x0.shape[0], generator, x0.device)
        return t, importance * sde.sigma(t) ** 2 * self.weights(sde, t)


@dataclass(frozen=True)
class MarginalObjective(BaseObjective):
    """An objective on one distribution at a time: subclasses give `losses` on a `Marginal`.

    Without a time sampler the distribution that is learned is that of the data, with the model at
    `sde.t_min`. With one it is that of x_t at random times, so that every objective of this kind
    trains a diffusion model.

    Args:
        time_sampler: None for the data as they are; a name in `TIME_SAMPLERS`, or an object.
        weighting: a name in `WEIGHTINGS`, or an object; it counts only with a time sampler and
            multiplies sigma(t)^2 times the loss, so that weightings mean what they mean in
            `DenoisingScoreMatching`.

    Raises:
        ValueError: for an unknown name or argument.
    """

    time_sampler: str | TimeSampler | None = None
    weighting: str | Weighting = "variance"

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self._noise_levels

    @cached_property
    def _noise_levels(self) -> NoiseLevels | None:
        weighting, times = WEIGHTINGS.resolve(self.weighting, name="weighting"), self.time_sampler
        return None if times is None else NoiseLevels(times, weighting)

    @property
    @override
    def all_noise_levels(self) -> bool:
        """Whether there is a time sampler."""
        return self.time_sampler is not None

    def points(self, sde: SDE, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Where the loss is taken: x and t, and the factor on it, `(batch,)`."""
        if self._noise_levels is None:
            t = torch.full((x0.shape[0],), sde.t_min, dtype=torch.float64, device=x0.device)
            return x0, t, torch.ones_like(t).to(x0.dtype)
        t, factor = self._noise_levels.draw(sde, x0, generator)
        return sde.perturb(x0, t, normal(x0, generator)), t, factor.to(x0.dtype)

    @override
    def losses_of(self, model: Model, x0: Tensor, condition: Condition, generator: Draws) -> Tensor:
        x, t, factor = self.points(model.sde, x0, generator)
        return factor * self.losses(Marginal(model, t, condition), x, generator)

    @abstractmethod
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        """Loss of each example at x, a sample of the distribution that is to be learned, in nats,
        summed over its entries, `(batch,)`."""
