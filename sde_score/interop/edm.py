"""EDM: pickles of SongUNet and DhariwalUNet in any of EDM's preconditionings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sde_score._core.checks import is_integer
from sde_score._core.registry import format_spec
from sde_score.interop import unets
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import Taken, outline
from sde_score.interop.pickles import Recorded
from sde_score.models.time_labels import iddpm_levels
from sde_score.sdes import EDM
from sde_score.training.errors import CheckpointError

HALF = 0.5**0.5
SIGMA_DATA = 0.5
SAMPLED = (0.002, 80.0)
"""Noise levels between which EDM samples, where a network goes as far."""

PLACES = ("img_resolution", "img_channels", "label_dim", "use_fp16")
SONG: dict[str, Any] = {
    "augment_dim": 0,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.10,
    "label_dropout": 0,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}
"""Defaults of SongUNet."""

DHARIWAL: dict[str, Any] = {
    "augment_dim": 0,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_emb": 4,
    "num_blocks": 3,
    "attn_resolutions": [32, 16, 8],
    "dropout": 0.10,
    "label_dropout": 0,
}
"""Defaults of DhariwalUNet."""

PRECONDITIONINGS: dict[str, dict[str, Any]] = {
    "EDMPrecond": {
        "sigma_min": 0,
        "sigma_max": math.inf,
        "sigma_data": SIGMA_DATA,
        "model_type": "DhariwalUNet",
    },
    "VPPrecond": {
        "beta_d": 19.9,
        "beta_min": 0.1,
        "M": 1000,
        "epsilon_t": 1e-5,
        "model_type": "SongUNet",
    },
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100, "model_type": "SongUNet"},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000, "model_type": "DhariwalUNet"},
}
"""Defaults of the preconditionings, by the names of their classes."""


def network_of(content: Any, weights: str = "ema") -> Recorded | None:
    """The network of a pickle of EDM or EDM2: the object itself, or an entry of a snapshot.

    Args:
        content: of the file.
        weights: name of the entry.
    """
    found = content.get(weights) if isinstance(content, Mapping) else content
    return found if isinstance(found, Recorded) else None


def read(contents: Contents, weights: str = "ema") -> Imported:
    """A network of EDM.

    Args:
        contents: of a pickle.
        weights: name of the entry of a snapshot.

    Raises:
        ValueError: if there is no such entry.
        CheckpointError: for a class that is not known, or weights that do not fit.
    """
    network = network_of(contents.content, weights)
    if network is None:
        names = list(contents.content) if isinstance(contents.content, Mapping) else []
        raise ValueError(f"weights={weights!r} is no network of the file, which holds {names}")
    if network.name not in PRECONDITIONINGS:
        raise CheckpointError(
            f"{contents.path} holds a network of class {network.name!r}; known are "
            + ", ".join(PRECONDITIONINGS)
        )
    given = {"label_dim": 0, **PRECONDITIONINGS[network.name], **network.arguments(PLACES)}
    side, channels, classes = (_count(given, key, label="label" in key) for key in PLACES[:3])
    spec = _spec(network.name, given, side, channels, classes)
    sde, prediction, sigma_data = _diffusion(network.name, given)
    taken = Taken(network.tensors())
    if network.name == "iDDPMPrecond":
        taken("u")
    event_shape = (channels, side, side)
    notes = [f"noise levels are those from which EDM samples, {sde.t_min:g} to {sde.t_max:g}"]
    if given.get("use_fp16"):
        notes.append("it was evaluated in half precision (use_fp16); here in that of its weights")
    state = unets.edm(outline(spec, event_shape, classes), taken, "model.")
    taken.refuse_left()
    return Imported(
        "edm",
        spec,
        event_shape,
        sde,
        prediction,
        state,
        sigma_data,
        images(),
        num_classes=classes,
        needs_condition=classes > 0 and not given.get("label_dropout"),
        notes=tuple(notes),
        facts={"class": network.name, "network": given["model_type"]},
    )


def _count(given: Mapping[str, Any], key: str, label: bool = False) -> int:
    value: Any = given.get(key)
    if not is_integer(value) or not (0 if label else 1) <= value <= 2**20:
        raise CheckpointError(f"the network was constructed with {key}={value!r}")
    return int(value)


def _diffusion(name: str, given: Mapping[str, Any]) -> tuple[EDM, str, float]:
    """The SDE, the parametrization on it, and the standard deviation of the data.

    Raises:
        CheckpointError: for numbers out of range.
    """
    low, high, sigma_data = SAMPLED[0], SAMPLED[1], SIGMA_DATA
    try:
        if name == "VPPrecond":
            start, slope = float(given["beta_min"]), float(given["beta_d"])
            ends = [math.expm1(t * t * slope / 2 + t * start) for t in (given["epsilon_t"], 1)]
            low, high = (math.sqrt(end) for end in ends)
            options = {
                "beta_min": start,
                "beta_max": start + slope,
                "factor": float(given["M"] - 1),
            }
            prediction = format_spec("edm-vp", options)
        elif name == "iDDPMPrecond":
            options = {"c1": float(given["C_1"]), "c2": float(given["C_2"]), "n": given["M"]}
            levels = iddpm_levels(options["c1"], options["c2"], _count(given, "M"))
            low, high = float(levels[-2]), float(levels[0])
            prediction = format_spec("iddpm", options)
        else:
            low, high = float(given["sigma_min"]), float(given["sigma_max"])
            sigma_data = float(given.get("sigma_data", SIGMA_DATA))
            prediction = "edm" if name == "EDMPrecond" else "edm-ve"
        return EDM(max(low, SAMPLED[0]), min(high, SAMPLED[1])), prediction, sigma_data
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{name} has numbers out of range: {error}") from error


def _spec(name: str, given: Mapping[str, Any], side: int, channels: int, classes: int) -> str:
    """Our spec of the network.

    Raises:
        CheckpointError: for options that are not known here.
    """
    kind = given["model_type"]
    if kind not in ("SongUNet", "DhariwalUNet"):
        raise CheckpointError(
            f"the network is {kind!r}; known here are 'SongUNet' and 'DhariwalUNet'"
        )
    defaults = SONG if kind == "SongUNet" else DHARIWAL
    of_precond = {*PRECONDITIONINGS[name], *PLACES}
    foreign = sorted(set(given) - set(defaults) - of_precond)
    if foreign:
        raise CheckpointError(f"{kind} was constructed with {foreign}, which is not known here")
    model = {**defaults, **{key: given[key] for key in given if key in defaults}}
    base = _count(model, "model_channels")
    lists = (model["channel_mult"], model["attn_resolutions"])
    if not all(isinstance(one, Sequence) and all(map(is_integer, one)) for one in lists):
        raise CheckpointError(f"{kind} was constructed with lists of other things than integers")
    widths = tuple(base * multiplier for multiplier in model["channel_mult"])
    attends = [side >> level in model["attn_resolutions"] for level in range(len(widths))]
    options: dict[str, Any] = {
        "widths": widths,
        "blocks": _count(model, "num_blocks"),
        "dropout": float(model["dropout"]),
        "channels_per_group": 4,
        "num_augment": _count(model, "augment_dim", label=True),
        "embedding_width": base * _count(model, "channel_mult_emb"),
        "out_channels": 2 * channels if name == "iDDPMPrecond" else channels,
    }
    return format_spec(
        "residual-unet",
        options
        | (
            _song(model, base, attends, classes)
            if defaults is SONG
            else _adm(base, widths, attends)
        ),
    )


def _song(model: Mapping[str, Any], base: int, attends: list[bool], classes: int) -> dict[str, Any]:
    """Options of a SongUNet."""
    choices = {
        "embedding_type": ("positional", "fourier"),
        "encoder_type": ("standard", "skip", "residual"),
        "decoder_type": ("standard", "skip"),
    }
    for key, accepted in choices.items():
        if model[key] not in accepted:
            raise CheckpointError(f"SongUNet has {key}={model[key]!r}; known are {accepted}")
    taps = list(model["resample_filter"])
    if taps not in ([1, 1], [1, 3, 3, 1]):
        raise CheckpointError(
            f"SongUNet has resample_filter={taps}; known are [1, 1], [1, 3, 3, 1]"
        )

    def branch(key: str) -> str | None:
        return None if model[key] == "standard" else str(model[key])

    return {
        "attention": tuple(attends),
        "up_attention": "last",
        "eps": 1e-6,
        "scale": HALF,
        "fir": taps == [1, 3, 3, 1],
        "projects_resampled": True,
        "embedding": model["embedding_type"],
        "features": base * _count(model, "channel_mult_noise"),
        "stem_width": base,
        "class_first": True,
        "class_bias": True,
        "class_scale": max(1, classes) ** 0.5,
        "input_branch": branch("encoder_type"),
        "output_branch": branch("decoder_type"),
    }


def _adm(base: int, widths: tuple[int, ...], attends: list[bool]) -> dict[str, Any]:
    """Options of a DhariwalUNet, which has no attention over fewer channels than a head has."""
    pairs = zip(widths, attends, strict=True)
    return {
        "attention": tuple(wanted and width >= 64 for width, wanted in pairs),
        "middle_attention": widths[-1] >= 64,
        "scale_shift": True,
        "head_channels": 64,
        "features": base,
        "sine_first": False,
        "shift": 0.0,
    }


def _recognizes(contents: Contents) -> bool:
    network = network_of(contents.content)
    if network is None and isinstance(contents.content, Mapping):
        found = [one for one in contents.content.values() if isinstance(one, Recorded)]
        return any(one.name in PRECONDITIONINGS for one in found)
    return network is not None and network.name in PRECONDITIONINGS


FAMILY = Family("edm", _recognizes, read)
