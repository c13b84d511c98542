"""diffusers: folders of `UNet2DModel`, alone or in a pipeline with its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sde_score._core.registry import format_spec
from sde_score.interop import unets
from sde_score.interop.diffusers_scheduler import Schedule, schedule_of
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, outline
from sde_score.training.errors import CheckpointError

HALF = 0.5**0.5

DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""Arguments of `UNet2DModel` and their defaults."""

ACCEPTED: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "class_embed_type": (None,),
    "downsample_type": ("conv", "resnet"),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional", "fourier"),
    "upsample_type": ("conv", "resnet"),
}
DOWN = ("DownBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D")
UP = ("UpBlock2D", "ResnetUpsampleBlock2D", "AttnUpBlock2D")
SKIP_DOWN = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
SKIP_UP = ("SkipUpBlock2D", "AttnSkipUpBlock2D")


def read(
    contents: Contents,
    beta_schedule: str | None = None,
    beta_start: float | None = None,
    beta_end: float | None = None,
    steps: int | None = None,
    prediction_type: str | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    image_size: int | None = None,
) -> Imported:
    """A `UNet2DModel` of diffusers.

    Args:
        contents: of a folder with `config.json`, or of a pipeline.
        beta_schedule: of the scheduler, where the folder has none, and so are the next four:
            `"linear"`, `"scaled_linear"`, `"squaredcos_cap_v2"` or `"sigmoid"`.
        beta_start: first beta; None for 1e-4.
        beta_end: last beta; None for 0.02.
        steps: length of the chain; None for 1000.
        prediction_type: `"epsilon"`, `"sample"` or `"v_prediction"`; None for `"epsilon"`.
        sigma_min: smallest noise level of a network with random frequencies, in images in [0, 1].
        sigma_max: largest noise level of such a network.
        image_size: side of the images, where the configuration has no `sample_size`.

    Raises:
        ValueError: if something that the folder does not say is missing.
        CheckpointError: for values that are not supported, or weights that do not fit.
    """
    config = _config(contents)
    channels, side = config["in_channels"], image_size or config["sample_size"]
    if side is None:
        raise ValueError("config.json has no sample_size: give image_size=..., such as 32")
    sides = tuple(side) if isinstance(side, list) else (side, side)
    asked = {
        "beta_schedule": beta_schedule,
        "beta_start": beta_start,
        "beta_end": beta_end,
        "num_train_timesteps": steps,
        "prediction_type": prediction_type,
        "sigma_min": sigma_min,
        "sigma_max": sigma_max,
    }
    schedule: Schedule = schedule_of(
        contents.config.get("scheduler_config.json"),
        {key: value for key, value in asked.items() if value is not None},
        config["time_embedding_type"] == "fourier",
        config["center_input_sample"],
    )
    try:
        spec, event_shape = spec_of(config), (channels, *sides)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json has values of the wrong kind: {error}") from error
    classes = config["num_class_embeds"] or 0
    taken = Taken(contents.tensors)
    state = unets.diffusers(outline(spec, event_shape, classes), taken)
    taken.refuse_left()
    return Imported(
        "diffusers",
        spec,
        event_shape,
        schedule.sde,
        schedule.prediction,
        state,
        scaling=images(schedule.low),
        num_classes=classes,
        needs_condition=classes > 0,
        notes=schedule.notes,
        facts={"version": config.get("_diffusers_version")},
    )


def _config(contents: Contents) -> dict[str, Any]:
    """The configuration with all defaults.

    Raises:
        CheckpointError: if it is absent, or has values that are not supported.
    """
    given = contents.config.get("config.json")
    if not isinstance(given, Mapping):
        raise CheckpointError(
            f"{contents.path} holds weights of diffusers without their config.json: give the folder"
        )
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise CheckpointError(
            f"config.json is of {given['_class_name']!r}; known here is 'UNet2DModel'"
        )
    config = {**DEFAULTS, **given}
    unknown = [key for key in given if key not in DEFAULTS and not key.startswith("_")]
    wrong = [f"{key}={config[key]!r}" for key in ACCEPTED if config[key] not in ACCEPTED[key]]
    wrong += [f"{key}={given[key]!r}" for key in unknown]
    skip = _skips(config)
    downs, ups = (SKIP_DOWN, SKIP_UP) if skip else (DOWN, UP)
    for key, known in (("down_block_types", downs), ("up_block_types", ups)):
        wrong += [f"{key}={kind!r}" for kind in config[key] if kind not in known]
    if skip != (config["norm_num_groups"] is None):
        wrong.append(f"norm_num_groups={config['norm_num_groups']!r}")
    if config["out_channels"] not in (config["in_channels"], 2 * config["in_channels"]):
        wrong.append(f"out_channels={config['out_channels']!r}")
    lengths = {len(config[key]) for key in ("block_out_channels", "up_block_types")}
    if lengths != {len(config["down_block_types"])}:
        wrong.append("lists of different lengths")
    if wrong:
        raise CheckpointError(f"config.json has what is not supported here: {', '.join(wrong)}")
    return config


def _skips(config: Mapping[str, Any]) -> bool:
    """Whether the image runs beside the network, as in NCSN++.

    Raises:
        CheckpointError: if the blocks are no lists of names.
    """
    names = [config[key] for key in ("down_block_types", "up_block_types")]
    if not all(
        isinstance(one, list) and one and all(isinstance(kind, str) for kind in one)
        for one in names
    ) or not isinstance(config["block_out_channels"], list):
        raise CheckpointError("config.json must list the blocks and their channels")
    return any("Skip" in kind for one in names for kind in one)


def spec_of(config: Mapping[str, Any]) -> str:
    """Our spec of the network."""
    skip, widths = _skips(config), tuple(config["block_out_channels"])
    downs, ups = config["down_block_types"], config["up_block_types"][::-1]
    fourier = config["time_embedding_type"] == "fourier"
    attends = "last" if skip else "all"
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    options: dict[str, Any] = {
        "widths": widths,
        "blocks": config["layers_per_block"],
        "attention": tuple("Attn" in kind for kind in downs),
        "up_attention": tuple(attends if "Attn" in kind else "none" for kind in ups),
        "down": tuple(_way(kind, config["downsample_type"]) for kind in downs),
        "up": tuple(_way(kind, config["upsample_type"]) for kind in ups),
        "dropout": config["dropout"],
        "groups": config["norm_num_groups"] or 32,
        "channels_per_group": 4 if skip else 1,
        "eps": config["norm_eps"],
        "scale_shift": scale_shift,
        "scale": HALF if skip else 1.0,
        "middle_scale": 1 / config["mid_block_scale_factor"],
        "middle_attention": config["add_attention"],
        "middle_norm": not scale_shift,
        "head_channels": config["attention_head_dim"],
        "attention_groups": 32 if skip else None,
        "fir": skip,
        "projects_resampled": skip,
        "one_sided": config["downsample_padding"] == 0,
        "embedding": config["time_embedding_type"],
        "features": 2 * widths[0] if fourier else widths[0],
        # The random ones are never flipped.
        "sine_first": fourier or not config["flip_sin_to_cos"],
        "shift": float(config["freq_shift"]),
        "embedding_width": config["time_embedding_dim"] or 4 * widths[0],
        "input_branch": "skip" if skip else None,
        "output_branch": "skip" if skip else None,
        "out_channels": config["out_channels"],
        "up_groups": _up_groups(config, ups) if skip else None,
    }
    return format_spec("residual-unet", options)


def _way(kind: str, resample: str) -> str:
    """How a block of this kind leads to the next level; only those with attention can choose."""
    if "Skip" in kind or "Resnet" in kind:
        return "block"
    return "block" if "Attn" in kind and resample == "resnet" else "conv"


def _up_groups(config: Mapping[str, Any], ups: list[str]) -> tuple[int, ...]:
    """Groups on the way up: a + b // 4 of a and b channels in blocks with attention, at most 32.

    diffusers has (a + b) // 4 in the others.
    """
    widths, blocks = config["block_out_channels"], config["layers_per_block"]
    kept, groups = [widths[0]], []
    for level, width in enumerate(widths):
        kept += [width] * (blocks + (level < len(widths) - 1))
    before = widths[-1]
    for level in reversed(range(len(widths))):
        for _ in range(blocks + 1):
            skipped = kept.pop()
            own = before + skipped // 4 if "Attn" in ups[level] else (before + skipped) // 4
            groups.append(min(own, 32))
            before = widths[level]
    return tuple(groups)


def _recognizes(contents: Contents) -> bool:
    config = contents.config.get("config.json")
    name = config.get("_class_name") if isinstance(config, Mapping) else None
    if isinstance(name, str) and name.startswith("UNet"):
        return True
    return any(key.startswith("down_blocks.0.resnets.") for key in contents.tensors)


FAMILY = Family("diffusers", _recognizes, read)
