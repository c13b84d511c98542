"""Backbones: networks called as `backbone(x, noise_level, condition=None)` that answer like x.

A backbone knows nothing of diffusions. It sees noisy data x, shape `(batch, *event)`, how noisy
each example is, and perhaps a label; what its answer means is the business of `sde_score.models`.

The noise level is a quarter of log(sigma / alpha), shape `(batch,)`, within -4 .. 4 for any
diffusion in use. A new backbone is one file and one line in `BACKBONES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from sde_score._core.registry import Registry, format_spec, parse_spec
from sde_score.nn._inputs import require_event_shape
from sde_score.nn.backbones.mlp import MLP
from sde_score.nn.backbones.unet import UNet
from sde_score.nn.blocks.embeddings import NoiseEmbedding

__all__ = ["BACKBONES", "MLP", "NoiseEmbedding", "UNet", "available", "create", "default_for"]

BACKBONES: Registry[nn.Module] = Registry("backbone", {"mlp": MLP, "unet": UNet})


def create(spec: str, event_shape: Sequence[int], num_classes: int = 0) -> nn.Module:
    """Build the backbone that `spec` names, such as `mlp` or `unet(base=32, multipliers=(1, 2))`.

    Args:
        spec: a name from `available()`, with its options in brackets.
        event_shape: shape of one example.
        num_classes: number of classes; 0 for a network without condition.

    Raises:
        TypeError: if `event_shape` is not a tuple of whole numbers.
        ValueError: for an unknown name or option, or a value out of range.
    """
    of_the_data = {"event_shape", "num_classes"} & set(parse_spec(spec)[1])
    if of_the_data:
        raise ValueError(
            f"{spec!r} sets {', '.join(sorted(of_the_data))}, which the data decide: leave it out "
            "of the spec and give it as an argument"
        )
    return BACKBONES.create(spec, event_shape=event_shape, num_classes=num_classes)


def available() -> list[str]:
    """Names that `create` knows."""
    return BACKBONES.names()


def default_for(event_shape: Sequence[int]) -> str:
    """A spec that suits examples of this shape: a U-Net for images from 8 x 8, else the MLP.

    The U-Net halves the image until its shorter side is 8 or less, at least once; gray images of up
    to 32 x 32 get a narrow one.

    Raises:
        TypeError: if `event_shape` is not a tuple of whole numbers.
        ValueError: if an entry is below 1.
    """
    shape = require_event_shape(event_shape)
    if len(shape) != 3 or min(shape[1:]) < 8:
        return "mlp"
    side = min(shape[1:])
    halvings = max(1, math.ceil(math.log2(side / 8)))
    base = 32 if shape[0] == 1 and side <= 32 else 64
    return format_spec("unet", {"base": base, "multipliers": (1, *[2] * halvings)})
