"""Backbones: networks called as `backbone(x, noise_level, condition=None)` that answer like x.

A backbone knows nothing of diffusions. It sees noisy data x, shape `(batch, *event)`, the noise
level of each example, and perhaps a condition; the meaning of its answer is a parametrization, see
`sde_score.models`.

The noise level is a quarter of log(sigma / alpha), shape `(batch,)`, within -4 .. 4 for any
diffusion in use. `register("mine", Mine)` adds a network of your own, of any class: its constructor
is given `event_shape`, `num_classes` and `condition_shape` if it takes them, and the options of the
spec.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from sde_score._core.conditions import ConditionShape, require_condition_shape, require_one_kind
from sde_score._core.registry import Registry, format_spec, parse_spec
from sde_score.nn.backbones import published
from sde_score.nn.backbones.base import Backbone, require_event_shape
from sde_score.nn.backbones.conditioned import (
    Concatenated,
    Encoded,
    channels_beside,
    told_inside,
)
from sde_score.nn.backbones.dit import DiT
from sde_score.nn.backbones.edm2 import EDM2
from sde_score.nn.backbones.general_unet import GeneralUNet
from sde_score.nn.backbones.hdit import HDiT
from sde_score.nn.backbones.kdiff_unet import KDiffUNet
from sde_score.nn.backbones.lucidrains import LucidrainsUNet
from sde_score.nn.backbones.masked import Masked
from sde_score.nn.backbones.mlp import MLP
from sde_score.nn.backbones.refinenet import RefineNet
from sde_score.nn.backbones.transformer import Transformer
from sde_score.nn.backbones.unet import UNet
from sde_score.nn.backbones.uvit import UViT
from sde_score.nn.blocks.embeddings import Embedding, EndEmbedding, NoiseEmbedding
from sde_score.nn.blocks.group_norm import set_second_derivatives
from sde_score.nn.network_summary import Summary, summary

__all__ = [
    "BACKBONES",
    "EDM2",
    "MLP",
    "Backbone",
    "Concatenated",
    "DiT",
    "Embedding",
    "Encoded",
    "Masked",
    "NoiseEmbedding",
    "Summary",
    "Transformer",
    "UNet",
    "UViT",
    "available",
    "create",
    "default_for",
    "register",
    "set_second_derivatives",
    "summary",
    "tell_end",
]

BACKBONES: Registry[nn.Module] = Registry(
    "backbone",
    {
        "mlp": MLP,
        "unet": UNet,
        "ncsnpp": published.ncsnpp,
        "ddpmpp": published.ddpmpp,
        "ddpm": published.ddpm,
        "adm": published.adm,
        "residual-unet": GeneralUNet,
        "refinenet": RefineNet,
        "dit": DiT,
        "lucidrains-unet": LucidrainsUNet,
        "uvit": UViT,
        "edm2": EDM2,
        "transformer": Transformer,
        "kdiff-unet": KDiffUNet,
        "hdit": HDiT,
    },
    base=nn.Module,
)

BACKBONES.find_in("sde_score.nn.backbones.masked", masked="masked")

_SIDES = {1: (16, 32), 2: (8, 8), 3: (4, 8)}
"""Of signals by their number of sides: the shortest side that a U-Net takes, and that it ends at
or below."""

available = BACKBONES.names
register = BACKBONES.register


def create(
    spec: str,
    event_shape: Sequence[int],
    num_classes: int = 0,
    condition_shape: ConditionShape = (),
) -> nn.Module:
    """Build the backbone that `spec` names, such as `mlp` or `unet(base=32, multipliers=(1, 2))`.

    Args:
        spec: a name from `available()`, with its options in brackets.
        event_shape: shape of one example.
        num_classes: number of classes; 0 for a network without labels.
        condition_shape: what else the network is told: the shape `(n,)` of a vector, that of an
            image with the sides of the example, or a dictionary of named conditions, as
            `{"label": 10, "size": (1,), "mask": (1, 28, 28)}`, with the number of classes for
            labels; empty for nothing.

    Vectors and labels join the embedding of the noise level; images are seen by any network,
    behind the channels of x, see `Concatenated`.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for an unknown name or option, a value out of range, or a condition for a
            network that takes none of its kind.
    """
    declared = require_condition_shape(condition_shape)
    require_one_kind(num_classes, declared)
    if channels := channels_beside(declared, event_shape):
        shape = require_event_shape(event_shape)
        network = create(
            spec, (shape[0] + channels, *shape[1:]), condition_shape=told_inside(declared)
        )
        return Concatenated(network, shape, declared)
    name, options = parse_spec(spec)
    of_the_data: dict[str, Any] = {"event_shape": event_shape, "num_classes": num_classes}
    of_the_data["condition_shape"] = declared
    if set(of_the_data) & set(options):
        raise ValueError(
            f"{spec!r} sets {', '.join(sorted(set(of_the_data) & set(options)))}, which the data "
            "decide: leave it out of the spec and give it as an argument"
        )
    parameters = inspect.signature(BACKBONES[name]).parameters
    if num_classes and "num_classes" not in parameters:
        raise ValueError(
            f"backbone {name!r} takes no num_classes, so that it cannot be told the class of an "
            "example: train without condition, or give its constructor the argument"
        )
    if declared and "condition_shape" not in parameters:
        raise ValueError(
            f"backbone {name!r} takes no condition_shape, so that it cannot be told a vector: take "
            "another, such as unet, train without condition, or give its constructor the argument"
        )
    taken = {key: value for key, value in of_the_data.items() if key in parameters}
    return BACKBONES.create(spec, **taken)


def tell_end(network: nn.Module) -> nn.Module:
    """Tell a network a second noise level, that at which a flow map ends, and return it.

    Its answers are the same as before until the few layers that this adds are trained.

    Args:
        network: one of ours, or one that embeds the noise level by `NoiseEmbedding` or a subclass
            of `Embedding`, changed in place.

    Raises:
        ValueError: for a network of another kind.
    """
    embeddings = [part for part in network.modules() if isinstance(part, Embedding)]
    if not embeddings:
        raise ValueError(
            f"{type(network).__name__} is not told the noise level, or in a way of its own, and "
            "cannot be told a second one here: take another, such as unet or dit, embed it by "
            "sde_score.nn.Embedding, or read condition['end_noise_level'] in its forward"
        )
    for part in embeddings:
        if part.end is None:
            part.end = EndEmbedding(part.width).to(next(network.parameters()))
    return network


def default_for(event_shape: Sequence[int]) -> str:
    """A spec that suits examples of this shape: a U-Net of their rank, else the MLP.

    The U-Net takes series `(channels, length)` from 16 steps, images from 8 x 8 and volumes from
    4 x 4 x 4. It halves them until the shortest side is 8 or less, 32 for series, at least once.
    Volumes and gray images of up to 32 x 32 get a narrow one.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: if an entry is below 1.
    """
    shape = require_event_shape(event_shape)
    smallest, coarsest = _SIDES.get(len(shape) - 1, (0, 0))
    side = min(shape[1:], default=0)
    if not smallest or side < smallest:
        return "mlp"
    halvings = max(1, math.ceil(math.log2(side / coarsest)))
    narrow = len(shape) == 4 or (len(shape) == 3 and shape[0] == 1 and side <= 32)
    base = 32 if narrow else 64
    return format_spec("unet", {"base": base, "multipliers": (1, *[2] * halvings)})
