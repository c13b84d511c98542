"""ADM: guided-diffusion, improved-diffusion and OpenAI's consistency models."""

from __future__ import annotations

from collections.abc import Mapping

from sde_score._core.checks import require_choice
from sde_score._core.registry import format_spec
from sde_score.interop import unets
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, outline
from sde_score.interop.schedules import betas, through
from sde_score.sdes import EDM, SDE
from sde_score.training.errors import CheckpointError

LEVELS = (0.002, 80.0)
"""Smallest and largest noise level of consistency_models."""

PRESETS: dict[str, dict[str, object]] = {
    "imagenet-64": {"head_channels": 64, "new_order": True, "schedule": "cosine"},
    "imagenet-128": {"heads": 4, "new_order": False, "schedule": "linear"},
    "imagenet-256": {"head_channels": 64, "new_order": False, "schedule": "linear"},
    "imagenet-512": {"head_channels": 64, "new_order": False, "schedule": "linear"},
    "lsun-256": {"head_channels": 64, "new_order": False, "schedule": "linear"},
    "improved-cosine-4000": {
        "heads": 4,
        "new_order": False,
        "schedule": "cosine",
        "steps": 4000,
        "labels": 1000.0,
    },
    "improved-linear-4000": {
        "heads": 4,
        "new_order": False,
        "schedule": "linear",
        "steps": 4000,
        "labels": 1000.0,
    },
    "edm-imagenet-64": {"head_channels": 64, "new_order": True, "schedule": "edm"},
    "edm-lsun-256": {"head_channels": 64, "new_order": True, "schedule": "edm"},
    "consistency-imagenet-64": {"head_channels": 64, "new_order": True, "schedule": "consistency"},
    "consistency-lsun-256": {"head_channels": 64, "new_order": True, "schedule": "consistency"},
}
"""What the weights of published files do not say, by the names of the files' tables."""


def read(
    contents: Contents,
    preset: str | None = None,
    head_channels: int | None = None,
    heads: int | None = None,
    new_order: bool | None = None,
    schedule: str | None = None,
    steps: int = 1000,
    labels: float | None = None,
    image_size: int = 64,
    dropout: float = 0.0,
) -> Imported:
    """A network of OpenAI's.

    Args:
        contents: of a bare state.
        preset: name of a published file in `PRESETS`, which says what the next four do.
        head_channels: channels of a head of attention; give it or `heads`.
        heads: number of heads.
        new_order: whether rows of attention are those of `use_new_attention_order`.
        schedule: `"linear"` or `"cosine"`; `"edm"` for the networks of consistency_models that were
            trained as EDM's, `"consistency"` for its consistency functions.
        steps: length of the chain.
        labels: number that the time labels count up to, where they were rescaled; None for `steps`.
        image_size: side of the images; the network takes any.
        dropout: in training.

    Raises:
        ValueError: for an unknown preset, or if something that the file does not say is missing.
        CheckpointError: if the weights do not fit.
    """
    _refuse_others(contents)
    asked = {
        "head_channels": head_channels,
        "heads": heads,
        "new_order": new_order,
        "schedule": schedule,
    }
    given = _settled(contents, asked, preset)
    steps = int(given.get("steps", steps))  # type: ignore[call-overload]
    labels = given.get("labels", labels)  # type: ignore[assignment]
    sde, prediction, note = _diffusion(str(given["schedule"]), steps, float(labels or steps))
    spec, channels, classes = _spec(contents, given, dropout)
    taken = Taken(contents.tensors)
    event_shape = (channels, image_size, image_size)
    net = outline(spec, event_shape, classes)
    state = unets.adm(net, taken, bool(given["new_order"]))
    taken.refuse_left()
    return Imported(
        "adm",
        spec,
        event_shape,
        sde,
        prediction,
        state,
        0.5 if isinstance(sde, EDM) else 1.0,
        images(),
        num_classes=classes,
        needs_condition=classes > 0,
        notes=note,
    )


def _settled(
    contents: Contents, asked: Mapping[str, object], preset: str | None
) -> dict[str, object]:
    """What the weights do not say, from the options and the preset.

    Raises:
        ValueError: for an unknown preset, or if something is missing.
    """
    if preset is not None:
        require_choice("preset", preset, tuple(PRESETS))
    given = dict(PRESETS[preset]) if preset else {}
    given.update({key: value for key, value in asked.items() if value is not None})
    lacking = [key for key in ("new_order", "schedule") if key not in given]
    attends = any(key.endswith("qkv.weight") for key in contents.tensors)
    if attends and not {"heads", "head_channels"} & set(given):
        lacking.append("heads or head_channels")
    if lacking:
        raise ValueError(
            f"weights of ADM do not say {', '.join(lacking)}: give them, or preset=..., one of "
            f"{', '.join(PRESETS)}"
        )
    return given


def _refuse_others(contents: Contents) -> None:
    """Refuse other networks of the same parts.

    Raises:
        CheckpointError: saying which.
    """
    tensors = contents.tensors
    if not any(name.startswith("output_blocks.") for name in tensors):
        raise CheckpointError(
            f"{contents.path} holds a classifier of noisy images, of guided-diffusion: read here "
            "are networks that denoise"
        )
    inputs = tensors["input_blocks.0.0.weight"].shape[1]
    if inputs == 6 and tensors["out.2.weight"].shape[0] in (3, 6):
        raise CheckpointError(
            f"{contents.path} holds an upsampler of guided-diffusion, which is given a smaller "
            "image beside x: read here are networks that are given x alone"
        )


def _diffusion(schedule: str, steps: int, labels: float) -> tuple[SDE, str, tuple[str, ...]]:
    """The SDE, the parametrization, and what to know about them."""
    if schedule == "edm":
        return EDM(*LEVELS), "consistency", ()
    if schedule == "consistency":
        note = (
            "its answer is an end of the flow, not the mean of the data: one evaluation of "
            "model.denoise at the last time draws; other samplers and likelihoods are of no use"
        )
        return EDM(*LEVELS), format_spec("consistency", {"sigma_min": LEVELS[0]}), (note,)
    prediction = format_spec("ddpm", {"n": steps, "labels": labels})
    return through(betas(schedule, steps)), prediction, ()


def _spec(contents: Contents, given: dict[str, object], dropout: float) -> tuple[str, int, int]:
    """Spec of the network, channels of the images and number of classes, read off the shapes."""
    tensors = contents.tensors
    places = {int(key.split(".")[1]) for key in tensors if key.startswith("output_blocks.")}
    ups = ("1.conv", "2.conv", "1.in_layers.0", "2.in_layers.0")
    resampled = [
        place
        for place in places
        if any(f"output_blocks.{place}.{up}.weight" in tensors for up in ups)
    ]
    count = len(resampled) + 1
    blocks = len(places) // count - 1
    firsts = [level * (blocks + 1) + 1 for level in range(count)]
    widths = tuple(tensors[f"input_blocks.{k}.0.out_layers.3.weight"].shape[0] for k in firsts)
    attention = tuple(f"input_blocks.{k}.1.qkv.weight" in tensors for k in firsts)
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    wide = tensors["input_blocks.1.0.emb_layers.1.weight"].shape[0]
    by_block = f"input_blocks.{blocks + 1}.0.op.weight" not in tensors
    classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else 0
    options: dict[str, object] = {
        "widths": widths,
        "blocks": blocks,
        "attention": attention,
        "down": "block" if by_block else "conv",
        "up": "block" if by_block else "conv",
        "dropout": dropout,
        "scale_shift": wide == 2 * widths[0],
        "heads": given.get("heads", 1),
        "head_channels": given.get("head_channels"),
        "features": tensors["time_embed.0.weight"].shape[1],
        "sine_first": False,
        "shift": 0.0,
        "embedding_width": tensors["time_embed.0.weight"].shape[0],
        "out_channels": tensors["out.2.weight"].shape[0],
    }
    return format_spec("residual-unet", options), channels, classes


FAMILY = Family(
    "adm",
    lambda contents: contents.has("time_embed.0.weight", "input_blocks.0.0.weight"),
    read,
)
