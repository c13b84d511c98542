"""DiT: the authors' checkpoints, and `DiTTransformer2DModel` of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import is_integer, require_choice
from sde_score._core.registry import format_spec
from sde_score.interop.diffusers_scheduler import Schedule, schedule_of
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported
from sde_score.interop.keys import Taken, concatenated, fitted, sketch
from sde_score.interop.schedules import betas, through
from sde_score.nn.blocks.tokens import grid_waves
from sde_score.training.errors import CheckpointError

PRESETS: dict[str, dict[str, int]] = {
    f"DiT-{size}/{patch}": {"width": width, "depth": depth, "heads": heads}
    for size, width, depth, heads in (
        ("S", 384, 12, 6),
        ("B", 768, 12, 12),
        ("L", 1024, 24, 16),
        ("XL", 1152, 28, 16),
    )
    for patch in (2, 4, 8)
}
"""Sizes of the published networks, by their names."""

_PIXELS = (
    "the data are taken as they are (scaling is the identity): the published networks see latents "
    "of Stable Diffusion's autoencoder, times 0.18215"
)
_CHAIN = "the diffusion is taken as published: 1000 steps, betas linear from 1e-4 to 0.02"


def read(
    contents: Contents,
    preset: str | None = None,
    heads: int | None = None,
    weights: str = "ema",
    null_class: bool = True,
) -> Imported:
    """A diffusion transformer.

    Args:
        contents: of a bare state, of a file of the authors' trainer, or of a folder of diffusers.
        preset: name of a published network in `PRESETS`, which says the number of heads.
        heads: number of heads, where there is no preset; folders say it.
        weights: of a trainer's file, `"ema"` or `"raw"`.
        null_class: whether the last row of the table of classes is for no class, as in all networks
            that were trained with dropped labels.

    Raises:
        ValueError: for an unknown preset, or if the number of heads is not known.
        CheckpointError: if the weights do not fit.
    """
    config = _config(contents)
    if config is not None:
        return _read_diffusers(contents, config)
    require_choice("weights", weights, ("ema", "raw"))
    state, args = _state(contents, weights)
    named = preset or str(getattr(args, "model", None))
    if preset is not None:
        require_choice("preset", preset, tuple(PRESETS))
    if heads is None and named in PRESETS:
        heads = PRESETS[named]["heads"]
    if heads is None:
        raise ValueError(
            "weights of DiT do not say the number of heads: give heads=..., or preset=..., one of "
            f"{', '.join(PRESETS)}"
        )
    taken = Taken(state)
    options, shape, classes = _options(taken, heads, null_class)
    if named in PRESETS and any(options[key] != value for key, value in PRESETS[named].items()):
        wanted = PRESETS[named]
        raise CheckpointError(
            f"the weights are not those of {named}: they have width={options['width']} and "
            f"depth={options['depth']}, not {wanted['width']} and {wanted['depth']}"
        )
    ours = _from_authors(taken, int(options["depth"]))
    _require_waves(taken("pos_embed"), shape, int(options["patch"]))
    taken.refuse_left()
    notes = [_PIXELS, _CHAIN]
    if classes and null_class:
        notes.append("the last row of the table of classes is taken as the one for no class")
    return _imported(options, shape, classes, ours, notes, not null_class)


def _imported(
    options: Mapping[str, Any],
    shape: tuple[int, ...],
    classes: int,
    state: dict[str, Tensor],
    notes: list[str],
    needs_condition: bool = False,
    schedule: Schedule | None = None,
) -> Imported:
    spec = format_spec("dit", dict(options))
    if schedule is None:
        schedule = Schedule(through(betas("linear")), format_spec("ddpm", {"n": 1000}))
    return Imported(
        "dit",
        spec,
        shape,
        schedule.sde,
        schedule.prediction,
        fitted(sketch(spec, shape, classes), state),
        num_classes=classes,
        needs_condition=needs_condition and classes > 0,
        notes=tuple(notes),
    )


def _state(contents: Contents, weights: str) -> tuple[Mapping[str, Tensor], Any]:
    """A state, and the arguments of the trainer if they are in the file."""
    if contents.tensors:
        return contents.tensors, None
    name = "ema" if weights == "ema" else "model"
    found = contents.content.get(name)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"{contents.path} holds no {name!r}, which {weights=} asks for; it holds "
            f"{', '.join(map(repr, contents.content))}"
        )
    return found, contents.content.get("args")


def _options(
    taken: Taken, heads: int, null_class: bool
) -> tuple[dict[str, Any], tuple[int, int, int], int]:
    """Options of the network, shape of the images and number of classes, read off the shapes."""
    width, channels, patch, _ = taken.sizes("x_embedder.proj.weight", 4)
    _, places, _ = taken.sizes("pos_embed", 3)
    side = round(places**0.5) * patch
    rows, _ = taken.sizes("y_embedder.embedding_table.weight", 2)
    hidden, _ = taken.sizes("blocks.0.mlp.fc1.weight", 2)
    out, _ = taken.sizes("final_layer.linear.weight", 2)
    options = {
        "width": width,
        "depth": taken.numbered("blocks."),
        "heads": heads,
        "patch": patch,
        "mlp_ratio": hidden / width,
        "learned_variance": out == 2 * channels * patch**2,
        "null_class": null_class,
        "features": taken.sizes("t_embedder.mlp.0.weight", 2)[1],
        "rounded_positions": True,
    }
    return options, (channels, side, side), rows - null_class


def _require_waves(found: Tensor, shape: tuple[int, int, int], patch: int) -> None:
    """Refuse positions that are not the fixed ones of the paper."""
    grid = [side // patch for side in shape[1:]]
    waves = grid_waves(grid, found.shape[-1], found.device)
    tolerance = 1e-5 if found.dtype in (torch.float32, torch.float64) else 1e-2
    if found[0].shape != waves.shape or (found[0] - waves).abs().max() > tolerance:
        raise CheckpointError(
            f"pos_embed of shape {tuple(found.shape)} is not the table of sines and cosines of a "
            f"square of patches, which DiT keeps fixed: the network of {shape} is another"
        )


_PLAIN = {
    "patches.conv": "x_embedder.proj",
    "embedding.first": "t_embedder.mlp.0",
    "embedding.second": "t_embedder.mlp.2",
    "embedding.classes": "y_embedder.embedding_table",
    "head.modulation": "final_layer.adaLN_modulation.1",
    "head.linear": "final_layer.linear",
}
_BLOCK = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.inner": "mlp.fc1",
    "mlp.outer": "mlp.fc2",
    "modulation": "adaLN_modulation.1",
}


def _from_authors(taken: Taken, depth: int) -> dict[str, Tensor]:
    """Our state from the authors' names; their rows of attention are in our order."""
    names = dict(_PLAIN)
    for place in range(depth):
        for ours, theirs in _BLOCK.items():
            names[f"blocks.{place}.{ours}"] = f"blocks.{place}.{theirs}"
    return _renamed(taken, names)


def _renamed(taken: Taken, names: Mapping[str, str]) -> dict[str, Tensor]:
    return {
        f"{ours}.{key}": value
        for ours, theirs in names.items()
        for key, value in taken.layer(theirs).items()
    }


# diffusers


def _config(contents: Contents) -> Mapping[str, Any] | None:
    """The configuration of a `DiTTransformer2DModel`, if it is one's."""
    config = contents.config.get("config.json")
    named = isinstance(config, Mapping) and config.get("_class_name") in (
        "DiTTransformer2DModel",
        "Transformer2DModel",
    )
    return config if named else None


_EMBEDDING = {
    "first": "timestep_embedder.linear_1",
    "second": "timestep_embedder.linear_2",
    "classes": "class_embedder.embedding_table",
}
_FIXED = {
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}


def _read_diffusers(contents: Contents, config: Mapping[str, Any]) -> Imported:
    """A folder of diffusers.

    Each of its blocks has an embedding of its own, whose slowest frequency is 1 / 10000.
    """
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"config.json has {key}={config[key]!r}: a DiT has {value!r}, and others are not "
                "known"
            )
    taken = Taken(contents.tensors)
    width, channels, patch, _ = taken.sizes("pos_embed.proj.weight", 4)
    depth = taken.numbered("transformer_blocks.")
    prefix = "transformer_blocks.{}."
    first = prefix.format(0)
    table = first + "norm1.emb.class_embedder.embedding_table.weight"
    side, heads = (_count(config, key) for key in ("sample_size", "num_attention_heads"))
    options = {
        "width": width,
        "depth": depth,
        "heads": heads,
        "patch": patch,
        "mlp_ratio": taken.sizes(first + "ff.net.0.proj.weight", 2)[0] / width,
        "learned_variance": taken.sizes("proj_out_2.weight", 2)[0] == 2 * channels * patch**2,
        "features": taken.sizes(first + "norm1.emb.timestep_embedder.linear_1.weight", 2)[1],
        "shift": 1.0,
        "eps": config.get("norm_eps", 1e-5),
        "shared_embedding": False,
    }
    names = {
        "patches.conv": "pos_embed.proj",
        "head.modulation": "proj_out_1",
        "head.linear": "proj_out_2",
    }
    state = {}
    for place in range(depth):
        theirs = prefix.format(place)
        embedding = "embedding" if place == 0 else f"embeddings.{place - 1}"
        names.update(
            {f"{embedding}.{ours}": f"{theirs}norm1.emb.{n}" for ours, n in _EMBEDDING.items()}
        )
        block = f"blocks.{place}."
        names[f"{block}modulation"] = f"{theirs}norm1.linear"
        names[f"{block}attention.out"] = f"{theirs}attn1.to_out.0"
        names[f"{block}mlp.inner"] = f"{theirs}ff.net.0.proj"
        names[f"{block}mlp.outer"] = f"{theirs}ff.net.2"
        qkv = concatenated([taken.layer(f"{theirs}attn1.to_{part}") for part in "qkv"])
        state.update({f"{block}attention.qkv.{key}": value for key, value in qkv.items()})
    state |= _renamed(taken, names)
    if "pos_embed.pos_embed" in taken:
        _require_waves(taken("pos_embed.pos_embed"), (channels, side, side), patch)
    taken.refuse_left()
    notes = [_PIXELS]
    scheduler = contents.config.get("scheduler_config.json")
    schedule = schedule_of(
        scheduler, {} if scheduler else {"beta_schedule": "linear"}, False, False
    )
    notes += schedule.notes if scheduler else [_CHAIN]
    classes = taken.sizes(table, 2)[0] - 1
    return _imported(options, (channels, side, side), classes, state, notes, schedule=schedule)


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not is_integer(value) or not 1 <= value <= 2**16:  # type: ignore[operator]
        raise CheckpointError(f"config.json has {key}={value!r}, which must be a count")
    return int(value)  # type: ignore[arg-type]


def _recognizes(contents: Contents) -> bool:
    content = contents.content
    theirs = ("x_embedder.proj.weight", "t_embedder.mlp.0.weight", "final_layer.linear.weight")
    if contents.has(*theirs) or (
        _config(contents) is not None and contents.has("pos_embed.proj.weight")
    ):
        return True
    if not isinstance(content, Mapping) or not isinstance(content.get("ema"), Mapping):
        return False
    return all(name in content["ema"] for name in theirs)


FAMILY = Family("dit", _recognizes, read)
