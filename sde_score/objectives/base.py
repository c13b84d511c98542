"""The contract of an objective: a loss per example, nothing averaged away."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_batch
from sde_score.models import Marginal, Model
from sde_score.objectives.time_samplers import TIME_SAMPLERS, TimeSampler
from sde_score.objectives.weightings import WEIGHTINGS, Weighting
from sde_score.random import Draws, normal
from sde_score.sdes import SDE


class Objective(Protocol):
    """A way to learn a score from data."""

    @property
    def needs(self) -> str:
        """What the model must give: `"score"` or `"energy"`."""
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
        """What the model is at the minimum."""
        ...

    @property
    def reference(self) -> str:
        """The paper."""
        ...

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Tensor | None = None,
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


class StatefulObjective(nn.Module, ABC):
    """An objective that remembers: what it learns and keeps is in its parameters and buffers.

    The trainer optimizes its parameters along with the model's and stores both in checkpoints.
    """

    needs: ClassVar[str] = "energy"
    second_derivatives: ClassVar[bool] = False
    all_noise_levels: ClassVar[bool] = False
    divergence_limit: ClassVar[float] = math.inf
    cost: ClassVar[str]
    converges_to: ClassVar[str]
    reference: ClassVar[str]

    def setup(self, examples: Tensor) -> None:
        """Take from a sample of the data what must be known before the first step."""

    def finish_step(self) -> None:
        """Take over what the batches of a step have left, once per optimizer step."""

    def forward(
        self,
        model: Model,
        x0: Tensor,
        condition: Tensor | None = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example, shape `(batch,)`."""
        require_batch("x0", x0)
        return self.losses(model, x0, condition, generator)

    @abstractmethod
    def losses(
        self, model: Model, x0: Tensor, condition: Tensor | None, generator: Draws
    ) -> Tensor:
        """The objective proper."""


@dataclass(frozen=True)
class AtNoiseLevels:
    """Where an objective that knows nothing of noise looks: at the data, or at all noise levels.

    Without a time sampler the law that is learned is that of the data, with the model at
    `sde.t_min`. With one it is the law of x_t at random times, so that every objective of this
    kind trains a diffusion model.

    Args:
        time_sampler: None for the data as they are; a name from `TIME_SAMPLERS`, or an object.
        weighting: a name from `WEIGHTINGS`, or an object; it counts only with a time sampler and
            multiplies sigma(t)^2 times the loss, so that weightings mean what they mean in
            `DenoisingScoreMatching`.

    Raises:
        ValueError: for an unknown name or argument.
    """

    time_sampler: str | TimeSampler | None = None
    weighting: str | Weighting = "variance"

    def __post_init__(self) -> None:
        _ = self._times, self._weights

    @property
    def all_noise_levels(self) -> bool:
        """Whether there is a time sampler."""
        return self.time_sampler is not None

    @property
    def _times(self) -> TimeSampler | None:
        times = self.time_sampler
        return TIME_SAMPLERS.create(times) if isinstance(times, str) else times

    @property
    def _weights(self) -> Weighting:
        weights = self.weighting
        return WEIGHTINGS.create(weights) if isinstance(weights, str) else weights

    def points(self, sde: SDE, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """Where the loss is taken: x and t, and the factor on it, `(batch,)`."""
        if self._times is None:
            t = torch.full((x0.shape[0],), sde.t_min, dtype=torch.float64, device=x0.device)
            return x0, t, torch.ones_like(t).to(x0.dtype)
        t, importance = self._times(sde, x0.shape[0], generator, x0.device)
        x = sde.perturb(x0, t, normal(x0, generator))
        factor = importance * sde.sigma(t) ** 2 * self._weights(sde, t)
        return x, t, factor.to(x0.dtype)


@dataclass(frozen=True)
class MarginalObjective(AtNoiseLevels, ABC):
    """An objective on one law at a time: subclasses give the loss on a `Marginal`."""

    needs: ClassVar[str] = "score"
    second_derivatives: ClassVar[bool] = False
    divergence_limit: ClassVar[float] = math.inf
    cost: ClassVar[str]
    converges_to: ClassVar[str]
    reference: ClassVar[str]

    def __call__(
        self,
        model: Model,
        x0: Tensor,
        condition: Tensor | None = None,
        generator: Draws = None,
    ) -> Tensor:
        """Loss of each example in nats, summed over its entries, shape `(batch,)`."""
        require_batch("x0", x0)
        x, t, factor = self.points(model.sde, x0, generator)
        return factor * self.losses(Marginal(model, t, condition), x, generator)

    @abstractmethod
    def losses(self, marginal: Marginal, x: Tensor, generator: Draws) -> Tensor:
        """Loss of each example at x, a sample of the law that is to be learned, `(batch,)`."""
