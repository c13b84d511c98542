"""EDM2: pickles of its networks, states of them, and files of its trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import is_number
from sde_score._core.registry import format_spec
from sde_score.interop.edm import SIGMA_DATA, network_of
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, fitted, rows, sketch
from sde_score.nn.backbones.edm2 import EDM2
from sde_score.scaling import Scaling
from sde_score.sdes import EDM
from sde_score.training.errors import CheckpointError

PLACES = ("img_resolution", "img_channels", "label_dim", "use_fp16")
PUBLISHED: dict[str, Any] = {
    "sigma_data": SIGMA_DATA,
    "channels_per_head": 64,
    "dropout": 0.0,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
}
"""What the weights do not say, as all published networks have it; dropout acts in training."""

_OURS = {
    "channels_per_head": "head_channels",
    "label_balance": "label_balance",
    "concat_balance": "concat_balance",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "clip",
    "dropout": "dropout",
}
_READ_OFF = {
    *PLACES,
    "model_channels",
    "channel_mult",
    "channel_mult_noise",
    "channel_mult_emb",
    "num_blocks",
    "attn_resolutions",
    "logvar_channels",
}
_PIXELS = "the data range [-1, 1] is taken as published"
_LATENTS = (
    "the data are taken as they are (scaling is the identity): networks of four channels see "
    "latents of Stable Diffusion's autoencoder, each channel shifted and scaled to deviation 0.5"
)


def read(
    contents: Contents,
    weights: str = "ema",
    channels_per_head: int | None = None,
    sigma_data: float | None = None,
    label_balance: float | None = None,
    concat_balance: float | None = None,
    res_balance: float | None = None,
    attn_balance: float | None = None,
) -> Imported:
    """A network of EDM2.

    Weights alone do not say the arguments from `channels_per_head` on, which are then those of all
    published networks unless they are given; pickles say them.

    Args:
        contents: of a pickle, of a bare state, or of a file of the trainer.
        weights: name of the entry of a pickle; of a trainer's file, `"raw"`, `"ema"` for the first
            of its averages, or the sigma_rel of one, such as `"0.1"`.
        channels_per_head: channels of a head of attention.
        sigma_data: standard deviation of the data.
        label_balance: share of the class in its sum with the time label.
        concat_balance: share of what comes from the way down in a concatenation.
        res_balance: share of a block in its sum with its input.
        attn_balance: share of attention in its sum with its input.

    Raises:
        ValueError: for weights that the file does not have.
        CheckpointError: for a class that is not known, or weights that do not fit.
    """
    asked = {
        "channels_per_head": channels_per_head,
        "sigma_data": sigma_data,
        "label_balance": label_balance,
        "concat_balance": concat_balance,
        "res_balance": res_balance,
        "attn_balance": attn_balance,
    }
    state, said = _found(contents, weights)
    given = {**PUBLISHED, **said}
    given.update({key: value for key, value in asked.items() if value is not None})
    _require_numbers(given)
    notes = []
    taken_over = [key for key in PUBLISHED if key not in said and asked.get(key) is None]
    if taken_over and not said:
        values = ", ".join(f"{key}={PUBLISHED[key]}" for key in taken_over)
        notes.append(f"taken as published, because weights do not say it: {values}")
    taken = Taken(state)
    spec, shape, classes = _spec(taken, given)
    net = sketch(spec, shape, classes)
    if not isinstance(net, EDM2):
        raise TypeError(f"{spec} builds {type(net).__name__}, not EDM2")
    heads = max(1, int(given["channels_per_head"]))
    ours = {key: _computed(value) for key, value in _renamed(net, taken, heads).items()}
    taken.refuse_left()
    pixels = shape[0] != 4
    return Imported(
        "edm2",
        spec,
        shape,
        EDM(),
        "edm",
        fitted(net, ours),
        float(given["sigma_data"]),
        images() if pixels else Scaling(),
        num_classes=classes,
        needs_condition=classes > 0,
        notes=(*notes, _PIXELS if pixels else _LATENTS),
    )


def _require_numbers(given: Mapping[str, Any]) -> None:
    for key in PUBLISHED:
        if not is_number(given[key]) or not 0 <= given[key] < math.inf:
            raise CheckpointError(f"the network was constructed with {key}={given[key]!r}")


def _found(contents: Contents, weights: str) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """A state of the network, and what it was constructed with if the file says it."""
    if contents.tensors:
        return contents.tensors, {}
    network = network_of(contents.content, weights)
    if network is not None:
        said = {"label_dim": 0, **network.arguments(PLACES)}
        foreign = sorted(set(said) - set(PUBLISHED) - _READ_OFF)
        if foreign:
            raise CheckpointError(
                f"the network was constructed with {foreign}, which is not known here"
            )
        return network.tensors(), said
    content = contents.content
    if weights == "raw":
        found: Mapping[str, Tensor] = content["net"]
        return found, {}
    averages = content.get("ema")
    if not isinstance(averages, Mapping) or "stds" not in averages:
        raise ValueError(
            f"weights={weights!r} is no network of the file, which holds {list(content)}"
        )
    names = [f"{std:g}" for std in averages["stds"] if is_number(std)]
    if weights != "ema" and weights not in names:
        raise ValueError(f"weights={weights!r} must be one of raw, ema, {', '.join(names)}")
    place = 0 if weights == "ema" else names.index(weights)
    if not isinstance(averages.get("emas"), (list, tuple)) or place >= len(averages["emas"]):
        raise CheckpointError("the file names more averages under 'stds' than it holds in 'emas'")
    kept: Mapping[str, Tensor] = averages["emas"][place]
    return kept, {}


def _spec(taken: Taken, given: Mapping[str, Any]) -> tuple[str, tuple[int, int, int], int]:
    """Spec of the network, shape of the images and number of classes, read off the names."""
    sides = sorted(
        {
            int(key.split(".")[2].split("x")[0])
            for key in taken.state
            if key.startswith("unet.enc.") and key.split(".")[2].split("x")[0].isdigit()
        },
        reverse=True,
    )
    if not sides:
        raise CheckpointError("the checkpoint has no 'unet.enc.' blocks, as a network of EDM2 has")
    widths = tuple(
        taken.sizes(f"unet.enc.{side}x{side}_block0.conv_res1.weight", 4)[0] for side in sides
    )
    prefix = f"unet.enc.{sides[0]}x{sides[0]}_block"
    blocks = {
        key.removeprefix(prefix).split(".")[0] for key in taken.state if key.startswith(prefix)
    }
    attention = tuple(
        side for side in sides if f"unet.enc.{side}x{side}_block0.attn_qkv.weight" in taken
    )
    channels = taken.sizes("unet.out_conv.weight", 4)[0]
    label = "unet.emb_label.weight"
    options: dict[str, object] = {
        "widths": widths,
        "blocks": len(blocks),
        "attention": attention,
        "noise_features": taken.sizes("unet.emb_fourier.freqs", 1)[0],
        "embedding_width": taken.sizes("unet.emb_noise.weight", 2)[0],
        "variance_features": taken.sizes("logvar_fourier.freqs", 1)[0],
    }
    options |= {ours: given[theirs] for theirs, ours in _OURS.items()}
    options["clip"] = float(given["clip_act"])
    classes = taken.sizes(label, 2)[1] if label in taken else 0
    return format_spec("edm2", options), (channels, sides[0], sides[0]), classes


_BLOCK = {
    "gain": "emb_gain",
    "conv1.weight": "conv_res0.weight",
    "conv2.weight": "conv_res1.weight",
    "condition.weight": "emb_linear.weight",
    "skip.weight": "conv_skip.weight",
    "out.weight": "attn_proj.weight",
}
_FIXED = {
    "embedding.features.frequencies": "unet.emb_fourier.freqs",
    "embedding.features.phases": "unet.emb_fourier.phases",
    "embedding.noise.weight": "unet.emb_noise.weight",
    "embedding.classes.weight": "unet.emb_label.weight",
    "gain": "unet.out_gain",
    "head.weight": "unet.out_conv.weight",
    "variance_features.frequencies": "logvar_fourier.freqs",
    "variance_features.phases": "logvar_fourier.phases",
    "variance.weight": "logvar_linear.weight",
}


def _renamed(net: EDM2, taken: Taken, head_channels: int) -> dict[str, Tensor]:
    """Our state; rows of attention, (heads channels three) of theirs, are put into our order."""
    side = net.event_shape[1]
    sides = [side]
    names: dict[str, str] = {}
    place = 0
    for number, block in enumerate(net.encoder):
        if block.down is not None:
            sides.append(sides[-1] // 2)
            place = 0
            name = f"{sides[-1]}x{sides[-1]}_down"
        else:
            name = f"{sides[-1]}x{sides[-1]}_block{place}"
            place += 1
        names[f"encoder.{number}"] = f"unet.enc.{name}"
    for number in range(2):
        names[f"middle.{number}"] = f"unet.dec.{sides[-1]}x{sides[-1]}_in{number}"
    place = 0
    for number, block in enumerate(net.decoder):
        if block.up is not None:
            sides.pop()
            place = 0
            name = f"{sides[-1]}x{sides[-1]}_up"
        else:
            name = f"{sides[-1]}x{sides[-1]}_block{place}"
            place += 1
        names[f"decoder.{number}"] = f"unet.dec.{name}"
    wanted = net.state_dict()
    state = {ours: taken(theirs) for ours, theirs in _FIXED.items() if ours in wanted}
    state["stem.weight"] = taken(f"unet.enc.{side}x{side}_conv.weight")
    for ours, theirs in names.items():
        for part, name in _BLOCK.items():
            if f"{ours}.{part}" in wanted:
                state[f"{ours}.{part}"] = taken(f"{theirs}.{name}")
        if f"{ours}.qkv.weight" in wanted:
            qkv = taken(f"{theirs}.attn_qkv.weight")
            heads = max(1, qkv.shape[1] // head_channels)
            state[f"{ours}.qkv.weight"] = rows(qkv, heads, "heads channels three")
    return state


def _computed(value: Tensor) -> Tensor:
    """A weight in the precision in which it is normalized, that of pickles being half."""
    return value.float() if value.dtype == torch.float16 else value


def _recognizes(contents: Contents) -> bool:
    theirs = ("unet.emb_fourier.freqs", "unet.out_gain")
    if contents.has(*theirs):
        return True
    network = network_of(contents.content)
    if network is not None:
        modules = network.state.get("_modules")
        return network.name == "Precond" and isinstance(modules, Mapping) and "unet" in modules
    content = contents.content
    net = content.get("net") if isinstance(content, Mapping) else None
    return isinstance(net, Mapping) and all(name in net for name in theirs)


FAMILY = Family("edm2", _recognizes, read)
