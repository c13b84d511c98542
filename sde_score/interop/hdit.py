"""k-diffusion's second transformer, `image_transformer_v2`, as our HDiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from sde_score._core.registry import format_spec
from sde_score.interop.keys import Taken
from sde_score.nn.backbones.hdit import HDiT
from sde_score.training.errors import CheckpointError

_KINDS = {
    "global": "global",
    "neighborhood": "neighborhood",
    "shifted-window": "window",
    "none": "none",
}
_ATTENTION = {"norm.linear": "norm.linear", "qkv": "qkv_proj", "out": "out_proj"}
_BLOCK = {"norm.linear": "norm.linear", "up.linear": "up_proj", "down": "down_proj"}


def spec(model: Mapping[str, Any], classes: int) -> str:
    """Spec of our network, from the entry `model` of their configuration.

    Raises:
        CheckpointError: for conditions or kinds of attention that cannot be read.
    """
    if model.get("mapping_cond_dim"):
        raise CheckpointError(
            "a model of k-diffusion with mapping_cond_dim: such conditions cannot be read"
        )
    widths, width = list(model["widths"]), int(model.get("mapping_width", 256))
    levels = model.get("self_attns") or [
        {"type": "neighborhood" if i < len(widths) - 1 else "global"} for i in range(len(widths))
    ]
    kinds = [level.get("type") for level in levels]
    unknown = [kind for kind in kinds if kind not in _KINDS]
    if unknown:
        raise CheckpointError(
            f"attention of type {unknown[0]!r}, of k-diffusion; those that can be read are "
            f"{', '.join(_KINDS)}"
        )
    hidden = model.get("d_ffs") or [None] * len(widths)
    dropout = model.get("dropout_rate", 0.0)
    patch = model["patch_size"]
    options = {
        "widths": tuple(widths),
        "depths": tuple(model["depths"]),
        "attention": tuple(_KINDS[kind] for kind in kinds),
        "sizes": tuple(_side(level) for level in levels),
        "head_channels": tuple(level.get("d_head", 64) for level in levels),
        "hidden": tuple(inner or 3 * width for inner, width in zip(hidden, widths, strict=True)),
        "patch": (patch, patch) if isinstance(patch, int) else tuple(patch),
        "embedding_width": width,
        "embedding_depth": int(model.get("mapping_depth", 2)),
        "embedding_hidden": model.get("mapping_d_ff") or 3 * width,
        "dropout": tuple(dropout) if isinstance(dropout, list) else float(dropout),
        "embedding_dropout": float(model.get("mapping_dropout_rate", 0.0)),
    }
    return format_spec("hdit", options)


def _side(level: Mapping[str, Any]) -> int:
    return int(level.get("kernel_size", level.get("window_size", 7)))


def state(taken: Taken, network: nn.Module) -> dict[str, Tensor]:
    """Our state from theirs."""
    net = cast(HDiT, network)
    found = {
        "embedding.W": taken("time_emb.weight").flatten(),
        "embedding.augment_waves": taken("aug_emb.weight"),
        "embedding.first_norm.scale": taken("mapping.in_norm.scale"),
        "embedding.last_norm.scale": taken("mapping.out_norm.scale"),
        "last_norm.scale": taken("out_norm.scale"),
    }
    names = {
        "embedding.time": "time_in_proj",
        "embedding.augment": "aug_in_proj",
        "stem.linear": "patch_in.proj",
        "head.linear": "patch_out.proj",
    }
    if net.embedding.classes is not None:
        names["embedding.classes"] = "class_emb"
    for i in range(len(net.embedding.blocks)):
        found[f"embedding.blocks.{i}.norm.scale"] = taken(f"mapping.blocks.{i}.norm.scale")
        for ours in ("up.linear", "down"):
            names[f"embedding.blocks.{i}.{ours}"] = f"mapping.blocks.{i}.{_BLOCK[ours]}"
    for i in range(len(net.merges)):
        names[f"merges.{i}.linear"] = f"merges.{i}.proj"
        names[f"splits.{i}.linear"] = f"splits.{i}.proj"
        found[f"splits.{i}.share"] = taken(f"splits.{i}.fac")
    folders = {"middle": "mid_level"}
    for i in range(len(net.down)):
        folders |= {f"down.{i}": f"down_levels.{i}", f"up.{i}": f"up_levels.{i}"}
    for ours, theirs in folders.items():
        for j, layer in enumerate(net.get_submodule(ours).children()):
            mine, other = f"{ours}.{j}", f"{theirs}.{j}"
            names |= {f"{mine}.block.{a}": f"{other}.ff.{b}" for a, b in _BLOCK.items()}
            if getattr(layer, "attention", None) is None:
                continue
            start = f"{other}.self_attn"
            names |= {f"{mine}.attention.{a}": f"{start}.{b}" for a, b in _ATTENTION.items()}
            found[f"{mine}.attention.scale"] = taken(f"{start}.scale")
            found[f"{mine}.attention.frequencies"] = taken(f"{start}.pos_emb.freqs")
    for ours, theirs in names.items():
        found.update({f"{ours}.{key}": value for key, value in taken.layer(theirs).items()})
    return found
