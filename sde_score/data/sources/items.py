"""Items of others: what a map-style data set or a stream hands out, as examples and conditions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score.data.decoding import decode, from_pil
from sde_score.data.sources.base import Rows
from sde_score.random import mix

Told: TypeAlias = int | Tensor | dict[str, int | Tensor] | None
"""What is told of an example: a label, a vector or image, a dictionary of these, or nothing."""

_NUMPY = (1 << 32) - 1  # seeds of NumPy have 32 bits


class Item(NamedTuple):
    """An example, shape `event`, and what is told of it."""

    example: Tensor
    told: Told


class Names(NamedTuple):
    """Names of the entries of items that are dictionaries; None where they are found by kind."""

    example: str | None = None
    label: str | None = None


@contextmanager
def drawing_apart() -> Iterator[Callable[[int], None]]:
    """While code of others is run: its random numbers are not those of the caller.

    Yields:
        a function that seeds the global generators of torch, NumPy and Python, which are as they
        were after the block.
    """
    before = _generators()
    try:
        yield _seed
    finally:
        torch.default_generator.set_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])


def _generators() -> tuple[Tensor, Any, Any]:
    """The states of the global generators of torch, NumPy and Python."""
    numpy = np.random.get_state()  # noqa: NPY002 - it is what code of others draws from
    return torch.default_generator.get_state(), numpy, random.getstate()


def _seed(number: int) -> None:
    torch.default_generator.manual_seed(number)
    np.random.seed(number & _NUMPY)  # noqa: NPY002
    random.seed(number)


def drawn_by(read: Callable[[], Any], number: int) -> tuple[Any, bool]:
    """What a function returns under a seed, and whether it drew from a global generator."""
    with drawing_apart() as seed:
        seed(number)
        before = _generators()
        found = read()
        now = _generators()
    same_place = repr(now[1][2:]) == repr(before[1][2:])  # NumPy counts what it has drawn
    return found, not (torch.equal(now[0], before[0]) and same_place and now[2] == before[2])


class Items(Rows):
    """Items of a map-style data set, read anew whenever they are asked for.

    Each is read under random numbers that are a function of its number alone, and every item has
    many numbers, see `drawn`: augmentations differ from one to the other.

    Args:
        dataset: has `__len__` and `__getitem__`.
        names: of the entries of items that are dictionaries.
    """

    def __init__(self, dataset: Any, names: Names = Names()) -> None:  # noqa: B008
        self.dataset, self.names = dataset, names
        self.first: Item | None = None
        self.place: Callable[[Tensor], Tensor] = _same
        self._last: tuple[list[int], list[Item]] = ([], [])
        self.shape = (len(dataset),)
        self.first = self.items(torch.tensor([0]))[0]
        self.shape = (len(dataset), *self.first.example.shape)
        self.dtype = self.first.example.dtype

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.place(torch.stack([item.example for item in self.items(rows)]))

    def drawn(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Numbers by which the same items are read with other random numbers, a function of both;
        numbers of the rows as they are read them with those for measuring."""
        return rows + len(self) * (1 + draws % ((1 << 62) // len(self) - 1))

    def placed(self, like: Tensor, place: Callable[[Tensor], Tensor]) -> None:
        """From now on give examples as a function changes them.

        Args:
            like: some that it has changed.
            place: function of examples `(n, *event)`.
        """
        self.shape, self.dtype, self.place = (len(self), *like.shape[1:]), like.dtype, place

    def items(self, rows: Tensor) -> list[Item]:
        """Items by their numbers; the last ones are kept, as conditions are asked for after
        examples.

        Raises:
            DataError: for one that cannot be read or is of another kind than the first, naming it.
        """
        wanted = rows.tolist()
        if self._last[0] != wanted:
            with drawing_apart() as seed:
                self._last = wanted, [self._item(number, seed) for number in wanted]
        return self._last[1]

    def _item(self, number: int, seed: Callable[[int], None]) -> Item:
        row = number % len(self)
        seed(mix(number))
        with naming(f"item {row}"):
            with damaged("an item"):
                found = self.dataset[row]
            item = item_of(found, self.names)
            if self.first is not None:
                require_alike(item, self.first)
        return item

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": ([], [])}


class ItemConditions(Rows):
    """Vectors or images that are told of items, read with them.

    Args:
        items: the items.
        name: of the entry, where a dictionary is told.
    """

    def __init__(self, items: Items, name: str | None = None) -> None:
        self.source, self.name = items, name
        like = self[torch.tensor([0])]
        self.shape, self.dtype = (len(items), *like.shape[1:]), like.dtype

    def __getitem__(self, rows: Tensor) -> Tensor:
        found: Any = [item.told for item in self.source.items(rows)]
        return torch.stack(found if self.name is None else [each[self.name] for each in found])


def _same(x: Tensor) -> Tensor:
    return x


def together(told: Sequence[Any]) -> Any:
    """What is told of several examples as tensors, by name where they have names; None for
    nothing."""
    if not len(told) or told[0] is None:
        return None
    if isinstance(told[0], dict):
        return {name: together([each[name] for each in told]) for name in told[0]}
    return torch.tensor(told) if isinstance(told[0], int) else torch.stack(list(told))


def item_of(item: Any, names: Names = Names()) -> Item:  # noqa: B008
    """An item as an example and what is told of it.

    Args:
        item: an example, a pair, or a dictionary.
        names: of the entries of a dictionary.

    Raises:
        TypeError, DataError: for anything else.
    """
    if isinstance(item, Mapping):
        return _of_entries(item, names)
    if isinstance(item, (tuple, list)):
        if not 1 <= len(item) <= 2:
            raise DataError(
                f"has {len(item)} parts; accepted: an example, or an example and a label"
            )
        return Item(_example(item[0]), None if len(item) == 1 else _told(item[1]))
    return Item(_example(item), None)


def _of_entries(item: Mapping[str, Any], names: Names) -> Item:
    found, there = names.example, ", ".join(map(str, item))
    if found is None:
        several = [name for name, value in item.items() if name != names.label and _is_many(value)]
        if len(several) != 1:
            raise DataError(
                f"holds {there}, of which {', '.join(several) or 'none'} may be the example: say "
                "which, example='image'"
            )
        found = several[0]
    label = names.label or ("label" if "label" in item and found != "label" else None)
    for name in (found, label):
        if name is not None and name not in item:
            raise DataError(f"holds {there}, and no {name!r}")
    return Item(_example(item[found]), None if label is None else _told(item[label]))


def _is_many(value: Any) -> bool:
    """Whether a value may be an example: a picture, or several numbers."""
    several = getattr(value, "ndim", 0) > 0 or isinstance(value, list)
    return several or hasattr(value, "getexif") or _encoded(value)


def _encoded(value: Any) -> bool:
    """Whether a value is a picture as `datasets` stores it."""
    return isinstance(value, Mapping) and set(value) == {"bytes", "path"}


def _decoded(value: Any) -> Tensor:
    if value["bytes"] is not None:
        return decode(value["bytes"])
    with damaged("an image"):
        return from_pil(require_extra("datasets").Image().decode_example(value))


def _example(example: Any) -> Tensor:
    if _encoded(example):
        return _decoded(example)
    if isinstance(example, Tensor):
        return example
    if isinstance(example, list) and example:
        example = np.asarray(example)
        example = example if example.dtype.kind in "fiu" else None
    if isinstance(example, np.ndarray):
        return torch.as_tensor(example)
    if hasattr(example, "getexif"):  # what every PIL image has, without importing PIL
        return from_pil(example)
    raise TypeError(
        f"an example is a {type(example).__name__}; "
        "accepted: a tensor, a NumPy array or a PIL image"
    )


def _told(label: Any) -> Told:
    if isinstance(label, Mapping) and not _encoded(label):
        return {name: _entry(value) for name, value in label.items()}
    return _entry(label)


def _entry(label: Any) -> int | Tensor:
    if isinstance(label, np.ndarray) and label.ndim and label.dtype.kind in "fu":
        label = torch.as_tensor(label)
    if _encoded(label):
        return _decoded(label)
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


def require_alike(item: Item, first: Item) -> None:
    """Refuse an item of another kind than the first.

    Raises:
        DataError: saying what differs.
    """
    now, then = item.example, first.example
    if (now.shape, now.dtype) != (then.shape, then.dtype):
        raise DataError(
            f"is {tuple(now.shape)} of {now.dtype} where the first is {tuple(then.shape)} of "
            f"{then.dtype}"
        )
    if (item.told is None) != (first.told is None):
        raise DataError("has a label where others have none, or the other way round")
    if item.told is not None and _kind(item.told) != _kind(first.told):
        raise DataError(f"has {_kind(item.told)} where the first has {_kind(first.told)}")


def _kind(told: Told) -> str:
    if isinstance(told, dict):
        return ", ".join(f"{name}: {_kind(told[name])}" for name in sorted(told))
    if not isinstance(told, Tensor):
        return "a label"
    what = "a vector" if told.ndim == 1 else "an image"
    return f"{what} of {told.dtype} and shape {tuple(told.shape)}"
