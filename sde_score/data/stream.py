"""Streams: examples that are read in one order, without a number, a count or a place to jump to."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Generator, Tensor

from sde_score._core.conditions import Condition, tensors_of
from sde_score._core.errors import DataError, naming
from sde_score._core.progress import progress_bar, say
from sde_score.data.sources.items import (
    Item,
    Names,
    drawing_apart,
    item_of,
    require_alike,
    together,
)
from sde_score.random import mix

_END = object()
_AHEAD = 4  # examples behind a state that tell whether it leads back


@dataclass(frozen=True, eq=False)
class Stream:
    """What is read in one order, and how its items become examples.

    Args:
        name: of the stream, in messages.
        source: a function that returns an iterable, or an iterable that can be read again and
            again, such as an `IterableDataset` or a `DataLoader`.
        names: of the entries of items that are dictionaries.
        has_state: whether `source.state_dict()` leads back to where it was taken.
        start: that state before the first example; None where there is none.
        first: the first item; None for not known yet.
        place: function of examples `(n, *event)`, as a data set keeps them.
        classes: labels in the order of their classes; empty where these are numbered from 0.
        counts: number of classes, by the name of the label in a dictionary, else by "".
    """

    name: str
    source: Any
    names: Names = Names()  # noqa: RUF009
    has_state: bool = False
    start: Any = None
    first: Item | None = None
    place: Callable[[Tensor], Tensor] | None = None
    classes: tuple[int, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()

    def batch(self, items: Sequence[Any], position: int) -> tuple[Tensor, Condition]:
        """Raw examples and what is told of them, as a data set keeps both.

        Args:
            items: as the source gives them.
            position: of the first of them, for messages.

        Raises:
            DataError: for an item of another kind than the first, or of a class that is not known.
        """
        found = []
        for place, item in enumerate(items, position):
            with naming(f"{self.name}, example {place}"):
                found.append(item_of(item, self.names))
                if self.first is not None:
                    require_alike(found[-1], self.first)
        raw = torch.stack([item.example for item in found])
        with naming(f"{self.name}, examples from {position} on"):
            told = self._numbered(together([item.told for item in found]))
            return raw if self.place is None else self.place(raw), told

    def _numbered(self, told: Condition) -> Condition:
        """With classes for labels."""
        counts = dict(self.counts)
        entries = told if isinstance(told, Mapping) else {"": told}
        numbered = {}
        for name, value in entries.items():
            numbered[name] = value
            if value is None or name not in counts:
                continue
            if self.classes:
                known = torch.tensor(self.classes)
                numbered[name] = torch.searchsorted(known, value).clamp(max=len(known) - 1)
                wrong = value[known[numbered[name]] != value]
            else:
                wrong = value[(value < 0) | (value >= counts[name])]
            if len(wrong):
                raise DataError(
                    f"the label {int(wrong[0])} is none of the {counts[name]} classes that were "
                    "met first: give their number, classes=10"
                )
        return cast(Condition, numbered if isinstance(told, Mapping) else numbered[""])


class Reading:
    """A walk through a stream, epoch after epoch: the example at a position, and those behind it.

    Before an example is asked for, the global generators of torch, NumPy and Python are seeded by
    seed, epoch and the number of the example in it, and generators of a `DataLoader` at the start
    of an epoch: what is read is a function of the seed and the position. The caller's random
    numbers stay as they are.

    Args:
        stream: what is read.
        seed: random seed.

    Attributes:
        position: of the next example.
        epoch: which it is in.
        begun: position of the first example of that epoch.
    """

    def __init__(self, stream: Stream, seed: int = 0) -> None:
        self.stream, self.seed = stream, seed
        self.position = self.epoch = self.begun = 0
        self._iterator: Iterator[Any] | None = None
        self._own = [(each, Generator()) for each in _generators(stream.source)]
        self._ahead: deque[Any] = deque()
        self._saved: dict[str, Any] = {}
        self._last: tuple[tuple[int, int], list[Any]] = ((-1, 0), [])

    def take(self, first: int, count: int) -> list[Any]:
        """Items at the positions `first ... first + count - 1`; those before are passed by.

        Raises:
            DataError: if the stream fails, or an epoch has no examples.
        """
        if (first, count) == self._last[0]:
            return self._last[1]
        if first < self.position:
            self._go(0, 0)
        before, name = range(self.position, first), f"{self.stream.name}: passing by"
        with self._apart() as seed:
            for _ in progress_bar(before, name=name, unit="example"):
                self._next(seed)
            self._last = (first, count), [self._next(seed) for _ in range(count)]
        return self._last[1]

    def begin_with(self, count: Callable[[Any], int]) -> list[Any]:
        """The first items of the first epoch, at most as many as `count` says of the first one."""
        self._go(0, 0)
        with self._apart() as seed:
            first = self._item(seed)
            if first is _END:
                raise DataError(f"{self.stream.name} holds no examples")
            found = [first]
            for self.position in range(1, count(first)):
                item = self._item(seed)
                if item is _END:
                    break
                found.append(item)
        return found

    def state(self) -> dict[str, Any]:
        """Where the walk is, or was some examples before, as values of JSON.

        With the state of the source comes a digest of the examples behind it, by which `restore`
        tells whether it led back.
        """
        if self._ahead:
            return self._saved
        found: dict[str, Any] = {
            "position": self.position,
            "epoch": self.epoch,
            "begun": self.begun,
        }
        if self.stream.has_state and self._iterator is not None:
            state = self.stream.source.state_dict()
            if is_json(state):
                found |= {"state": state, "ahead": self._look_ahead()}
        self._saved = found
        return found

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to where `state` was taken: by the state of the source, or else by reading its epoch
        anew, when examples are asked for."""
        if self.stream.has_state and self.jump(state):
            return
        self._go(int(state["epoch"]), int(state["begun"]))
        if missed := int(state["position"]) - self.begun:
            say(
                [
                    f"data: no state leads back into {self.stream.name}, so that {missed} examples "
                    f"of epoch {self.epoch} are read anew and passed by"
                ]
            )

    def jump(self, state: Mapping[str, Any]) -> bool:
        """Go to where `state` was taken by that of the source; whether this led there."""
        if state.get("state") is None:
            return False
        self._go(int(state["epoch"]), int(state["begun"]))
        with self._apart() as seed:
            seed(mix(self.seed, self.epoch, 0))
            self._begin(state["state"])
        self.position = int(state["position"])
        return self._look_ahead() == state.get("ahead")

    def _look_ahead(self) -> str:
        """A digest of the next examples, which are kept until they are asked for."""
        with self._apart() as seed:
            for place in range(self.position, self.position + _AHEAD):
                self._ahead.append(self._read(seed, place))
                if self._ahead[-1] is _END:
                    break
        items = [item for item in self._ahead if item is not _END]
        digest = hashlib.sha256(str(len(items)).encode())
        if items:
            raw, told = self.stream.batch(items, self.position)
            for value in (raw, *tensors_of(told)):
                digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _go(self, epoch: int, position: int) -> None:
        self.epoch, self.begun, self.position, self._iterator = epoch, position, position, None
        self._ahead.clear()

    def _next(self, seed: Callable[[int], None]) -> Any:
        """The next item, of the next epoch where this one has ended."""
        for _ in range(2):
            item = self._item(seed)
            if item is not _END:
                self.position += 1
                return item
            self._go(self.epoch + 1, self.position)
        raise DataError(
            f"{self.stream.name} ended after {self.position} examples and gives none when it is "
            "read again: give a data set, or a function that returns a new iterator"
        )

    def _item(self, seed: Callable[[int], None]) -> Any:
        """The next item of this epoch, or its end."""
        return self._ahead.popleft() if self._ahead else self._read(seed, self.position)

    def _read(self, seed: Callable[[int], None], position: int) -> Any:
        """The item at a position, or the end of the epoch, from the source."""
        try:
            seed(mix(self.seed, self.epoch, position - self.begun))
            if self._iterator is None:
                self._begin(self.stream.start)
            return next(cast(Iterator[Any], self._iterator), _END)
        except Exception as error:  # of code of others
            lines = str(error).strip().splitlines()
            raise DataError(
                f"{self.stream.name} failed at example {position}, number "
                f"{position - self.begun} of epoch {self.epoch}: {type(error).__name__}"
                + (f", {lines[0][:300]}" if lines else "")
            ) from error

    def _begin(self, state: Any) -> None:
        """Open an epoch, from its start or from a state."""
        source = self.stream.source
        for generator, _ in self._own:
            generator.manual_seed(mix(self.seed, self.epoch))
        for each in (source, getattr(source, "sampler", None), getattr(source, "dataset", None)):
            set_epoch = getattr(each, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(self.epoch)
        if state is not None:
            source.load_state_dict(state)
        opened = iter(source() if not hasattr(source, "__iter__") else source)
        self._iterator = _cut(opened) if gives_batches(source) else opened

    @contextmanager
    def _apart(self) -> Iterator[Callable[[int], None]]:
        """While the source is read: its random numbers are those of this walk."""
        before = [generator.get_state() for generator, _ in self._own]
        for generator, mine in self._own:
            generator.set_state(mine.get_state())
        try:
            with drawing_apart() as seed:
                yield seed
        finally:
            for (generator, mine), theirs in zip(self._own, before, strict=True):
                mine.set_state(generator.get_state())
                generator.set_state(theirs)


def gives_batches(source: Any) -> bool:
    """Whether an iterable hands out batches: a `DataLoader` that collates."""
    from torch.utils.data import DataLoader

    return isinstance(source, DataLoader) and source.batch_sampler is not None


def is_json(value: Any) -> bool:
    """Whether a value is the same after a way through JSON."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _generators(source: Any) -> list[Generator]:
    """Generators of a `DataLoader` and its samplers."""
    samplers = getattr(source, "sampler", None), getattr(source, "batch_sampler", None)
    holders = (source, *samplers, getattr(samplers[1], "sampler", None))
    found = [getattr(each, "generator", None) for each in holders]
    return list({id(g): g for g in found if isinstance(g, Generator)}.values())


def _cut(batches: Iterator[Any]) -> Iterator[Any]:
    """The items of batches, as a loader puts them together."""
    for batch in batches:
        for index in range(_length(batch)):
            yield _part(batch, index)


def _length(batch: Any) -> int:
    inner = batch
    for _ in range(8):  # as deep as batches are nested
        if isinstance(inner, Mapping):
            inner = next(iter(inner.values()), None)
        elif isinstance(inner, (list, tuple)) and len(inner):
            inner = inner[0]
    if not isinstance(inner, Tensor) or not inner.ndim:
        raise TypeError("a batch of the loader holds no tensors: leave out collate_fn")
    return len(inner)


def _part(batch: Any, index: int) -> Any:
    if isinstance(batch, Mapping):
        return {name: _part(value, index) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return tuple(_part(value, index) for value in batch)
    return batch[index]
