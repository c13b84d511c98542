"""Map-style data sets of torch, torchvision or users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sde_score._core.errors import DataError, naming
from sde_score._core.progress import progress_bar
from sde_score.data.dataset import DataSet
from sde_score.data.formats.images import from_pil
from sde_score.data.limits import require_room
from sde_score.data.tensors import Channels, from_tensor
from sde_score.scaling import Scaling

Told: TypeAlias = int | Tensor | dict[str, int | Tensor]


def from_torch(
    dataset: Any,
    scaling: Scaling | None = None,
    *,
    name: str | None = None,
    channels: Channels | None = None,
) -> DataSet:
    """Read a map-style data set once, into memory.

    An item is an example, or a pair of an example and its label, or a vector or image that is its
    condition, or a dictionary of such and of labels; an example is a tensor, a NumPy array or a PIL
    image. Random augmentations are frozen as they fall. PIL images and uint8 are discrete with 256
    levels; a transform that turns them into floats makes them continuous, so leave it out to
    measure bits per dimension. Class names are taken from the attribute `classes`, which the data
    sets of torchvision have.

    Args:
        dataset: has `__len__` and `__getitem__`, such as `torch.utils.data.Dataset`.
        scaling: as for `from_tensor`.
        name: of the data set, in reports; by default that of its class.
        channels: where they are in tensors and arrays, as for `from_tensor`.

    Raises:
        TypeError: if `dataset` is not map-style, or an item is something else.
        DataError: if it is empty or larger than the memory, or examples differ in shape.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; accepted: a map-style data set, with __len__ "
            "and __getitem__, so collect a stream into a list first"
        )
    if len(dataset) == 0:
        raise DataError("dataset holds no examples")
    name = name or type(dataset).__name__
    examples: list[Tensor] = []
    labels: list[Told] = []
    for i in progress_bar(range(len(dataset)), name=f"reading {name}", unit="item"):
        with naming(f"item {i}"):
            example, label = _item(dataset[i])
            _require_alike(example, label, examples, labels)
        if i == 0:
            require_room(len(dataset) * example.nbytes, "give fewer or smaller examples")
        examples.append(example)
        labels += [] if label is None else [label]
    whole = [label for label in labels if isinstance(label, int)]
    names = getattr(dataset, "classes", None) if whole else None
    return from_tensor(
        torch.stack(examples),
        torch.tensor(whole) if whole else None,
        scaling,
        name=name,
        class_names=tuple(map(str, names)) if isinstance(names, (list, tuple)) else (),
        condition=None if whole or not labels else _together(labels),
        channels=channels,
    )


def _together(told: list[Any]) -> Any:
    """The conditions of all examples, by name where they have names."""
    if isinstance(told[0], dict):
        return {name: _together([each[name] for each in told]) for name in told[0]}
    return torch.tensor(told) if isinstance(told[0], int) else torch.stack(told)


def _item(item: Any) -> tuple[Tensor, Told | None]:
    if isinstance(item, (tuple, list)):
        if not 1 <= len(item) <= 2:
            raise DataError(
                f"has {len(item)} parts; accepted: an example, or an example and a label"
            )
        label = None if len(item) == 1 else _label(item[1])
        return _example(item[0]), label
    return _example(item), None


def _example(example: Any) -> Tensor:
    if isinstance(example, Tensor):
        return example
    if isinstance(example, np.ndarray):
        return torch.as_tensor(example)
    if hasattr(example, "getexif"):  # what every PIL image has, without importing PIL
        return from_pil(example)
    raise TypeError(
        f"an example is a {type(example).__name__}; "
        "accepted: a tensor, a NumPy array or a PIL image"
    )


def _label(label: Any) -> Told:
    if isinstance(label, Mapping):
        return {name: _entry(value) for name, value in label.items()}
    return _entry(label)


def _entry(label: Any) -> int | Tensor:
    if isinstance(label, np.ndarray) and label.ndim and label.dtype.kind in "fu":
        label = torch.as_tensor(label)
    if hasattr(label, "getexif"):
        return from_pil(label)
    floating = isinstance(label, Tensor) and (label.is_floating_point() or label.ndim > 1)
    if isinstance(label, Tensor) and label.ndim and floating:
        return label
    if isinstance(label, (Tensor, np.ndarray)) and label.ndim:
        raise TypeError(
            f"a condition has shape {tuple(label.shape)} of {label.dtype}; accepted: an integer "
            "label, a vector of floating-point numbers, an image, or a dictionary of them"
        )
    value = label.item() if hasattr(label, "item") else label
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"label={value!r} must be an integer")
    return value


def _require_alike(
    example: Tensor, label: Told | None, examples: list[Tensor], labels: list[Told]
) -> None:
    if examples and (example.shape, example.dtype) != (examples[0].shape, examples[0].dtype):
        raise DataError(
            f"is {tuple(example.shape)} of {example.dtype} where the first is "
            f"{tuple(examples[0].shape)} of {examples[0].dtype}"
        )
    if examples and (label is None) != (not labels):
        raise DataError("has a label where others have none, or the other way round")
    if labels and label is not None and _kind(label) != _kind(labels[0]):
        raise DataError(f"has {_kind(label)} where the first has {_kind(labels[0])}")


def _kind(label: Told) -> str:
    if isinstance(label, dict):
        return ", ".join(f"{name}: {_kind(label[name])}" for name in sorted(label))
    if not isinstance(label, Tensor):
        return "a label"
    what = "a vector" if label.ndim == 1 else "an image"
    return f"{what} of {label.dtype} and shape {tuple(label.shape)}"
