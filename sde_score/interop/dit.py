"""DiT: the authors' checkpoints, and `DiTTransformer2DModel` of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score._core.registry import format_spec
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
    given = vars(args) if args is not None else {}
    named = preset or given.get("model")
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
    chain: Tensor | None = None,
) -> Imported:
    spec = format_spec("dit", dict(options))
    chain = betas("linear") if chain is None else chain
    return Imported(
        "dit",
        spec,
        shape,
        through(chain),
        format_spec("ddpm", {"n": len(chain)}),
        fitted(sketch(spec, shape, classes), state),
        num_classes=classes,
        needs_condition=needs_condition and classes > 0,
        notes=tuple(notes),
    )


def _state(contents: Contents, weights: str) -> tuple[Mapping[str, Tensor], Any]:
    """A state, and the arguments of the trainer if they are in the file."""
    if contents.tensors:
        return contents.tensors, None
    return contents.content["ema" if weights == "ema" else "model"], contents.content.get("args")


def _options(
    taken: Taken, heads: int, null_class: bool
) -> tuple[dict[str, Any], tuple[int, int, int], int]:
    """Options of the network, shape of the images and number of classes, read off the shapes."""
    width, channels, patch, _ = taken("x_embedder.proj.weight").shape
    places = taken("pos_embed").shape[-2]
    side = round(places**0.5) * patch
    rows = taken("y_embedder.embedding_table.weight").shape[0]
    hidden = taken("blocks.0.mlp.fc1.weight").shape[0]
    options = {
        "width": width,
        "depth": _depth(taken, "blocks"),
        "heads": heads,
        "patch": patch,
        "mlp_ratio": hidden / width,
        "learned_variance": taken("final_layer.linear.weight").shape[0] == 2 * channels * patch**2,
        "null_class": null_class,
        "features": taken("t_embedder.mlp.0.weight").shape[1],
        "rounded_positions": True,
    }
    return options, (channels, side, side), rows - null_class


def _depth(taken: Taken, prefix: str) -> int:
    places = [
        int(key.removeprefix(prefix + ".").split(".")[0])
        for key in taken.state
        if key.startswith(prefix + ".")
    ]
    return 1 + max(places, default=0)


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
    width, channels, patch, _ = taken("pos_embed.proj.weight").shape
    depth = _depth(taken, "transformer_blocks")
    prefix = "transformer_blocks.{}."
    first = prefix.format(0)
    table = taken(first + "norm1.emb.class_embedder.embedding_table.weight")
    side = int(config.get("sample_size") or 32)
    options = {
        "width": width,
        "depth": depth,
        "heads": int(config["num_attention_heads"]),
        "patch": patch,
        "mlp_ratio": taken(first + "ff.net.0.proj.weight").shape[0] / width,
        "learned_variance": taken("proj_out_2.weight").shape[0] == 2 * channels * patch**2,
        "features": taken(first + "norm1.emb.timestep_embedder.linear_1.weight").shape[1],
        "shift": 1.0,
        "eps": float(config.get("norm_eps", 1e-5)),
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
    chain = _chain(scheduler) if scheduler else None
    if chain is None:
        notes.append(_CHAIN)
    classes = table.shape[0] - 1
    return _imported(options, (channels, side, side), classes, state, notes, chain=chain)


def _chain(scheduler: Mapping[str, Any]) -> Tensor:
    """The betas of a diffusers scheduler."""
    kind = scheduler.get("beta_schedule", "linear")
    known = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
    if scheduler.get("prediction_type", "epsilon") != "epsilon" or kind not in known:
        raise CheckpointError(
            f"scheduler_config.json has beta_schedule={kind!r} and prediction_type="
            f"{scheduler.get('prediction_type')!r}: DiT predicts epsilon, with beta_schedule one "
            f"of {', '.join(known)}"
        )
    return betas(
        known[kind],
        int(scheduler.get("num_train_timesteps", 1000)),
        float(scheduler.get("beta_start", 1e-4)),
        float(scheduler.get("beta_end", 0.02)),
    )


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
