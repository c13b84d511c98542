"""`data.json`: the record of the data that a run was trained on.

The file holds the name, event shape, class names and scaling of the data set, its name or path as
typed and with an absolute path, and a fingerprint of its content. Data at hand are compared with it
wherever a run loads them, so that nothing is continued on, or measured against, other data.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sde_score import data as data_sets
from sde_score._core.checks import require_count, require_finite
from sde_score._core.conditions import ConditionShape, require_condition_shape
from sde_score._core.files import read_text, replace_file
from sde_score._core.records import Record
from sde_score.data import DataError, DataSet, Fingerprint, Scaling, TableCoding
from sde_score.data.tables.coding import BESIDE
from sde_score.scaling import ConditionScaling
from sde_score.training.checkpoint import refusing
from sde_score.training.config import is_note, note

NAME = "data.json"


@dataclass(frozen=True)
class DataRecord(Record):
    """Content of `data.json`.

    Args:
        text: name or path as typed; for data in memory their name in angle brackets.
        absolute: `text` with an absolute path; None for a name or data in memory.
        name: of the data set.
        count: number of examples, held-out ones included.
        event_shape: shape of one example.
        num_classes: number of classes, 0 without labels.
        class_names: name of each class, empty where there are none.
        scaling: the map between raw terms and model range.
        fingerprint: of all examples.
        low: smallest raw value of each channel or column; empty in records of earlier versions.
        high: largest raw value of each.
        column_names: name of each column of a table, empty where there are none.
        condition_shape: of one condition, or a dictionary from names to shapes and numbers of
            classes; empty without.
        condition_scaling: the map between raw conditions and model range, or one for each name.
        condition_names: columns of a table that are its condition, empty where there are none.
        coding: columns of a table and how they are encoded, None for other data.
        order: number of blocks that the examples are read in, and of those that are mixed; empty
            where every example costs the same.
    """

    text: str
    absolute: str | None
    name: str
    count: int
    event_shape: tuple[int, ...]
    num_classes: int
    class_names: tuple[str, ...]
    scaling: Scaling
    fingerprint: Fingerprint
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    column_names: tuple[str, ...] = ()
    condition_shape: ConditionShape = ()
    condition_scaling: ConditionScaling = field(default_factory=Scaling)
    condition_names: tuple[str, ...] = ()
    coding: TableCoding | None = None
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_count(count=self.count)
        require_count(0, num_classes=self.num_classes)
        require_condition_shape(self.condition_shape)
        for size in self.event_shape:
            require_count(event_shape=size)
        for name in ("low", "high", "column_names"):
            if len(getattr(self, name)) not in (0, self.event_shape[0]):
                raise ValueError(f"{name} must have {self.event_shape[0]} entries, or none")
        shape = self.condition_shape
        told = shape.get(BESIDE) if isinstance(shape, Mapping) else shape
        if self.condition_names and told != (len(self.condition_names),):
            raise ValueError(
                f"condition_names={self.condition_names} does not fit {self.condition_shape}"
            )
        for value in (*self.low, *self.high):
            require_finite(value_range=value)

    @classmethod
    def of(cls, dataset: DataSet, text: str | None) -> DataRecord:
        """The record of a data set; reads all of it.

        Args:
            dataset: the whole data set.
            text: name or path as typed, None for data in memory.
        """
        return cls(
            note(dataset) if text is None else text,
            None if text is None else data_sets.absolute(text),
            dataset.name,
            len(dataset),
            dataset.event_shape,
            dataset.num_classes,
            dataset.class_names,
            dataset.scaling,
            Fingerprint.of(dataset),
            *dataset.value_range(),
            dataset.column_names,
            dataset.condition_shape,
            dataset.condition_scaling,
            dataset.condition_names,
            None if dataset.coding is None else dataset.coding.plain(),
            _order_of(dataset),
        )

    def write(self, path: Path) -> None:
        """Write the file in one step."""
        replace_file(path, (json.dumps(self.record(), indent=1) + "\n").encode())

    @property
    def in_memory(self) -> bool:
        """Whether the data were given as an object, which no text finds again."""
        return is_note(self.text)

    def load(self, on_bad_example: str = "stop") -> DataSet:
        """The data at the absolute path, or else at the path as typed, after a comparison.

        Args:
            on_bad_example: as for `sde_score.data.load`.

        Raises:
            DataError: if they are not there, cannot be read or have changed, with what to do.
        """
        if self.in_memory:
            raise DataError(
                f"the run was trained on data given in memory, {self.text}: give them again, as in "
                "load_run(path, data=...) or run.with_data(...)"
            )
        try:
            return self.recognize(data_sets.load(self.text_at_hand(), None, on_bad_example))
        except DataError as error:
            raise DataError(
                f"the data of the run, {self.text!r}, are not at hand: {error}. If they moved, say "
                "where they are: --data on the command line, load_run(path, data=...) in Python"
            ) from error

    def require_order(self, found: DataSet) -> None:
        """Refuse to go on training with examples that would come in another order.

        Args:
            found: recognized data.

        Raises:
            ValueError: for examples in memory that were read lazily, the other way round, or other
                blocks of them.
        """
        if _order_of(found) != self.order:
            lazy = bool(self.order)
            raise ValueError(
                f"{found.name} is read in blocks of another kind than when the run was begun, and "
                f"would come in another order: read it as then, with lazy={lazy}, as in "
                f"--data 'PATH(lazy={lazy})'"
            )

    def text_at_hand(self) -> str:
        """The absolute text while something is there, else what was typed; a note for data in
        memory."""
        there = self.absolute is not None and data_sets.is_there(self.absolute)
        return self.absolute if there and self.absolute else self.text

    def recognize(self, found: DataSet) -> DataSet:
        """The data of the run among the data at hand, with the scaling of the run.

        Examples that were appended since are left out with a warning, so that what is held out
        stays the same.

        Raises:
            DataError: if these are other data, saying what changed.
        """
        told = self.condition_names if self.coding is None else self.coding.conditions
        if told and found.conditions is None:
            found = data_sets.with_condition_columns(found, told)
        changes = self._changes(found)
        if changes:
            raise DataError(
                f"{found.name} has changed since the run was begun: {'; '.join(changes)}. "
                "A run is continued on, and measured against, its own data alone"
            )
        rows = found.rows
        if len(found) > self.count:
            warnings.warn(
                f"{found.name} has grown by {len(found) - self.count} examples since the run was "
                "begun, which are left out; to train on all, start a new run with init_from",
                stacklevel=3,
            )
            rows = torch.arange(self.count) if rows is None else rows[: self.count]
        return replace(
            found,
            name=self.name,
            scaling=self.scaling,
            condition_scaling=self.condition_scaling,
            condition_shape=self.condition_shape,
            num_classes=self.num_classes,
            class_names=self.class_names,
            rows=rows,
            coding=found.coding if self.coding and self.coding.transformer else self.coding,
        )

    def _changes(self, found: DataSet) -> list[str]:
        if found.event_shape != self.event_shape and not (self.coding and found.coding):
            return [f"examples have the shape {found.event_shape}, had {self.event_shape}"]
        if found.stream is not None and len(found) != self.count:
            return [
                f"its first {len(found)} examples were measured, not {self.count}: give "
                f"first={self.count}, if it is not the stream that has changed"
            ]
        fewer = []
        if len(found) < self.count:
            fewer = [f"there are {len(found)} examples, there were {self.count}"]
            if not found.is_lazy:
                return fewer
        if self.coding is not None and found.coding is not None:
            changed = self.coding.difference(found.coding)
            if changed:
                return [changed]
        generated = self.absolute is None and not self.in_memory
        then = self.fingerprint
        now = Fingerprint.of(found, self.count, like=then)
        if fewer or now.changed_parts(then):
            return [*fewer, *now.changed_parts(then)]
        changes = []
        if not now.same_rows(then, rounded=generated):
            more = len(found) - self.count
            changes.append(
                "the examples are others, or in another order"
                + (f", and {more} more" if more else "")
            )
        if now.labels != then.labels:
            vectors = self.condition_shape or found.condition_shape
            changes.append(f"the {'conditions' if vectors else 'labels'} are others")
        if found.class_names[: len(self.class_names)] != self.class_names:
            changes.append(f"classes are named {found.class_names}, were {self.class_names}")
        if len(found) == self.count and not changes and not self.scaling.is_close(found.scaling):
            if self.in_memory:
                return [f"the scaling is {found.scaling}, was {self.scaling}"]
            # A file does not tell its scaling: other versions may scale the same content in
            # another way, and so does another levels=...
            warnings.warn(
                f"{found.name} is read with {found.scaling} at hand; the run keeps its own, "
                f"{self.scaling}",
                stacklevel=4,
            )
        return changes


def _order_of(dataset: DataSet) -> tuple[int, ...]:
    order = dataset.order()
    blocks = len(order.blocks) - 1
    return (blocks, order.window) if blocks > 1 else ()


def read_record(out: Path) -> DataRecord | None:
    """The record of a run directory; None for one of version 0.1.0, which wrote none.

    Raises:
        CheckpointError: for a file that is damaged or hostile.
    """
    path = out / NAME
    if not path.exists():
        return None
    with refusing(path):
        return DataRecord.from_record(json.loads(read_text(path)))
