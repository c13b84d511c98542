"""Data sets: raw examples in their own terms, and the scaling into the range of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import is_integer, plain, refusal, require_count
from sde_score._core.conditions import Condition, ConditionShape, rows_of
from sde_score._core.statistics import chunks, largest_spread, mean_squares
from sde_score.data.limits import require_room
from sde_score.data.sources.base import Rows, few
from sde_score.random import generator_from
from sde_score.scaling import ConditionScaling, Scaling, condition_to_model

# The largest pairwise distance costs count^2: above this many examples, or numbers, a random subset
# stands in.
_DISTANCE_EXAMPLES = 5000
_DISTANCE_NUMBERS = 1 << 26
# Other statistics read all examples in memory, and of those that are read lazily a random subset.
_MEASURED_EXAMPLES = 5000
_MEASURED_NUMBERS = 1 << 28
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


@dataclass(frozen=True)
class DataInfo:
    """Facts of a data set by which a diffusion is chosen.

    Attributes:
        name: name of the data set.
        count: number of examples.
        event_shape: shape of one example.
        raw_min: smallest raw value.
        raw_max: largest raw value.
        levels: number of levels of discrete data, None for continuous data.
        num_classes: number of classes, 0 without labels.
        condition_shape: of one condition, or of each in a dictionary; empty without.
        sigma_data: root mean square of all entries in model range, by which networks scale their
            input (EDM's `sigma_data`); 1 for standardized data.
        deviation: root of the variance averaged over dimensions, in model range: about the mean
            example, the length over which the density changes. At most `sigma_data`.
        sigma_max: largest Euclidean distance between two examples in model range: the noise with
            which a variance-exploding diffusion should end (Song & Ermon 2020, technique 1,
            https://arxiv.org/abs/2006.09011).
        sigma_max_examples: how many examples `sigma_max` was measured on; below `count` it is a
            random subset, and `sigma_max` a lower bound.
        measured_examples: how many examples the other figures were measured on; below `count`,
            where examples are read lazily, it is a random subset.
    """

    name: str
    count: int
    event_shape: tuple[int, ...]
    raw_min: float
    raw_max: float
    levels: int | None
    num_classes: int
    sigma_data: float
    deviation: float
    sigma_max: float
    sigma_max_examples: int
    condition_shape: ConditionShape = ()
    measured_examples: int = 0

    @property
    def sigma_max_is_exact(self) -> bool:
        """Whether every pair of examples was measured."""
        return self.sigma_max_examples == self.count


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

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self._source.shape[1:])

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
        found = self._all() if indices is None else self._source[self._rows(indices)]
        return found.contiguous()  # a view whose channels are last has copies as it has

    @property
    def is_image(self) -> bool:
        """Whether an example is an image, see `is_image`."""
        return is_image(self.event_shape)

    def batch(self, indices: Indices) -> Batch:
        """Examples in model range with their conditions, in the order of `indices`, as `raw`."""
        return Batch(self.scaling.to_model(self.raw(indices)), self.conditions_at(indices))

    def conditions_at(self, indices: Indices) -> Condition:
        """Conditions in model range, or labels, in the order of `indices`; None for neither."""
        if self.conditions is None:
            return self.labels_at(indices)
        found = rows_of(self.conditions, self._rows(indices))
        return condition_to_model(found, self.condition_scaling)

    def labels_at(self, indices: Indices) -> Tensor | None:
        """Labels of examples, int64, in the order of `indices`; None for data without labels."""
        return None if self.labels is None else self.labels[self._rows(indices)]

    @property
    def sigma_data(self) -> float:
        """Root mean square of all entries in model range; reads all examples, or of those that are
        read lazily a random subset."""
        return self._scales()[0]

    @property
    def is_lazy(self) -> bool:
        """Whether examples are read when they are asked for."""
        return isinstance(self._source, Rows)

    def value_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Smallest and largest raw value of each channel or column; reads all examples, or of
        those that are read lazily a random subset.

        Both run over the first dimension of an event.
        """
        lows, highs = [], []
        for piece in self._pieces():
            values = piece.transpose(0, 1).flatten(1)
            lows.append(values.amin(1).double())
            highs.append(values.amax(1).double())
        low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
        return tuple(low.tolist()), tuple(high.tolist())

    def tensor(self, limit: int | None = None) -> Tensor:
        """All examples, or the first `limit`, in model range: float32, shape `(count, *event)`."""
        if limit is not None:
            require_count(limit=limit)
        count = len(self) if limit is None else min(int(plain(limit)), len(self))
        require_room(4 * count * math.prod(self.event_shape), "take fewer with limit=...")
        out = torch.empty((count, *self.event_shape), dtype=torch.float32)
        first = 0
        for piece in chunks(self._source, self._rows(torch.arange(count))):
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
        train, held = (replace(self, rows=part) for part in parts)
        return train, held

    def subset(self, count: int, seed: int = 0) -> DataSet:
        """A random choice of `count` examples in their order, or all where there are no more.

        Args:
            count: at least 1.
            seed: random seed.
        """
        require_count(count=count)
        order = torch.randperm(len(self), generator=generator_from(seed))
        return replace(self, rows=self._rows(order[:count].sort().values))

    def info(self) -> DataInfo:
        """Measure the data set: reads all of it, seconds for tens of thousands of images.

        Of examples that are read lazily it reads a random subset of thousands.
        """
        size = max(1, math.prod(self.event_shape))
        examples = min(len(self), _DISTANCE_EXAMPLES, max(2, _DISTANCE_NUMBERS // size))
        rows = self._subset(examples)
        if rows is None:
            chosen = torch.arange(len(self))
            if examples < len(self):
                chosen = torch.randperm(len(self), generator=generator_from(0))[:examples]
            rows = self._rows(chosen)
        ends = [(piece.min().item(), piece.max().item()) for piece in self._pieces()]
        sigma_data, deviation = self._scales()
        return DataInfo(
            name=self.name,
            count=len(self),
            event_shape=self.event_shape,
            raw_min=min(low for low, _ in ends),
            raw_max=max(high for _, high in ends),
            levels=self.scaling.levels,
            num_classes=self.num_classes,
            sigma_data=sigma_data,
            deviation=deviation,
            sigma_max=largest_spread(self._source, self.scaling.to_model, rows),
            sigma_max_examples=examples,
            condition_shape=self.condition_shape,
            measured_examples=min(len(self), self._most()) if self.is_lazy else len(self),
        )

    def _pieces(self) -> Iterator[Tensor]:
        return chunks(self._source, self._measured())

    def _measured(self) -> Tensor | None:
        """Rows on which figures are measured: None for all, as of examples in memory."""
        return self._subset(self._most()) if self.is_lazy else self.rows

    def _most(self) -> int:
        """Examples on which figures are measured, where these are read lazily."""
        size = max(1, math.prod(self.event_shape))
        return min(_MEASURED_EXAMPLES, max(2, _MEASURED_NUMBERS // size))

    def _subset(self, count: int) -> Tensor | None:
        """A random subset of rows that are read lazily; None for examples in memory."""
        source = self._source
        return few(source, self.rows, count) if isinstance(source, Rows) else None

    def _scales(self) -> tuple[float, float]:
        """Root mean square about zero, and about the mean example, in model range."""
        square, variance = mean_squares(self._source, self.scaling.to_model, self._measured())
        return math.sqrt(square), math.sqrt(variance)

    def _all(self) -> Tensor:
        source = self._source
        if isinstance(source, Rows):
            size = len(self) * math.prod(self.event_shape) * self.dtype.itemsize
            require_room(size, "read them in parts, as with dataset[:1000]")
            return source[torch.arange(len(source)) if self.rows is None else self.rows]
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
