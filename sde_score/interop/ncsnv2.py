"""NCSNv2: checkpoints of its RefineNets of three sizes, `.pth` of ncsnv2."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from sde_score._core.registry import format_spec
from sde_score.interop.files import Contents
from sde_score.interop.imported import Family, Imported, images
from sde_score.interop.keys import fitted, sketch
from sde_score.interop.trainers import chosen_state, raw_state, side_of_images
from sde_score.sdes import VE
from sde_score.training.errors import CheckpointError

PRESETS: dict[str, int] = {
    "cifar10": 32,
    "celeba": 64,
    "church": 96,
    "bedroom": 128,
    "tower": 128,
    "ffhq": 256,
}
"""Side of the images of published files, by the names of their configurations."""

LEVELS = ("1", "2", "3", "31", "4", "5")
"""Numbers in the names of the levels, finest first; and of their refinements, coarsest first."""

_RULES = (
    (r"begin_conv\.(.*)", "stem.{0}"),
    (r"normalizer\.(.*)", "norm.{0}"),
    (r"end_conv\.(.*)", "head.{0}"),
    (r"res(\d+)\.(\d)\.normalize(\d)\.(.*)", "levels.{level}.{1}.norm{2}.{3}"),
    (r"res(\d+)\.(\d)\.(conv\d|shortcut)\.(?:conv\.)?(.*)", "levels.{level}.{1}.{2}.{3}"),
    (
        r"refine(\d+)\.adapt_convs\.(\d)\.(\d)_(\d)_conv\.(.*)",
        "refine.{refined}.inputs.{1}.{unit2}.{unit3}.{4}",
    ),
    (
        r"refine(\d+)\.output_convs\.(\d)_(\d)_conv\.(.*)",
        "refine.{refined}.outputs.{unit1}.{unit2}.{3}",
    ),
    (r"refine(\d+)\.msf\.convs\.(\d)\.(.*)", "refine.{refined}.join.{1}.{2}"),
    (r"refine(\d+)\.crp\.convs\.(\d)\.(.*)", "refine.{refined}.chain.{1}.{2}"),
)
"""Their names to ours; units count from one there and from zero here."""


def read(
    contents: Contents,
    preset: str | None = None,
    weights: str = "ema",
    image_size: int | None = None,
    rescaled: bool = False,
) -> Imported:
    """A network of NCSNv2.

    Args:
        contents: see `chosen_state`.
        preset: data of a published file, in `PRESETS`, which says the size of the images.
        weights: `"ema"`, the average, or `"raw"`.
        image_size: side of the images.
        rescaled: whether it was trained on images in [-1, 1] (`rescaled` of its configuration);
            the published ones were trained in [0, 1].

    Raises:
        ValueError: for an unknown preset, or without the size of the images.
        CheckpointError: if the weights do not fit.
    """
    image_size = side_of_images("NCSNv2", image_size, preset, PRESETS)
    state, facts = chosen_state(contents, weights)
    if any(".embed." in name for name in state):
        raise CheckpointError(
            "the network is told its noise level by its normalizations, as that of NCSN (2019); "
            "known here is NCSNv2 (2020)"
        )
    sigmas = state.pop("sigmas", None)
    if sigmas is None or sigmas.ndim != 1 or not bool((sigmas.diff() < 0).all() and sigmas[-1] > 0):
        raise CheckpointError("the checkpoint has no decreasing noise levels 'sigmas'")
    spec, channels = _spec(state)
    event_shape = (channels, image_size, image_size)
    ours = fitted(sketch(spec, event_shape), _renamed(state))
    unit = 1.0 if rescaled else 2.0
    notes = ("images in [-1, 1] are taken as asked for",)
    if not rescaled:
        notes = (
            "the noise levels of the file are of images in [0, 1], as published; here images are "
            "in [-1, 1] and noise levels twice as large",
        )
    return Imported(
        "ncsnv2",
        spec,
        event_shape,
        VE(unit * float(sigmas[-1]), unit * float(sigmas[0])),
        format_spec("score-sde-ve", {"unit_level": unit}),
        ours,
        scaling=images(),
        notes=notes,
        facts={**facts, "noise_levels": len(sigmas)},
    )


def _levels(state: Mapping[str, Tensor]) -> list[str]:
    """Numbers in the names of the levels, finest first."""
    return [number for number in LEVELS if f"res{number}.0.conv1.weight" in state]


def _spec(state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Spec of the network and channels of the images.

    Raises:
        CheckpointError: if tensors are missing.
    """
    try:
        base, channels = state["begin_conv.weight"].shape[:2]
        numbers = _levels(state)
        widths = [state[f"res{number}.1.conv1.weight"].shape[0] for number in numbers]
        # A level whose first convolutions are not within a mean over pixels is dilated.
        pooled = [f"res{number}.0.conv2.conv.weight" in state for number in numbers]
    except (LookupError, ValueError) as error:
        raise CheckpointError(
            f"the layers are not those of NCSNv2: the file is truncated ({error})"
        ) from error
    if len(numbers) < 2 or any(width % base for width in widths):
        raise CheckpointError(f"the levels of the network have {widths} channels")
    dilations, dilation = [1], 1
    for pools in pooled[1:]:
        dilation = 1 if pools else 2 * dilation
        dilations.append(dilation)
    options = {
        "base": base,
        "multipliers": tuple(width // base for width in widths),
        "dilations": tuple(dilations),
    }
    return format_spec("refinenet", options), channels


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state by our names.

    Raises:
        CheckpointError: for a name that no NCSNv2 has.
    """
    numbers = _levels(state)
    renamed = {}
    for name, value in state.items():
        for pattern, ours in _RULES:
            found = re.fullmatch(pattern, name)
            if found is None:
                continue
            place = numbers.index(found[1]) if found[1] in numbers else -1
            groups = {"level": place, "refined": len(numbers) - 1 - place}
            groups |= {f"unit{k}": int(n) - 1 for k, n in enumerate(found.groups()) if n.isdigit()}
            renamed[ours.format(*found.groups(), **groups)] = value
            break
        else:
            raise CheckpointError(f"{name!r} is no tensor of an NCSNv2 network")
    return renamed


def _recognizes(contents: Contents) -> bool:
    names = {str(name).removeprefix("module.") for name in raw_state(contents)}
    return "begin_conv.weight" in names and any(name.startswith("refine1.") for name in names)


FAMILY = Family("ncsnv2", _recognizes, read)
