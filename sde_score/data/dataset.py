"""Data sets: raw examples in their own terms, and the scaling into the range of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import is_integer, plain, refusal, require_count
from sde_score._core.conditions import Condition, ConditionShape, mapped, rows_of
from sde_score._core.errors import DataError
from sde_score._core.statistics import chunks
from sde_score.data.info import DataInfo, info_of, range_of, scales_of
from sde_score.data.limits import require_room
from sde_score.data.order import EpochOrder
from sde_score.data.sources.base import Rows, is_of_this_machine, standing_in
from sde_score.data.tables.coding import TableCoding
from sde_score.random import generator_from
from sde_score.scaling import ConditionScaling, Scaling, condition_to_model

if TYPE_CHECKING:
    from sde_score.data.stream import Stream

SMALLEST_SIDE = 4
"""Smallest side of an image, in pixels."""


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether an event is an image: `(channels, height, width)`, at least 4 x 4 pixels."""
    return len(event_shape) == 3 and min(event_shape[1:]) >= SMALLEST_SIDE


Indices = Tensor | Sequence[int] | np.ndarray[Any, Any]
"""Numbers of examples: an int64 tensor of shape `(n,)`, or a list or array of integers."""


class Batch(NamedTuple):
    """Examples for a model.

    `x0` is float32 in model range, shape `(batch, *event)`; `condition` holds the labels, int64,
    shape `(batch,)`, or vectors or images in model range, float32, or a dictionary of such; None
    for data without any.
    """

    x0: Tensor
    condition: Condition


class Examples(NamedTuple):
    """Raw examples as they were read.

    `raw` has the shape `(n, *event)`; `rows` are those of the source that were read, int64 `(n,)`;
    `skipped` counts the examples in whose place others were read, and `reasons` say why.
    """

    raw: Tensor
    rows: Tensor
    skipped: int = 0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Raw examples with a scaling and perhaps labels, made by `load`, `from_tensor`, `from_torch`.

    `dataset[i]` is one raw example, `dataset[:16]` and `dataset[indices]` are several, `len`
    counts them, and a loop meets them in order.

    Args:
        name: of the data set, in reports.
        _source: raw examples, shape `(count, *event)`, on the CPU; a tensor, which may be
            memory-mapped, or `Rows`, which are read when they are asked for.
        scaling: the map between raw terms and model range.
        labels: int64, shape `(count,)`, values 0 ... num_classes - 1; None without labels.
        num_classes: number of classes, 0 without labels.
        class_names: name of each class where the source has them, else empty.
        rows: rows of `_source` that make up the data set, int64; None for all of them.
        column_names: name of each column of a table where the source has them, else empty.
        conditions: raw vectors `(count, n)` or images `(count, channels, *sides)` that are the
            conditions, or a dictionary of such and of labels `(count,)`; None without.
        condition_scaling: the map between raw conditions and model range; of a dictionary, one for
            each name that is no label.
        condition_shape: of one condition, or a dictionary from names to shapes and numbers of
            classes; empty without.
        condition_names: column of each entry of a vector condition that was cut from a table, see
            `with_condition_columns`; else empty.
        on_bad_example: `"stop"`, or `"skip"`: the next example that can be read takes the place of
            one that cannot; of examples that are read lazily.
        coding: of a table, the columns that the raw examples are the encoding of; else None.
        stream: what training reads instead, of which these are the first examples; else None.
    """

    name: str
    _source: Tensor | Rows
    scaling: Scaling
    labels: Tensor | None = None
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None
    column_names: tuple[str, ...] = ()
    conditions: Condition = None
    condition_scaling: ConditionScaling = field(default_factory=Scaling)
    condition_shape: ConditionShape = ()
    condition_names: tuple[str, ...] = ()
    on_bad_example: str = "stop"
    coding: TableCoding | None = None
    stream: Stream | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self._source.shape[1:])

    def order(self, seed: int = 0) -> EpochOrder:
        """The order of the examples in training, epoch after epoch.

        Args:
            seed: random seed.
        """
        source, rows = self._source, self.rows
        if not isinstance(source, Rows) or source.blocks is None:
            return EpochOrder(len(self), seed)
        if rows is None:
            return EpochOrder(len(self), seed, source.blocks, source.window)
        if not bool((rows.diff() > 0).all()):
            return EpochOrder(len(self), seed)
        blocks = torch.unique(torch.searchsorted(rows, source.blocks))
        return EpochOrder(len(self), seed, blocks, source.window)

    def part_of(self, index: int) -> str:
        """Name of the file or folder that holds an example; empty where there is none."""
        source, rows = self._source, self.rows
        row = index if rows is None else int(rows[index])
        return source.part_of(row) if isinstance(source, Rows) else ""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of raw examples."""
        return self._source.dtype

    def __len__(self) -> int:
        return len(self._source if self.rows is None else self.rows)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}, count={len(self)}, event_shape={self.event_shape}, "
            f"levels={self.scaling.levels}, num_classes={self.num_classes})"
        )

    def __getitem__(self, key: int | slice | Indices) -> Tensor:
        """Raw examples: one for an integer, `(n, *event)` for a slice or n integers.

        Raises:
            IndexError: for an integer out of range, as of a list.
        """
        if isinstance(key, slice):
            rows = range(len(self))[key]
            return self.raw(torch.arange(len(rows)) * rows.step + rows.start)
        if is_integer(key):
            return self.raw(torch.tensor([range(len(self))[int(plain(key))]]))[0]
        return self.raw(cast(Indices, key))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def raw(self, indices: Indices | None = None) -> Tensor:
        """Examples in the data set's own terms, shape `(len(indices), *event)`.

        Args:
            indices: n integers, 0 ... len(self) - 1; None for all.
        """
        if indices is not None:
            return self.read(indices).raw
        if not self.is_lazy:
            return self._all().contiguous()  # a view whose channels are last has copies as it has
        size = len(self) * math.prod(self.event_shape) * self.dtype.itemsize
        require_room(size, "read them in parts, as with dataset[:1000]")
        return self.read(torch.arange(len(self))).raw

    def read(self, indices: Indices, draws: Tensor | None = None) -> Examples:
        """Examples as `raw` gives them, and which were read.

        Args:
            indices: n integers, 0 ... len(self) - 1.
            draws: int64, `(n,)`, not negative: what random numbers that reading draws are a
                function of, as those of augmentations in a data set of torch; None for those with
                which the data set is measured.

        Raises:
            DataError: for an example that cannot be read, unless it is to be skipped; or if none of
                many that follow can be read either.
        """
        rows, source = self._rows(indices), self._source
        if not isinstance(source, Rows):
            return Examples(source[rows].contiguous(), rows)
        plain_rows, rows = rows, rows if draws is None else source.drawn(rows, draws)
        try:
            found = Examples(source[rows], rows)
        except DataError as error:
            if self.on_bad_example != "skip" or is_of_this_machine(error):
                raise
            kept, reasons = standing_in(source, self._rows, torch.as_tensor(indices), len(self))
            skipped = int((kept != plain_rows).sum())
            kept = kept if draws is None else source.drawn(kept, draws)
            return Examples(source[kept], kept, skipped, reasons)
        if self.on_bad_example == "skip":
            source.note_read(rows)
        return found

    @property
    def is_image(self) -> bool:
        """Whether an example is an image, see `is_image`."""
        return is_image(self.event_shape)

    def batch(self, indices: Indices, draws: Tensor | None = None) -> Batch:
        """Examples in model range with their conditions, in the order of `indices`, as `read`."""
        found = self.read(indices, draws)
        return Batch(self.scaling.to_model(found.raw), self.conditions_of(found.rows))

    @property
    def is_discrete(self) -> bool:
        """Whether noise fills cells of it: levels, or integers and categories of a table."""
        cells = self.coding is not None and any(self.coding.discrete)
        return self.scaling.levels is not None or cells

    @property
    def conditions_or_labels(self) -> Condition:
        """Raw conditions of all examples, or their labels; None for neither."""
        found: Condition = self.labels if self.conditions is None else self.conditions
        return found if self.rows is None else rows_of(found, self.rows)

    def conditions_at(self, indices: Indices) -> Condition:
        """Conditions in model range, or labels, in the order of `indices`; None for neither."""
        return self.conditions_of(self._good(indices))

    def conditions_of(self, rows: Tensor) -> Condition:
        """Conditions as `conditions_at` gives them, of rows of the source, as `read` tells them."""
        plain_rows = rows % len(self._source)
        if self.conditions is None:
            return None if self.labels is None else self.labels[plain_rows]
        found = mapped(self.conditions, lambda v: v[rows if isinstance(v, Rows) else plain_rows])
        return condition_to_model(found, self.condition_scaling)

    def labels_at(self, indices: Indices) -> Tensor | None:
        """Labels of examples, int64, in the order of `indices`; None for data without labels."""
        return None if self.labels is None else self.labels[self._good(indices)]

    def _good(self, indices: Indices) -> Tensor:
        """Rows of the source, with those that stand in for what cannot be read."""
        if self.on_bad_example != "skip" or not isinstance(self._source, Rows):
            return self._rows(indices)
        return standing_in(self._source, self._rows, torch.as_tensor(indices), len(self))[0]

    @property
    def sigma_data(self) -> float:
        """Root mean square of all entries in model range; reads all examples, or of those that are
        read lazily a random subset."""
        return scales_of(self)[0]

    @property
    def is_lazy(self) -> bool:
        """Whether examples are read when they are asked for."""
        return isinstance(self._source, Rows)

    @property
    def is_random(self) -> bool:
        """Whether examples are drawn anew in every epoch, as by augmentations."""
        return isinstance(self._source, Rows) and self._source.random

    def value_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Smallest and largest raw value of each channel or column; reads all examples, or of
        those that are read lazily a random subset.

        Both run over the first dimension of an event.
        """
        return range_of(self)

    def tensor(self, limit: int | None = None) -> Tensor:
        """All examples, or the first `limit`, in model range: float32, shape `(count, *event)`."""
        if limit is not None:
            require_count(limit=limit)
        count = len(self) if limit is None else min(int(plain(limit)), len(self))
        require_room(4 * count * math.prod(self.event_shape), "take fewer with limit=...")
        out = torch.empty((count, *self.event_shape), dtype=torch.float32)
        first = 0
        for piece in chunks(self._source, self._good(torch.arange(count))):
            out[first : first + len(piece)] = self.scaling.to_model(piece)
            first += len(piece)
        return out

    def split(self, held_out: int | float, seed: int = 0) -> tuple[DataSet, DataSet]:
        """Two disjoint parts, drawn at random, the same for the same seed: `(train, held_out)`.

        Both keep the scaling of the whole.

        Args:
            held_out: number of examples to hold out, or the fraction of them between 0 and 1.
            seed: random seed.

        Raises:
            ValueError: if either part would be empty.
        """
        held_out = plain(held_out)
        count = held_out if isinstance(held_out, int) else 0
        if isinstance(held_out, float) and 0 < held_out < 1:
            count = round(held_out * len(self))
        if isinstance(held_out, bool) or not 0 < count < len(self):
            if len(self) == 1:
                raise ValueError(
                    "one example cannot be split: train on it with held_out=0 (--held-out 0)"
                )
            raise ValueError(
                f"held_out={held_out!r} must leave both parts of {len(self)} examples non-empty: "
                f"an integer 1 ... {len(self) - 1} or a fraction between 0 and 1"
            )
        order = torch.randperm(len(self), generator=generator_from(seed))
        # Sorted rows keep the order of the source, and reading them is local.
        parts = (self._rows(order[count:].sort().values), self._rows(order[:count].sort().values))
        train, held = (replace(self, rows=part, stream=None) for part in parts)
        return train, held

    def complete(self) -> DataSet:
        """The examples of a table without missing cells; of other data all.

        Raises:
            DataError: if there is none.
        """
        if self.coding is None or not self.coding.has_missing:
            return self
        whole = (~self.raw().isnan().any(1)).nonzero().flatten()
        if not len(whole):
            raise DataError(
                f"no row of {self.name} is complete: there is nothing to compare samples with; "
                "fill in some cells, see sde-score impute"
            )
        return replace(self, rows=self._rows(whole))

    def subset(self, count: int, seed: int = 0) -> DataSet:
        """A random choice of `count` examples in their order, or all where there are no more.

        Args:
            count: at least 1.
            seed: random seed.
        """
        require_count(count=count)
        order = torch.randperm(len(self), generator=generator_from(seed))
        return replace(self, rows=self._rows(order[:count].sort().values), stream=None)

    def info(self) -> DataInfo:
        """Measure the data set: reads all of it, seconds for tens of thousands of images.

        Of examples that are read lazily it reads a random subset of thousands.
        """
        return info_of(self)

    def _all(self) -> Tensor:
        source = cast(Tensor, self._source)
        return source if self.rows is None else source[self.rows]

    def _rows(self, indices: Indices) -> Tensor:
        if isinstance(indices, (list, tuple, range, np.ndarray)):
            found = np.asarray(indices, dtype=None if len(indices) else np.int64)
            whole = found.ndim == 1 and found.dtype.kind in "iu"
            indices = torch.from_numpy(found.astype(np.int64)) if whole else indices
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
            raise refusal("indices", indices, "integers, in a list or int64 tensor of shape (n,)")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(
                f"indices run from {int(indices.min())} to {int(indices.max())}, "
                f"accepted: 0 to {len(self) - 1}"
            )
        return indices if self.rows is None else self.rows[indices]
