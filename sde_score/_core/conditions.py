"""Conditions: what a network is told beside x and the noise level, and the shapes they have.

A condition is one tensor with an entry per example, or a dictionary of named ones. Integers of
shape `(batch,)` are classes, with -1 for none; floating-point numbers of shape `(batch, n)` are
vectors and those of shape `(batch, channels, *sides)` images, with NaN in an example for none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import class_of, is_integer, plain, require_count, require_shape
from sde_score._core.errors import ArgumentError

Condition: TypeAlias = Tensor | Mapping[str, Tensor] | None

ConditionShape: TypeAlias = tuple[int, ...] | Mapping[str, int | tuple[int, ...]]
"""What an example's condition is like: the shape of a vector or image, empty for none; or a
dictionary from names to such shapes and, for classes, to their number."""

NO_CLASS = -1
"""Label of an example without a class."""

END = "end_noise_level"
"""The entry that tells a flow map where it goes: log(sigma / alpha) / 4 of the end, `(batch,)`."""

OBSERVED = "observed"
"""The entry that tells which entries of x are there, of zeros and ones in its shape."""

BESIDE = ("augment", "estimate", OBSERVED, END)
"""Entries of dictionaries that training, samplers and flow maps add themselves."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def mapped(condition: Condition, change: Callable[[Tensor], Tensor]) -> Condition:
    """A condition with every tensor in it changed; None stays None."""
    if isinstance(condition, Mapping):
        return {name: change(value) for name, value in condition.items()}
    return None if condition is None else change(condition)


def is_entries(values: Mapping[str, Any], shape: ConditionShape) -> bool:
    """Whether a dictionary holds the entries of a condition of this shape, as tensors or arrays."""
    arrays = all(isinstance(value, (Tensor, np.ndarray)) for value in values.values())
    return isinstance(shape, Mapping) and set(values) == set(shape) and arrays


def rows_of(condition: Condition, rows: Tensor | slice) -> Condition:
    """The condition of some examples; None stays None."""
    return mapped(condition, lambda value: value[rows])


def tensors_of(condition: object) -> list[Tensor]:
    """The tensors of a condition."""
    values = condition.values() if isinstance(condition, Mapping) else [condition]
    return [value for value in values if isinstance(value, Tensor)]


def absent(value: Tensor) -> Tensor:
    """Which examples have no condition, shape `(batch,)`: labels of -1, or NaN anywhere."""
    return value.isnan().flatten(1).any(1) if value.is_floating_point() else value == NO_CLASS


def nothing_like(value: Tensor) -> Tensor:
    """A condition of the same shape that says none for every example."""
    return torch.full_like(value, torch.nan if value.is_floating_point() else NO_CLASS)


def require_condition_shape(shape: ConditionShape) -> ConditionShape:
    """Refuse what declares no conditions; return it with plain integers, tuples and dictionaries.

    Raises:
        TypeError: for something else than integers.
        ValueError: for sizes below 1, no names, or names that are taken or no words.
    """
    if not isinstance(shape, Mapping):
        return require_shape("condition_shape", shape, "the shape of one condition, such as (3,)")
    if not shape:
        raise ValueError("condition_shape={} has no names: leave it out for no condition")
    found: dict[str, int | tuple[int, ...]] = {}
    for name, kind in shape.items():
        if not isinstance(name, str) or not name.isidentifier() or name in BESIDE:
            raise ValueError(
                f"{name!r} cannot name a condition: take a word of letters, digits and "
                f"underscores, other than {', '.join(BESIDE[:-1])} and {BESIDE[-1]}"
            )
        title = f"condition_shape[{name!r}]"
        given: Any = kind
        if is_integer(given):
            require_count(**{title: given})
            found[name] = int(plain(given))
        elif size := require_shape(title, given, "or the number of classes"):
            found[name] = size
        else:
            raise ValueError(f"{title}=() must be a shape such as (3,), or a number of classes")
    return found


def require_one_kind(num_classes: int, shape: ConditionShape) -> None:
    """Refuse classes and other conditions outside of one dictionary.

    Raises:
        ValueError: with the dictionary that holds both.
    """
    if num_classes and shape:
        raise ValueError(
            f"num_classes={num_classes} and condition_shape={shape}: give one, or a dictionary, as "
            "condition_shape={'label': 10, 'vector': (3,)}"
        )


def require_condition(condition: Condition, shape: ConditionShape, batch: int) -> None:
    """Refuse a condition of other names, kinds or shapes than were declared.

    None, and a name that a dictionary lacks, mean none for the whole batch.

    Args:
        condition: to look at.
        shape: as it was declared.
        batch: number of examples.

    Raises:
        TypeError: for a tensor of another kind.
        ValueError: for another shape or name.
    """
    if not isinstance(shape, Mapping):
        if isinstance(condition, Mapping):
            require_names(condition, {"condition": shape})
            condition = condition.get("condition")
        if condition is not None:
            require_entry("condition", condition, shape, batch)
        return
    if condition is None:
        return
    if not isinstance(condition, Mapping):
        raise ArgumentError(
            f"condition is {class_of(condition)}; accepted: a dictionary of {described(shape)}"
        )
    require_names(condition, shape)
    for name, kind in shape.items():
        if name in condition:
            require_entry(f"condition[{name!r}]", condition[name], kind, batch)


def require_names(condition: Mapping[str, Tensor], shape: Mapping[str, object]) -> None:
    """Refuse a dictionary with names that were not declared.

    Raises:
        ValueError: with the names that were.
    """
    unknown = [name for name in condition if name not in shape and name not in BESIDE]
    if unknown:
        raise ValueError(
            f"condition has {', '.join(map(repr, unknown))}; accepted: {', '.join(shape) or 'none'}"
        )


def described(shape: ConditionShape) -> str:
    """What was declared, for messages."""
    if not isinstance(shape, Mapping):
        return f"{_kind(shape)}s of shape {tuple(shape)}" if shape else "none"
    parts = [
        f"{name} (0 ... {kind - 1})" if isinstance(kind, int) else f"{name} {kind}"
        for name, kind in shape.items()
    ]
    return ", ".join(parts)


def require_entry(name: str, value: Tensor, kind: int | tuple[int, ...], batch: int) -> None:
    """Refuse a tensor that is no condition of a kind.

    Args:
        name: of the argument.
        value: to look at.
        kind: number of classes, or shape of one vector or image.
        batch: number of examples.

    Raises:
        TypeError: for anything but integers, or floating-point numbers.
        ValueError: for another shape, or labels out of range (looked at on the CPU alone).
    """
    if isinstance(kind, int):
        require_labels(value, batch, kind, name)
        return
    what = _kind(kind)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ArgumentError(
            f"{name} must be a floating-point tensor of {what}s in model range, got "
            f"{class_of(value)}"
        )
    if tuple(value.shape) != (batch, *kind):
        raise ValueError(
            f"{name} of shape {tuple(value.shape)} must have one {what} per example, shape "
            f"{(batch, *kind)}"
        )


def _kind(shape: tuple[int, ...]) -> str:
    return "vector" if len(shape) == 1 else "image"


def require_labels(labels: Tensor, batch: int, num_classes: int, name: str = "condition") -> Tensor:
    """Refuse anything but one label per example; return the labels as int64.

    Args:
        labels: to look at.
        batch: number of examples.
        num_classes: number of classes.
        name: of the argument.

    Raises:
        TypeError: if the labels are no integers.
        ValueError: for a wrong shape, or labels out of range, looked at on the CPU alone.
    """
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        raise ArgumentError(
            f"{name} must be a tensor of integer labels, got {class_of(labels)}"
            + _fix(labels, batch, num_classes, name)
        )
    if tuple(labels.shape) != (batch,):
        raise ValueError(
            f"{name} of shape {tuple(labels.shape)} must have one label per example, "
            f"shape {(batch,)}{_fix(labels, batch, num_classes, name)}"
        )
    labels = labels.long()
    may_look = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if may_look and ((labels < NO_CLASS) | (labels >= num_classes)).any():
        raise ValueError(
            f"{name} has labels from {labels.min()} to {labels.max()}; accepted: "
            f"0 ... {num_classes - 1}, and {NO_CLASS} for no class"
        )
    return labels


def _fix(labels: object, batch: int, num_classes: int, name: str) -> str:
    """How what came becomes labels, where it can."""
    if is_integer(labels):
        return f": try torch.full(({batch},), {labels})"
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "iu":
        return f": try torch.from_numpy({name})"
    if isinstance(labels, (list, tuple)):
        return f": try torch.tensor({name})"
    if not isinstance(labels, Tensor):
        return ""
    if labels.shape == (batch, num_classes):
        return f", which is one-hot: try {name}.argmax(1)"
    if labels.ndim == 0:
        return f": try {name}.expand({batch})"
    if labels.shape == (batch, 1):
        return f": try {name}[:, 0]"
    return f": try {name}.long()" if labels.dtype not in INTEGERS else ""
