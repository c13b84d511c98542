"""Data sets: raw examples in their own terms, and the scaling into the range of a model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.errors import DataError
from sde_score._core.statistics import chunks, largest_spread, mean_variance
from sde_score.data.limits import require_room
from sde_score.random import generator_from
from sde_score.scaling import Scaling, raw_dtype

# The largest pairwise distance costs count^2: above this many examples, or numbers, a random subset
# stands in.
_DISTANCE_EXAMPLES = 5000
_DISTANCE_NUMBERS = 1 << 26
_SMALLEST_SIDE = 4  # of an image, in pixels
_FEW = 32  # values of uint8 below this may be levels of their own


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether an event is an image: `(channels, height, width)`, at least 4 x 4 pixels."""
    return len(event_shape) == 3 and min(event_shape[1:]) >= _SMALLEST_SIDE


class Batch(NamedTuple):
    """Examples for a model.

    `x0` is float32 in model range, shape `(batch, *event)`; `condition` holds the labels, int64,
    shape `(batch,)`, or is None for data without labels.
    """

    x0: Tensor
    condition: Tensor | None


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
        sigma_data: root of the variance averaged over dimensions, in model range (EDM's
            `sigma_data`).
        sigma_max: largest Euclidean distance between two examples in model range: the noise with
            which a variance-exploding diffusion should end (Song & Ermon 2020, technique 1,
            https://arxiv.org/abs/2006.09011).
        sigma_max_examples: how many examples `sigma_max` was measured on; below `count` it is a
            random subset, and `sigma_max` a lower bound.
    """

    name: str
    count: int
    event_shape: tuple[int, ...]
    raw_min: float
    raw_max: float
    levels: int | None
    num_classes: int
    sigma_data: float
    sigma_max: float
    sigma_max_examples: int

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
        _source: raw examples, shape `(count, *event)`, on the CPU; may be memory-mapped.
        scaling: the map between raw terms and model range.
        labels: int64, shape `(count,)`, values 0 ... num_classes - 1; None without labels.
        num_classes: number of classes, 0 without labels.
        class_names: name of each class where the source has them, else empty.
        rows: rows of `_source` that make up the data set, int64; None for all of them.
    """

    name: str
    _source: Tensor
    scaling: Scaling
    labels: Tensor | None = None
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    rows: Tensor | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self._source.shape[1:])

    def __len__(self) -> int:
        return len(self._source if self.rows is None else self.rows)

    def __repr__(self) -> str:
        return (
            f"DataSet({self.name!r}, count={len(self)}, event_shape={self.event_shape}, "
            f"levels={self.scaling.levels}, num_classes={self.num_classes})"
        )

    def __getitem__(self, key: int | slice | Tensor) -> Tensor:
        """Raw examples: one for an integer, `(n, *event)` for a slice or an int64 tensor `(n,)`.

        Raises:
            IndexError: for an integer out of range, as of a list.
        """
        if isinstance(key, slice):
            rows = range(len(self))[key]
            return self.raw(torch.arange(len(rows)) * rows.step + rows.start)
        if isinstance(key, Tensor):
            return self.raw(key)
        return self.raw(torch.tensor([range(len(self))[key]]))[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def raw(self, indices: Tensor | None = None) -> Tensor:
        """Examples in the data set's own terms, shape `(len(indices), *event)`.

        Args:
            indices: int64, shape `(n,)`, values 0 ... len(self) - 1; None for all.
        """
        return self._all() if indices is None else self._source[self._rows(indices)]

    @property
    def is_image(self) -> bool:
        """Whether an example is an image, see `is_image`."""
        return is_image(self.event_shape)

    def batch(self, indices: Tensor) -> Batch:
        """Examples in model range with their labels, in the order of `indices` (as for `raw`)."""
        return Batch(self.scaling.to_model(self.raw(indices)), self.labels_at(indices))

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Labels of examples, int64, in the order of `indices`; None for data without labels."""
        return None if self.labels is None else self.labels[self._rows(indices)]

    @property
    def sigma_data(self) -> float:
        """Root of the variance averaged over dimensions, in model range; reads all examples."""
        return math.sqrt(mean_variance(self._source, self.scaling.to_model, self.rows))

    def tensor(self, limit: int | None = None) -> Tensor:
        """All examples, or the first `limit`, in model range: float32, shape `(count, *event)`."""
        if limit is not None:
            require_count(limit=limit)
        count = len(self) if limit is None else min(limit, len(self))
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
        """Measure the data set: reads all of it, seconds for tens of thousands of images."""
        size = max(1, math.prod(self.event_shape))
        examples = min(len(self), _DISTANCE_EXAMPLES, max(2, _DISTANCE_NUMBERS // size))
        chosen = torch.arange(len(self))
        if examples < len(self):
            chosen = torch.randperm(len(self), generator=generator_from(0))[:examples]
        ends = [(piece.min().item(), piece.max().item()) for piece in self._pieces()]
        return DataInfo(
            name=self.name,
            count=len(self),
            event_shape=self.event_shape,
            raw_min=min(low for low, _ in ends),
            raw_max=max(high for _, high in ends),
            levels=self.scaling.levels,
            num_classes=self.num_classes,
            sigma_data=self.sigma_data,
            sigma_max=largest_spread(self._source, self.scaling.to_model, self._rows(chosen)),
            sigma_max_examples=examples,
        )

    def _pieces(self) -> Iterator[Tensor]:
        return chunks(self._source, self.rows)

    def _all(self) -> Tensor:
        return self._source if self.rows is None else self._source[self.rows]

    def _rows(self, indices: Tensor) -> Tensor:
        if not isinstance(indices, Tensor) or indices.dtype != torch.int64 or indices.ndim != 1:
            raise TypeError("indices must be an int64 tensor of shape (n,): try torch.arange(n)")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(
                f"indices run from {int(indices.min())} to {int(indices.max())}, "
                f"accepted: 0 to {len(self) - 1}"
            )
        return indices if self.rows is None else self.rows[indices]


def from_tensor(
    x: Tensor,
    labels: Tensor | None = None,
    scaling: Scaling | None = None,
    *,
    name: str = "tensor",
    class_names: tuple[str, ...] = (),
) -> DataSet:
    """A data set over a tensor.

    Args:
        x: raw examples, shape `(count, *event)`; images are `(count, channels, height, width)`.
            uint8 is taken as discrete with 256 levels, or with those that occur where these are 0,
            1, ... up to at most 31. Floating-point is continuous: tables `(count, features)` are
            standardized column by column, all else by one mean and one standard deviation.
        labels: integers from 0 up, shape `(count,)`. Those that occur are the classes; where they
            are not 0, 1, ..., they are numbered in their order and kept as `class_names`.
        scaling: map into model range, where that default is not meant:
            `Scaling.discrete(levels)` for integers 0 ... levels - 1, `Scaling.standardize(x)` for
            tables whose columns share one scale, `Scaling()` for data that are in model range.
        name: of the data set, in reports.
        class_names: name of each class; gives the number of classes.

    Raises:
        TypeError: if `x` or `labels` are not tensors of such a kind.
        DataError: if there are no examples, a value is not finite or no level, images have their
            channels last, or labels do not fit.
    """
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of real numbers, got {what}: try torch.as_tensor(x)")
    if x.ndim < 2 or x.numel() == 0:
        raise DataError(
            f"x has shape {tuple(x.shape)}, accepted: (count, *event) with at least one example; "
            "reshape single numbers to (count, 1)"
        )
    x = x.detach().cpu()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    _require_finite(x)
    _look_at_layout(tuple(x.shape))
    if scaling is None:
        scaling = _default_scaling(x)
    if scaling.levels is not None:
        x = _as_levels(x, scaling.levels)
    scaling.log_abs_det(tuple(x.shape[1:]))  # refuses a scaling for other events
    if labels is None:
        return DataSet(name, x, scaling)
    labels = _checked_labels(labels, len(x), class_names)
    if not class_names:
        found = torch.unique(labels)
        if int(found[-1]) >= len(found):
            labels, class_names = torch.searchsorted(found, labels), tuple(map(str, found.tolist()))
    num_classes = len(class_names) or int(labels.max()) + 1
    return DataSet(name, x, scaling, labels, num_classes, tuple(class_names))


def _default_scaling(x: Tensor) -> Scaling:
    if x.dtype == torch.uint8:
        return Scaling.discrete(_levels(x))
    if not x.is_floating_point():
        raise TypeError(
            f"x of {x.dtype} needs a scaling: give scaling=Scaling.discrete(levels) for whole "
            "numbers 0 ... levels - 1, or x.float() for continuous data"
        )
    return Scaling.standardize(x, per_feature=x.ndim == 2)


def _levels(x: Tensor) -> int:
    """Levels of uint8 data, by the values that occur.

    Raises:
        DataError: if these are small numbers with gaps, such as 0, 1, 3.
    """
    largest = int(x.max())
    if not 0 < largest < _FEW:
        return 256
    found = sorted({value for piece in chunks(x) for value in torch.unique(piece).tolist()})
    if found != list(range(largest + 1)):
        raise DataError(
            f"the only values are {', '.join(map(str, found))}, so that the number of levels is in "
            f"doubt: give levels={largest + 1} or levels=256 for a file, or "
            f"scaling=Scaling.discrete({largest + 1})"
        )
    return largest + 1


def _look_at_layout(shape: tuple[int, ...]) -> None:
    """Refuse images with channels last, and say what is taken as no image."""
    if len(shape) == 4 and shape[3] in (1, 3, 4) and min(shape[1:3]) > max(4, shape[3]):
        raise DataError(
            f"examples of shape {shape[1:]} look like images with channels last; "
            "accepted: (count, channels, height, width), perhaps after x.permute(0, 3, 1, 2)"
        )
    if len(shape) == 3 and min(shape[1:]) >= 2 * _SMALLEST_SIDE:
        warnings.warn(
            f"examples of shape {shape[1:]} are taken as numbers, not as images: gray images have "
            f"the shape (1, {shape[1]}, {shape[2]}), as after x.unsqueeze(1)",
            stacklevel=4,
        )


def _require_finite(x: Tensor) -> None:
    if not x.is_floating_point():
        return
    first = 0
    for piece in chunks(x):
        finite = torch.isfinite(piece).flatten(1).all(1)
        if not bool(finite.all()):
            row = first + int(torch.nonzero(~finite)[0])
            raise DataError(f"example {row} holds NaN or infinity: remove it or fill it in")
        first += len(piece)


def _as_levels(x: Tensor, levels: int) -> Tensor:
    if x.dtype != torch.uint8 and not x.is_floating_point():
        x = x.to(torch.int64)  # torch compares few other unsigned types
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > levels - 1:
        raise DataError(
            f"values run from {low:g} to {high:g}, {levels} levels are 0 ... {levels - 1}"
        )
    if x.is_floating_point() and not all(bool((p == p.round()).all()) for p in chunks(x)):
        raise DataError(f"some values are not integers, {levels} levels are 0 ... {levels - 1}")
    return x.to(raw_dtype(levels))


def _checked_labels(labels: Tensor, count: int, class_names: tuple[str, ...]) -> Tensor:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        what = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels must be a tensor of integers, got {what}: try labels.long()")
    if tuple(labels.shape) != (count,):
        raise DataError(
            f"labels have shape {tuple(labels.shape)} for {count} examples, accepted: ({count},)"
        )
    labels = labels.detach().cpu().to(torch.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (class_names and high >= len(class_names)):
        upper = f" to {len(class_names) - 1}" if class_names else ""
        raise DataError(f"labels run from {low} to {high}, accepted: integers from 0{upper}")
    return labels
