"""Folders of diffusers, written: a pipeline with a `UNet2DModel` and its scheduler.

The configuration is read off our network, a network is built from it as the importer would, and the
two are compared switch by switch, so that nothing is written that would compute something else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sde_score._core.conditions import described
from sde_score._core.files import new_folder, require_new_folder
from sde_score._core.registry import parse_spec
from sde_score.discrete import HierarchicalVAE
from sde_score.interop.diffusers import DEFAULTS, spec_of
from sde_score.interop.diffusers_scheduler import OUTPUTS, SCHEDULES
from sde_score.interop.imported import Imported
from sde_score.interop.keys import outline, sketch
from sde_score.interop.pretrained import Source, imported_from
from sde_score.interop.schedules import betas, through
from sde_score.interop.unets import as_diffusers
from sde_score.models import PARAMETRIZATIONS
from sde_score.nn.backbones.residual_unet import ResidualUNet, Stage
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.layers import Modulation
from sde_score.nn.blocks.residual import ResBlock
from sde_score.sdes import SDE

_LINEAR = {"beta_start": 1e-4, "beta_end": 0.02}


def save_diffusers(source: Source, folder: str | Path, **described: Any) -> Path:
    """Write a folder that `UNet2DModel.from_pretrained` and diffusers' pipelines load.

    `DDPMPipeline.from_pretrained` and `DDIMPipeline.from_pretrained` take it whole, and
    `UNet2DModel.from_pretrained(folder, subfolder="unet")` the network. These pipelines give no
    labels: a network with classes is called by its user.

    Args:
        source: as for `save_pretrained`.
        folder: which must not exist or be empty; it appears when it is whole.
        described: of a model in memory, see `imported_from`.

    Raises:
        ValueError: for a network, diffusion, parametrization or range of data that diffusers does
            not have, by name, or a folder that holds something.
        OSError: if it cannot be written.
    """
    from safetensors.torch import save_file

    found, folder = imported_from(source, **described), Path(folder)
    require_new_folder(folder)
    config, scheduler = unet_config(found), scheduler_config(found)
    net = outline(found.backbone, found.event_shape, found.num_classes)
    state = {
        name: value.contiguous().clone() for name, value in as_diffusers(net, found.state).items()
    }
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    with new_folder(folder) as place:
        for name, content in (
            ("unet/config.json", config),
            ("scheduler/scheduler_config.json", scheduler),
            ("model_index.json", index),
        ):
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        weights = place / "unet" / "diffusion_pytorch_model.safetensors"
        save_file(state, weights, metadata={"format": "pt"})
    return folder


def unet_config(imported: Imported) -> dict[str, Any]:
    """The arguments of the `UNet2DModel` that computes what our network does.

    Raises:
        ValueError: naming what it cannot express.
    """
    if imported.condition_shape:
        told = described(imported.condition_shape)
        raise ValueError(f"UNet2DModel is told a class alone, and this network {told}")
    if imported.flow_map is not None:
        raise ValueError(
            "UNet2DModel is told one noise level, and this flow map two: it stays ours"
        )
    net = sketch(imported.backbone, imported.event_shape, imported.num_classes)
    if not isinstance(net, ResidualUNet) or len(net.event_shape) != 3:
        name = parse_spec(imported.backbone)[0]
        raise ValueError(
            f"backbone {name!r} on examples of shape {imported.event_shape} is no U-Net of "
            "residual blocks on images, which UNet2DModel is: such are residual-unet, and "
            "ddpm(up_attention='all')"
        )
    if net.embedding.features.embedding != "positional":
        raise ValueError(
            "embedding='fourier' belongs to VE in diffusers and is not written: only networks that "
            "are told a layer's index are"
        )
    config = _read_off(net)
    config["num_class_embeds"] = imported.num_classes or None
    halvings = len(config["block_out_channels"]) - 1
    if any(side % 2**halvings for side in net.event_shape[1:]):
        raise ValueError(
            f"event_shape={net.event_shape}: UNet2DModel needs sides that are multiples of "
            f"{2**halvings} for {halvings + 1} levels"
        )
    theirs = outline(spec_of(config), net.event_shape, imported.num_classes)
    ours, other = dict(_switches(net)), dict(_switches(theirs))
    for name in (*ours, *other):
        if (mine := ours.get(name, "nothing")) != (that := other.get(name, "nothing")):
            raise ValueError(
                f"UNet2DModel cannot express backbone={imported.backbone:.100}: at {name} it has "
                f"{mine}, UNet2DModel {that}"
            )
    return config


def _read_off(net: ResidualUNet) -> dict[str, Any]:
    """The configuration nearest to a network."""
    down, up = _levels(net.encoder), _levels(net.decoder)
    count = len(down)
    widths = [_blocks(down[level])[0].conv2.out_channels for level in range(count)]
    middle = [stage for stage in net.middle if isinstance(stage, Stage)]
    heads = [part for part in net.modules() if isinstance(part, Attention)]
    head = heads[0].qkv.in_features // heads[0].heads if heads else None
    several = any(part.heads > 1 for part in heads)
    attends = [any(stage.attention is not None for stage in down[k]) for k in range(count)]
    up_attends = [any(stage.attention is not None for stage in up[k]) for k in range(count)]
    ways = [next((s.down for s in down[k] if s.down is not None), None) for k in range(count)]
    up_ways = [next((s.up for s in up[k] if s.up is not None), None) for k in range(count)]
    block, side = _blocks(down[0])[0], net.event_shape[1:]
    middle_block = middle[0].block
    scale = middle_block.scale if isinstance(middle_block, ResBlock) else 1.0
    return {
        **DEFAULTS,
        "_class_name": "UNet2DModel",
        "sample_size": side[0] if side[0] == side[1] else list(side),
        "in_channels": net.event_shape[0],
        "out_channels": net.out_channels,
        "time_embedding_dim": net.embedding.second.out_features,
        "freq_shift": _whole(net.embedding.features.shift),
        "flip_sin_to_cos": not net.embedding.features.sine_first,
        "down_block_types": [_kind("Down", *row) for row in zip(attends, ways, strict=True)],
        "up_block_types": [_kind("Up", *row) for row in zip(up_attends, up_ways, strict=True)][
            ::-1
        ],
        "block_out_channels": widths,
        "layers_per_block": len(_blocks(down[0])),
        "mid_block_scale_factor": _whole(1 / scale),
        "downsample_padding": 0 if net.one_sided else 1,
        "downsample_type": _resampling(attends, ways),
        "upsample_type": _resampling(up_attends, up_ways),
        "dropout": block.dropout.p,
        "attention_head_dim": head if several or len(heads) == 1 else None,
        "norm_num_groups": block.norm2.groups,
        "norm_eps": block.norm2.eps,
        "resnet_time_scale_shift": (
            "scale_shift" if isinstance(block.condition, Modulation) else "default"
        ),
        "add_attention": any(stage.attention is not None for stage in middle),
    }


def _levels(stages: nn.ModuleList) -> dict[int, list[Stage]]:
    found: dict[int, list[Stage]] = {}
    for stage in stages:
        if isinstance(stage, Stage):
            found.setdefault(stage.level, []).append(stage)
    return found


def _blocks(stages: list[Stage]) -> list[Any]:
    return [stage.block for stage in stages if isinstance(stage.block, ResBlock)]


def _kind(way: str, attends: bool, module: nn.Module | None) -> str:
    if attends:
        return f"Attn{way}Block2D"
    return f"Resnet{way}sampleBlock2D" if isinstance(module, ResBlock) else f"{way}Block2D"


def _resampling(attends: list[bool], ways: list[nn.Module | None]) -> str:
    blocks = [
        isinstance(way, ResBlock) for attend, way in zip(attends, ways, strict=True) if attend
    ]
    return "resnet" if any(blocks) else "conv"


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _switches(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Everything that decides what a network computes, beside its weights."""
    for path, module in net.named_modules():
        yield path or "network", type(module).__name__
        for key, value in vars(module).items():
            if key in ("training", "style") or key.startswith("_"):
                continue
            if callable(value):
                value = getattr(value, "__name__", type(value).__name__)
            yield f"{path}.{key}", value


def scheduler_config(imported: Imported) -> dict[str, Any]:
    """The configuration of the scheduler whose chain is the model's diffusion.

    Raises:
        ValueError: for a parametrization, a diffusion or a range of data that none has.
    """
    row = PARAMETRIZATIONS.resolve(imported.prediction)
    n, labels = (row.options.get(key) for key in ("n", "labels"))
    respaced = row.options.get("kept") is not None
    if row.name != "ddpm" or n != labels or respaced or not isinstance(n, int):
        raise ValueError(
            f"prediction={imported.prediction} is not that of diffusers, whose networks are told "
            "the index of a layer: written are ddpm(n=..., output='noise', 'data' or 'v')"
        )
    scaling, levels = imported.scaling, imported.scaling.levels
    if levels is not None:
        ends = scaling.to_model(torch.tensor([0.0, levels - 1.0]))
        if (ends - torch.tensor([-1.0, 1.0])).abs().max() > 1.01 / levels:
            raise ValueError(
                f"black and white are {ends.tolist()} in the range of the network; pipelines of "
                "diffusers take them to be -1 and 1"
            )
    outputs = {ours: theirs for theirs, ours in OUTPUTS.items()}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": n,
        **_chain(imported.sde, n),
        "prediction_type": outputs[str(row.options["output"])],
        "variance_type": "fixed_small",
        "clip_sample": False,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
        "timestep_spacing": "leading",
        "steps_offset": 0,
    }


def _chain(sde: SDE, n: int) -> dict[str, Any]:
    """The schedule by name where it has one, else its betas.

    Raises:
        ValueError: for a diffusion that is no chain of n betas.
    """
    for theirs, ours in SCHEDULES.items():
        ends = _LINEAR.values() if "linear" in ours else ()
        with suppress(ValueError):
            if through(betas(ours, n, *ends)) == sde:
                return {"beta_schedule": theirs, **_LINEAR, "trained_betas": None}
    times = torch.arange(1, n + 1, dtype=torch.float64) / n
    try:
        values = HierarchicalVAE(sde, times).encoder.betas
    except ValueError as error:
        raise ValueError(f"the diffusion is no chain of {n} betas: {error!s:.300}") from error
    return {"beta_schedule": "linear", **_LINEAR, "trained_betas": values.tolist()}
