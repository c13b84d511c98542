"""Training in two bytes a number: where bfloat16 is taken by itself, and the scaling of the loss by
which gradients that float16 would round to 0 are computed large, and divided again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from sde_score.objectives import BaseObjective, Objective
from sde_score.training.errors import TrainingError

LARGE = 10**6
"""Weights from which a network is trained in bfloat16 unless told otherwise."""

FIRST = 2.0**16
"""Scale of the first step, as torch's scaler begins."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions in which the network runs under autocast; weights stay float32."""


class LossScaler:
    """The factor on the loss before the backward pass: as large as float16 bears.

    A step whose gradients overflow is left out and the scale is halved; after a number of steps
    without overflow it is doubled. To know it, the host waits for the gradients once a step, which
    bf16 has no need of.

    Args:
        scale: of the first step, > 0; None for `FIRST`.
        clean: steps since the scale was last changed.
        interval: steps without overflow before the scale is doubled.

    Reference: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.2.
    """

    def __init__(self, scale: float | None = None, clean: int = 0, interval: int = 2000) -> None:
        self.scale = FIRST if scale is None else scale
        self.clean, self.interval = clean, interval

    def unscale(self, weights: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, which is a power of 2 and rounds nothing."""
        torch._foreach_div_([w.grad for w in weights if w.grad is not None], self.scale)

    def update(self, norm: Tensor) -> bool:
        """Whether the step may be taken, and the scale of the next.

        Args:
            norm: of all gradients, unscaled.

        Raises:
            TrainingError: if gradients overflow even where the loss is scaled down.
        """
        finite = bool(norm.isfinite())
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.clean == self.interval:
            self.scale, self.clean = self.scale * 2, 0
        if self.scale < 1:
            raise TrainingError(
                "the gradients overflow float16 at every scale of the loss: go on from the last "
                "checkpoint with --continue-with precision=bf16, or continue_with={'precision': "
                "'bf16'} in Python; float32 is given in the same way"
            )
        return finite


def require_half(objective: Objective, differentiates: bool) -> None:
    """Refuse float16 where the scale of the loss does not reach.

    Args:
        objective: of the run, for the message.
        differentiates: whether the loss holds derivatives in x, taken inside the network.

    Raises:
        ValueError: saying what to choose instead.
    """
    if differentiates:
        raise ValueError(
            "precision='fp16' scales up the gradients of the weights, but the loss "
            f"{type(objective).__name__} of this model holds derivatives in x besides, which "
            "float16 would round to 0: choose precision=bf16 or float32"
        )


def automatic(
    objective: Objective, model: nn.Module, device: str, differentiates: bool
) -> Literal["float32", "bf16"]:
    """The precision to train in where none was chosen: bf16 where it is faster and as good.

    Args:
        objective: of the run.
        model: what is trained.
        device: kind of device, or `"auto"`.
        differentiates: whether the loss holds derivatives in x.
    """
    suits = suits_bfloat16(objective, model, differentiates)
    return "bf16" if suits and multiplies_bfloat16(device) else "float32"


def suits_bfloat16(objective: Objective, model: nn.Module, differentiates: bool) -> bool:
    """Whether bf16 is as good, and faster on a processor or GPU that multiplies it itself.

    That is for convolutional networks of a million weights or more, trained at all noise levels
    without derivatives in x.

    Args:
        objective: of the run.
        model: what is trained.
        differentiates: whether the loss holds derivatives in x.
    """
    weights = sum(weight.numel() for weight in model.parameters())
    convolves = any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in model.modules())
    as_good = objective.all_noise_levels and not differentiates
    if not (as_good and convolves and weights >= LARGE):
        return False
    try:
        if isinstance(objective, BaseObjective):
            objective.require_precision(model, torch.finfo(torch.bfloat16).eps)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def multiplies_bfloat16(device: str) -> bool:
    """Whether a device has units for products of bfloat16: AMX on processors, GPUs from Ampere.

    Others emulate it, or gain too little to give up digits for it.

    Args:
        device: `"cpu"`, `"cuda"`, or `"auto"` for a GPU where there is one.
    """
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return amx is not None and bool(amx())


def autocast(device: str, precision: str) -> torch.autocast | None:
    """The context in which the network runs; None for float32.

    Args:
        device: kind of device.
        precision: `"float32"`, or one of `DTYPES`.

    Raises:
        ValueError: for a precision that this torch does not have on the device.
    """
    if precision not in DTYPES:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns and computes in float32, which we refuse
        made = torch.autocast(device, DTYPES[precision])
        with made:
            works = torch.is_autocast_enabled(device)
    if not works:
        raise ValueError(
            f"precision={precision!r} is not available on {device} in torch {torch.__version__}: "
            "choose precision=float32"
        )
    return made
