"""One optimizer step: learning rate, clipping, optimizer, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from sde_score.training.ema import EMA
from sde_score.training.half_precision import LossScaler
from sde_score.training.optimizers import Adam, Optimizer, zero_missing
from sde_score.training.schedules import Constant, Schedule
from sde_score.training.snapshots import PowerAverages


def warmup_factor(step: int, warmup: int) -> float:
    """Factor on the learning rate of a step (counted from 0): `min(step / warmup, 1)`.

    The first step has rate 0; it already feeds Adam's moments, which start at 0 themselves.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, and the code published with it.
    """
    return min(step / warmup, 1.0) if warmup else 1.0


class Update:
    """Turns the gradients of a step into new weights and a new average of them.

    Args:
        parameters: by name, on the device where they are trained.
        learning_rate: after warm-up.
        warmup: see `warmup_factor`.
        clip: largest norm of all gradients together; 0 for no limit.
        ema: decay of the average, see `EMA`.
        weight_decay: of the optimizer.
        optimizer: None for `Adam()`.
        schedule: factor on the learning rate, besides warm-up; None for `Constant()`.
        averages: of the same weights, whose length is chosen later; None keeps none.
        scaler: of the loss, whose gradients come scaled; None for a loss as it is.
        clipped: clips gradients of which other processes hold others, and returns the norm of all;
            None for whole ones.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        learning_rate: float,
        warmup: int = 0,
        clip: float = 0.0,
        ema: float = 0.999,
        weight_decay: float = 0.0,
        optimizer: Optimizer | None = None,
        schedule: Schedule | None = None,
        averages: PowerAverages | None = None,
        scaler: LossScaler | None = None,
        clipped: Callable[[Sequence[nn.Parameter], float], Tensor] | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self.learning_rate, self.warmup, self.clip = learning_rate, warmup, clip
        self.schedule: Schedule = schedule or Constant()
        self.optimizer = (optimizer or Adam()).begin(self.parameters, weight_decay)
        self.averages, self.scaler = averages, scaler
        self._clipped = clipped or nn.utils.clip_grad_norm_
        self.ema = EMA(self.parameters.values(), ema)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.learning_rate * warmup_factor(step, self.warmup) * self.schedule(step)

    @property
    def scaling(self) -> tuple[float | None, int]:
        """Scale of the loss and steps since its last change; None and 0 where it is not scaled."""
        return (None, 0) if self.scaler is None else (self.scaler.scale, self.scaler.clean)

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass begins with."""
        return loss if self.scaler is None else loss * self.scaler.scale

    def apply(self, step: int) -> Tensor | None:
        """Update weights and average from the gradients, and clear these.

        Args:
            step: number of steps before this one.

        Returns:
            The norm of the gradients before clipping, a scalar on the device; None if they
            overflowed, so that the weights stay.
        """
        weights = list(self.parameters.values())
        zero_missing(weights)
        if self.scaler is not None:
            self.scaler.unscale(weights)
        norm = self._clipped(weights, self.clip or math.inf)
        taken = self.scaler is None or self.scaler.update(norm)
        if taken:
            self.optimizer.step(self.rate(step))
        for weight in weights:
            weight.grad = None
        self.ema.update(weights)
        if self.averages is not None:
            self.averages.update(step + 1)
        return norm if taken else None

    def state(self) -> dict[str, Tensor]:
        """What the optimizer remembers, and `averages`, as tensors named `<parameter>/<entry>`."""
        return {**self.optimizer.state(), **self._averages()}

    def expected_state(self) -> dict[str, Tensor]:
        """Tensors of the names, shapes and types that `state` has after a step, on no device."""
        averages = {name: value.to("meta") for name, value in self._averages().items()}
        return {**self.optimizer.expected_state(), **averages}

    def _averages(self) -> dict[str, Tensor]:
        return {} if self.averages is None else self.averages.state()

    def restore(
        self,
        step: int,
        state: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        scaling: tuple[float | None, int] = (None, 0),
    ) -> None:
        """Continue from saved tensors, `state()` and the averages, and `scaling`, after `step`
        steps."""
        if self.scaler is not None and scaling[0] is not None:
            self.scaler.scale, self.scaler.clean = scaling[0], scaling[1]
        self.optimizer.restore(state)
        if self.averages is not None:
            self.averages.restore(state)
        for shadow, name in zip(self.ema.shadow, self.parameters, strict=True):
            shadow.copy_(average[name])
        self.ema.updates = step
