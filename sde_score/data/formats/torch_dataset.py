"""Map-style data sets of torch, torchvision, `datasets` or users."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sde_score._core.errors import DataError, naming
from sde_score._core.progress import progress_bar
from sde_score.data.dataset import DataSet
from sde_score.data.limits import require_room
from sde_score.data.sources.base import few
from sde_score.data.sources.items import (
    Item,
    ItemConditions,
    Items,
    Names,
    drawn_by,
    item_of,
    together,
)
from sde_score.data.tensors import Channels, from_tensor, placed, with_labels
from sde_score.scaling import Scaling

_TRIED = 32  # items that tell whether reading draws random numbers
_KEPT = 1 << 30  # bytes of examples without random numbers that are read into memory
_MEASURED, _NUMBERS = (
    5000,
    1 << 26,
)  # examples, and numbers in them, that the scaling is measured on
_TOGETHER = 256  # items that are read at once


def from_torch(
    dataset: Any,
    scaling: Scaling | None = None,
    *,
    name: str | None = None,
    channels: Channels | None = None,
    example: str | None = None,
    label: str | None = None,
    frozen: bool | None = None,
) -> DataSet:
    """A map-style data set, whose items are read anew in every epoch where they are random.

    An item is an example, or a pair of an example and its label, or a vector or image that is its
    condition, or a dictionary of such and of labels; an example is a tensor, a NumPy array or a PIL
    image. An item that is a dictionary holds an example and perhaps a label, by their names. PIL
    images and uint8 are discrete with 256 levels; a transform that turns them into floats makes
    them continuous, so leave it out to measure bits per dimension. Class names are taken from the
    attribute `classes`, which the data sets of torchvision have.

    Random augmentations are drawn anew in every epoch of training. Before an item is read, torch,
    NumPy and Python are seeded by the seed of the run, the epoch and its number, so that a run
    resumes to the same bits; the caller's random numbers stay as they are. What is measured, held
    out and recognized is read under fixed random numbers.

    Args:
        dataset: has `__len__` and `__getitem__`, such as `torch.utils.data.Dataset`.
        scaling: as for `from_tensor`.
        name: of the data set, in reports; by default that of its class.
        channels: where they are in tensors and arrays, as for `from_tensor`.
        example: name of the example in items that are dictionaries; None for the one of its kind.
        label: name of the label in them; None for `"label"`, if there is one.
        frozen: True reads items once, into memory, random ones as they fall; False reads them when
            they are asked for. None reads once what draws no random numbers and takes less than
            1 GB.

    Raises:
        TypeError: if `dataset` is not map-style, or an item is something else.
        DataError: if it is empty or larger than the memory, examples differ in shape, or items draw
            from generators of their own where `frozen` is False.
    """
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; accepted: a map-style data set, with __len__ "
            "and __getitem__; from_stream takes what is read in one order"
        )
    if len(dataset) == 0:
        raise DataError("dataset holds no examples")
    name = name or type(dataset).__name__
    items = Items(dataset, Names(example, label))
    found = getattr(dataset, "classes", None) or _names_of_features(dataset, label or "label")
    classes = tuple(map(str, found)) if isinstance(found, (list, tuple)) else ()
    items.random, own = (False, False) if frozen else _draws(items)
    if own and frozen is False:
        raise DataError(f"{name} {_OWN}, or frozen=True, which reads it once")
    if own:
        warnings.warn(f"{name} {_OWN}; its items are read once and stay as they fell", stacklevel=3)
    large = len(items) * _first(items).example.nbytes > _KEPT
    if frozen or own or (frozen is None and not items.random and not large):
        return _in_memory(items, scaling, name, channels, classes)
    return _read_anew(items, scaling, name, channels, classes)


_OWN = (
    "gives other items under the same seed, from a generator of its own, so that it cannot be "
    "resumed exactly: draw by the functions of torch, numpy.random or random"
)


def _names_of_features(dataset: Any, label: str) -> Any:
    """Class names of a data set of `datasets`."""
    features = getattr(dataset, "features", None)
    return getattr(features.get(label), "names", None) if isinstance(features, Mapping) else None


def _draws(items: Items) -> tuple[bool, bool]:
    """Whether reading draws from the global generators, and whether it draws from others."""
    drawn = own = False
    for row in set(torch.linspace(0, len(items) - 1, min(_TRIED, len(items))).long().tolist()):
        one, drew = drawn_by(partial(_read, items, row), row)
        other, _ = drawn_by(partial(_read, items, row), row)
        drawn, own = drawn or drew, own or not _equal(one, other)
    return drawn, own


def _read(items: Items, row: int) -> Item:
    with naming(f"item {row}"):
        return item_of(items.dataset[row], items.names)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.shape, one.dtype) == (other.shape, other.dtype)
        return alike and bool(((one == other) | (one.isnan() & other.isnan())).all())
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[n], other[n]) for n in one)
    if isinstance(one, Item) and isinstance(other, Item):
        return all(map(_equal, one, other))
    return bool(one == other)


def _first(items: Items) -> Item:
    return items.items(torch.tensor([0]))[0]


def _in_memory(
    items: Items,
    scaling: Scaling | None,
    name: str,
    channels: Channels | None,
    classes: tuple[str, ...],
) -> DataSet:
    require_room(len(items) * _first(items).example.nbytes, "give frozen=False, or fewer examples")
    read: list[Item] = _all(items, f"reading {name}", lambda item: item)
    told = together([item.told for item in read])
    return from_tensor(
        torch.stack([item.example for item in read]),
        told if _is_label(read[0]) else None,
        scaling,
        name=name,
        class_names=classes if _is_label(read[0]) else (),
        condition=None if _is_label(read[0]) else told,
        channels=channels,
    )


def _read_anew(
    items: Items,
    scaling: Scaling | None,
    name: str,
    channels: Channels | None,
    classes: tuple[str, ...],
) -> DataSet:
    """Items that are read when they are asked for; some of them give the scaling."""
    size = max(1, math.prod(items.shape[1:]))
    rows = few(items, None, min(_MEASURED, max(2, _NUMBERS // size)))
    some = items.items(rows)
    label, told = _is_label(some[0]), together([item.told for item in some])
    examples = torch.stack([item.example for item in some])
    condition = None if label else told
    like = from_tensor(examples, None, scaling, name=name, condition=condition, channels=channels)
    place = partial(placed, channels=channels, levels=like.scaling.levels)
    items.placed(like.raw([0]), place)
    found = replace(like, _source=items)
    if label:
        return with_labels(found, _labels(items, rows, told, name), classes)
    if isinstance(told, dict):
        return _with_entries(found, items, told)
    conditions: Any = None if told is None else ItemConditions(items)
    return replace(found, conditions=conditions)


def _labels(items: Items, rows: Tensor, told: Tensor, name: str) -> Tensor:
    """Labels of all items: those in `targets`, as torchvision has them, where those that were read
    are the same."""
    targets: Any = getattr(items.dataset, "targets", None)
    if isinstance(targets, (list, Tensor)) and len(targets) == len(items):
        known = torch.as_tensor(targets)
        if known.dtype == told.dtype and torch.equal(known[rows], told):
            return known
    return torch.tensor(_all(items, f"reading labels of {name}", lambda item: item.told))


def _with_entries(found: DataSet, items: Items, told: dict[str, Any]) -> DataSet:
    """With a dictionary of conditions: labels in memory, others as they are read."""
    whole = [name for name, value in told.items() if value.ndim == 1]
    rest = [name for name in told if name not in whole]
    conditions: dict[str, Any] = {name: ItemConditions(items, name) for name in rest}
    shape: Any = dict(found.condition_shape)  # type: ignore[arg-type]
    if whole:
        read = _all(items, f"reading labels of {found.name}", lambda item: _only(item, whole))
        for name in whole:
            conditions[name] = torch.tensor([each[name] for each in read])
            shape[name] = int(conditions[name].max()) + 1
    return replace(found, conditions=conditions, condition_shape=shape)


def _is_label(item: Item) -> bool:
    return isinstance(item.told, int)


def _only(item: Item, names: list[str]) -> Any:
    told: Any = item.told
    return {name: told[name] for name in names}


def _all(items: Items, what: str, take: Callable[[Item], Any]) -> list[Any]:
    """Something of every item."""
    found: list[Any] = []
    with progress_bar(total=len(items), name=what, unit="item") as bar:
        for rows in torch.split(torch.arange(len(items)), _TOGETHER):
            found += map(take, items.items(rows))
            bar.update(len(rows))
    return found
