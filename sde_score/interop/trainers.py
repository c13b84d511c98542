"""Weights in the checkpoints of the trainers of score_sde, NCSNv2 and DDIM, and their averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score.interop.files import Contents
from sde_score.training.errors import CheckpointError

UNTRAINED = ("sigmas", "all_modules.0.W")
"""Names that no average has: noise levels, and frequencies that were drawn once."""


def raw_state(contents: Contents) -> Mapping[str, Tensor]:
    """The trained weights; empty for other files.

    They are a bare state, the first entry of a list (NCSNv2, DDIM), or `model` (score_sde).

    Args:
        contents: of a file.
    """
    if contents.tensors:
        return contents.tensors
    content = contents.content
    if isinstance(content, Mapping):
        found = content.get("model")
    else:
        found = content[0] if isinstance(content, (list, tuple)) and content else None
    if isinstance(found, Mapping) and all(isinstance(v, Tensor) for v in found.values()):
        return found
    return {}


def chosen_state(contents: Contents, weights: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name without `module.`, and what else the file says.

    Args:
        contents: of a bare state, of the list [state, optimizer, epoch, step, average], or of the
            dictionary {model, ema, step}.
        weights: `"ema"`, the average where the file has one, or `"raw"`.

    Raises:
        ValueError: for other weights, or the average of a file without one.
        CheckpointError: for an average of other weights.
    """
    require_choice("weights", weights, ("ema", "raw"))
    state = _bare(raw_state(contents))
    if contents.tensors:
        return state, {"weights": "the only ones of the file"}
    content: Any = contents.content
    if isinstance(content, Mapping):
        facts = {"weights": weights, "step": content.get("step")}
        average = content.get("ema")
        if isinstance(average, Mapping):
            facts["ema_decay"] = average.get("decay")
            average = average.get("shadow_params")
    else:
        facts = {"weights": weights, "epoch": _entry(content, 2), "step": _entry(content, 3)}
        average = _entry(content, 4)
    if weights == "raw":
        return state, facts
    if average is None:
        raise ValueError("the file holds no average of the weights: take weights='raw'")
    return state | _average(state, average), facts


def side_of_images(
    family: str, image_size: int | None, preset: str | None, presets: Mapping[str, int]
) -> int:
    """The side of the images of a network, which weights do not say.

    Args:
        family: name of the network, for the message.
        image_size: what was asked for, if anything.
        preset: data of a published file, if it is one.
        presets: sides by the data of published files.

    Raises:
        ValueError: for an unknown preset, or if neither is given.
    """
    if preset is not None:
        require_choice("preset", preset, tuple(presets))
        image_size = presets[preset] if image_size is None else image_size
    if image_size is None:
        raise ValueError(
            f"weights of {family} do not say image_size: give it, or preset=..., one of "
            + ", ".join(presets)
        )
    return image_size


def _average(state: Mapping[str, Tensor], average: Any) -> dict[str, Tensor]:
    """The average by name; score_sde's has the order of the trained weights and no names.

    Raises:
        CheckpointError: if it is not of these weights.
    """
    trained = [name for name in state if name not in UNTRAINED]
    named: dict[str, Any] = {}
    if isinstance(average, Mapping):
        named = _bare(average)
    elif isinstance(average, Sequence) and len(average) == len(trained):
        named = dict(zip(trained, average, strict=True))
    fits = bool(named) and all(
        name in state and isinstance(value, Tensor) and value.shape == state[name].shape
        for name, value in named.items()
    )
    if not fits:
        raise CheckpointError(
            f"the average in the file is not of the {len(trained)} trained weights beside it, in "
            "their order and shapes: the file is damaged, or was written by other code; take "
            "weights='raw'"
        )
    return named


def _bare(state: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _entry(content: Any, place: int) -> Any:
    return content[place] if len(content) > place else None
