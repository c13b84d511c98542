"""One optimizer step: warm-up, clipping, Adam, and the average of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sde_score.training.ema import EMA


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
        weight_decay: decoupled, as in AdamW.

    Reference: Kingma & Ba 2015, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter 2019,
    https://arxiv.org/abs/1711.05101.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        learning_rate: float,
        warmup: int = 0,
        clip: float = 0.0,
        ema: float = 0.999,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = dict(parameters)
        self.learning_rate, self.warmup, self.clip = learning_rate, warmup, clip
        weights = list(self.parameters.values())
        fused = all(weight.device.type in ("cpu", "cuda") for weight in weights)
        self.optimizer = torch.optim.AdamW(
            weights, lr=learning_rate, weight_decay=weight_decay, fused=fused
        )
        self.ema = EMA(weights, ema)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        return self.learning_rate * warmup_factor(step, self.warmup)

    def apply(self, step: int) -> Tensor:
        """Update weights and average from the gradients, and clear these.

        Args:
            step: number of steps before this one.

        Returns:
            The norm of the gradients before clipping, a scalar on the device.
        """
        weights = self.parameters.values()
        for weight in weights:
            if weight.grad is None:  # a constant of an energy, which no score depends on
                weight.grad = torch.zeros_like(weight)
        norm = nn.utils.clip_grad_norm_(weights, self.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.optimizer.step()
        for weight in weights:
            weight.grad = None
        self.ema.update(weights)
        return norm

    def state(self) -> dict[str, Tensor]:
        """Moments and counts of Adam, as tensors named `<parameter>/<entry>`."""
        return {
            f"{name}/{entry}": value
            for name, weight in self.parameters.items()
            for entry, value in self.optimizer.state[weight].items()
        }

    def expected_state(self) -> dict[str, Tensor]:
        """Tensors of the names, shapes and types that `state` has after a step, on no device."""
        return {
            f"{name}/{entry}": torch.empty(shape, dtype=dtype, device="meta")
            for name, weight in self.parameters.items()
            for entry, shape, dtype in (
                ("step", (), torch.float32),
                ("exp_avg", weight.shape, weight.dtype),
                ("exp_avg_sq", weight.shape, weight.dtype),
            )
        }

    def restore(
        self, step: int, state: Mapping[str, Tensor], average: Mapping[str, Tensor]
    ) -> None:
        """Continue from saved tensors: `state()` and the averages, after `step` steps."""
        for name, weight in self.parameters.items():
            moments = ("exp_avg", "exp_avg_sq")
            # In the memory layout of the weight, as if Adam had made them.
            entries = {m: torch.empty_like(weight).copy_(state[f"{name}/{m}"]) for m in moments}
            fused = self.optimizer.defaults["fused"]
            count = state[f"{name}/step"].clone().to(weight.device if fused else "cpu")
            self.optimizer.state[weight] = {"step": count, **entries}
        for shadow, name in zip(self.ema.shadow, self.parameters, strict=True):
            shadow.copy_(average[name])
        self.ema.updates = step
