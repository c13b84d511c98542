"""Checkpoints of the trainers of NCSN and DDIM: lists of what is needed to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score.interop.files import Contents
from sde_score.training.errors import CheckpointError


def raw_state(contents: Contents) -> Mapping[str, Tensor]:
    """The trained weights: of a bare state, or the first entry of a list; empty for others."""
    if contents.tensors:
        return contents.tensors
    content = contents.content
    first = content[0] if isinstance(content, (list, tuple)) and content else None
    if isinstance(first, Mapping) and all(isinstance(v, Tensor) for v in first.values()):
        return first
    return {}


def chosen_state(contents: Contents, weights: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name without `module.`, and what else the file says.

    Args:
        contents: of a bare state, or of the list [state, optimizer, epoch, step, average].
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
    facts = {"weights": weights, "epoch": _entry(content, 2), "step": _entry(content, 3)}
    if weights == "raw":
        return state, facts
    average = _entry(content, 4)
    if not isinstance(average, Mapping):
        raise ValueError("the file holds no average of the weights: take weights='raw'")
    ema = _bare(average)
    fits = all(
        name in state and isinstance(value, Tensor) and value.shape == state[name].shape
        for name, value in ema.items()
    )
    if not fits or not ema:
        raise CheckpointError(
            "the average in the file is not of the weights beside it: the file is damaged; take "
            "weights='raw'"
        )
    return state | ema, facts


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _entry(content: Any, place: int) -> Any:
    return content[place] if len(content) > place else None
