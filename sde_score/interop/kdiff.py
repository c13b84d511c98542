"""k-diffusion: its training files, and the slim ones made for inference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_choice
from sde_score._core.registry import format_spec
from sde_score.interop import hdit
from sde_score.interop.files import Contents, read_json
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, fitted
from sde_score.nn import create as create_backbone
from sde_score.nn.backbones.kdiff_unet import KDiffUNet
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.resampling import FIR
from sde_score.sdes import EDM
from sde_score.training.errors import CheckpointError

TYPES = ("image_v1", "image_transformer_v2")
"""Models that can be read, by the configuration's `type`."""


def read(
    contents: Contents, weights: str | None = None, config: str | Path | None = None
) -> Imported:
    """A network of k-diffusion.

    Args:
        contents: of a training file, or of a slim one with its configuration in the header.
        weights: `"ema"` or `"raw"`; None for the averaged ones where the file has them.
        config: a JSON file with the configuration, for weights that do not have it beside them.

    Raises:
        ValueError: if the configuration is missing.
        CheckpointError: for a model of another type, or weights that do not fit.
    """
    settings = _config(contents, config)
    model = settings["model"]
    kind = model.get("type")
    if kind not in TYPES:
        raise CheckpointError(
            f"a model of type {kind!r}, of k-diffusion; those that can be read are "
            f"{', '.join(TYPES)}"
        )
    chosen, state, facts = _chosen(contents, weights)
    notes = [f"weights: {chosen}", "images in [-1, 1]"]
    if kind == "image_v1" and model.get("dropout_rate"):
        notes.append("dropout of attention, which their code leaves on in evaluation too, is off")
    half = [key for key, value in state.items() if value.dtype in (torch.float16, torch.bfloat16)]
    if half:
        notes.append("weights stored in half precision, read as float32")
        state = {key: value.float() for key, value in state.items()}
    wrapped = any(key.startswith("inner_model.") for key in state)
    taken = Taken({key.removeprefix("inner_model."): value for key, value in state.items()})
    data = settings["dataset"] or {}
    classes = int(data.get("num_classes") or 0) if kind == "image_transformer_v2" else 0
    spec = _spec_v1(model, wrapped) if kind == "image_v1" else hdit.spec(model, classes)
    event_shape = (int(model["input_channels"]), *(int(side) for side in _size(model)))
    with torch.device("meta"):
        net = create_backbone(spec, event_shape, classes)
    found = fitted(net, (_state_v1 if kind == "image_v1" else hdit.state)(taken, net))
    taken.refuse_left()
    return Imported(
        "kdiff",
        spec,
        event_shape,
        EDM(float(model.get("sigma_min", 0.01)), float(model.get("sigma_max", 80.0))),
        "edm",
        found,
        sigma_data=float(model.get("sigma_data", 1.0)),
        scaling=images(),
        num_classes=classes,
        needs_condition=classes > 0 and data.get("cond_dropout_rate", 0.1) == 0,
        notes=tuple(notes),
        facts={**facts, "weights": chosen, "type": kind},
    )


def _config(contents: Contents, given: str | Path | None) -> Mapping[str, Any]:
    """The configuration, of the file, its header, or a file of its own.

    Raises:
        ValueError: if there is none.
        CheckpointError: if it is damaged.
    """
    found: Any = None
    if isinstance(contents.content, Mapping):
        found = contents.content.get("config")
    found = contents.config.get("config", found)
    if found is None:
        found = contents.config.get("config.json")
    if given is not None:
        found = read_json(Path(given))
    if found is None:
        raise ValueError(
            f"{contents.path} holds weights of k-diffusion without their configuration: give "
            "config=..., the path of its JSON file"
        )
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError as error:
            raise CheckpointError(
                f"the configuration in {contents.path} is damaged: {error}"
            ) from error
    model = found.get("model") if isinstance(found, Mapping) else None
    needed = {"type", "input_channels", "input_size"}
    if not isinstance(model, Mapping) or not needed <= set(model):
        raise CheckpointError(
            f"the configuration of {contents.path} has no entry 'model' with type, "
            "input_channels and input_size"
        )
    return {"dataset": {}, **found}


def _chosen(
    contents: Contents, weights: str | None
) -> tuple[str, Mapping[str, Tensor], dict[str, Any]]:
    if contents.tensors:
        if weights == "raw":
            raise ValueError(
                f"weights='raw': {contents.path} holds the averaged weights alone; leave it out"
            )
        return "ema, the only ones of a slim file", contents.tensors, {}
    content = contents.content
    weights = weights or "ema"
    require_choice("weights", weights, ("ema", "raw"))
    name = {"ema": "model_ema", "raw": "model"}[weights]
    if not isinstance(content.get(name), Mapping):
        raise CheckpointError(f"{contents.path} has no {name!r}, which weights={weights!r} needs")
    facts = {key: content[key] for key in ("step", "epoch") if content.get(key) is not None}
    return weights, content[name], facts


def _size(model: Mapping[str, Any]) -> tuple[int, int]:
    size = model["input_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# image_v1


def _spec_v1(model: Mapping[str, Any], wrapped: bool) -> str:
    """Spec of our network, from the entry `model` of the configuration."""
    unread = ("mapping_cond_dim", "unet_cond_dim", "cross_cond_dim", "skip_stages")
    present = [name for name in unread if model.get(name)]
    if present:
        raise CheckpointError(
            f"a model of k-diffusion with {', '.join(present)}: such conditions cannot be read"
        )
    depths, attention = model["depths"], model["self_attn_depths"]
    options = {
        "widths": tuple(model["channels"]),
        "depths": tuple(depths),
        "attention": tuple(bool(attends) for attends in attention),
        "embedding_width": model["mapping_out"],
        "patch": int(model.get("patch_size", 1)),
        "num_augment": 9 if wrapped else 0,
        "variance": bool(model.get("has_variance", False)),
        "dropout": _floats(model.get("dropout_rate", 0.0)),
    }
    return format_spec("kdiff-unet", options)


def _floats(value: Any) -> float | tuple[float, ...]:
    return tuple(float(one) for one in value) if isinstance(value, list) else float(value)


_BLOCK = {
    "condition1.linear": "main.0.mapper",
    "conv1": "main.2",
    "condition2.linear": "main.4.mapper",
    "conv2": "main.6",
}
_ATTENTION = {"condition.linear": "norm_in.mapper", "qkv": "qkv_proj", "out": "out_proj"}


def _state_v1(taken: Taken, network: nn.Module) -> dict[str, Tensor]:
    net = cast(KDiffUNet, network)
    state = {"embedding.W": taken("timestep_embed.weight").flatten()}
    names = {"embedding.first": "mapping.0", "embedding.second": "mapping.2"}
    names |= {"stem": "proj_in", "head": "proj_out"}
    if net.embedding.augment is not None:
        names["embedding.augment"] = "mapping_cond"
    for ours, theirs, offset in (("encoder", "d_blocks", 1), ("decoder", "u_blocks", 0)):
        for i, level in enumerate(net.get_submodule(ours).children()):
            place = offset
            for j, attention in enumerate(level.get_submodule("attentions").children()):
                inner = {f"blocks.{j}": (_BLOCK, place)}
                place += 1
                if isinstance(attention, Attention):
                    inner[f"attentions.{j}"] = (_ATTENTION, place)
                    place += 1
                for mine, (table, number) in inner.items():
                    start = f"u_net.{theirs}.{i}.{number}"
                    names |= {f"{ours}.{i}.{mine}.{a}": f"{start}.{b}" for a, b in table.items()}
                    if f"{start}.skip.weight" in taken:
                        names[f"{ours}.{i}.{mine}.skip"] = f"{start}.skip"
            _check_filter(taken, f"u_net.{theirs}.{i}.{place if offset == 0 else 0}.kernel", offset)
    for ours, theirs in names.items():
        state.update({f"{ours}.{key}": value for key, value in taken.layer(theirs).items()})
    return state


def _check_filter(taken: Taken, name: str, down: int) -> None:
    """Take a stored filter, which must be the one of our network."""
    if name not in taken:
        return
    line = torch.tensor(FIR) / (8 if down else 4)
    wanted = torch.outer(line, line)
    kernel = taken(name).float()
    if kernel.shape != wanted.shape or not torch.allclose(kernel, wanted, rtol=1e-3):
        raise CheckpointError(
            f"{name} is another filter than (1, 3, 3, 1), the one of models of image_v1"
        )


def _recognizes(contents: Contents) -> bool:
    content, state = contents.content, contents.tensors
    if isinstance(content, Mapping):
        state = content.get("model_ema") or content.get("model") or state
    if not isinstance(state, Mapping):
        return False
    keys = [str(key).removeprefix("inner_model.") for key in state]
    return any(key.startswith(("u_net.d_blocks.", "mid_level.")) for key in keys)


FAMILY = Family("kdiff", _recognizes, read)
