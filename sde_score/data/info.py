"""Measures of a data set: its range, its scales, and the facts by which a diffusion is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sde_score._core.conditions import ConditionShape
from sde_score._core.errors import DataError
from sde_score._core.statistics import chunks, largest_spread, mean_squares, moments
from sde_score.data.sources.base import Rows, few
from sde_score.random import generator_from

if TYPE_CHECKING:
    from sde_score.data.dataset import DataSet

# The largest pairwise distance costs count^2: above this many examples, or numbers, a random subset
# stands in.
_DISTANCE_EXAMPLES = 5000
_DISTANCE_NUMBERS = 1 << 26
# Other statistics read all examples in memory, and of those that are read lazily a random subset.
_MEASURED_EXAMPLES = 5000
_MEASURED_NUMBERS = 1 << 28


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


def info_of(dataset: DataSet) -> DataInfo:
    """The facts of a data set, see `DataSet.info`."""
    count, size = len(dataset), _size(dataset)
    examples = min(count, _DISTANCE_EXAMPLES, max(2, _DISTANCE_NUMBERS // size))
    rows = _subset(dataset, examples)
    if rows is None:
        chosen = torch.arange(count)
        if examples < count:
            chosen = torch.randperm(count, generator=generator_from(0))[:examples]
        rows = dataset._rows(chosen)
    ends = [
        (_filled(piece, math.inf).min().item(), _filled(piece, -math.inf).max().item())
        for piece in _pieces(dataset)
    ]
    sigma_data, deviation = scales_of(dataset)
    return DataInfo(
        name=dataset.name,
        count=count,
        event_shape=dataset.event_shape,
        raw_min=min(low for low, _ in ends),
        raw_max=max(high for _, high in ends),
        levels=dataset.scaling.levels,
        num_classes=dataset.num_classes,
        sigma_data=sigma_data,
        deviation=deviation,
        sigma_max=largest_spread(dataset._source, partial(_known, dataset), rows),
        sigma_max_examples=len(rows),
        condition_shape=dataset.condition_shape,
        measured_examples=min(count, _most(dataset)) if dataset.is_lazy else count,
    )


def scales_of(dataset: DataSet) -> tuple[float, float]:
    """Root mean square about zero, and about the mean example, in model range."""
    if dataset.coding is not None and dataset.coding.has_missing:
        columns = dataset.scaling.to_model(dataset.raw()).double().T
        known = [column[~column.isnan()][:, None] for column in columns]
        means = [moments(column) for column in known if len(column)]
        variance = float(torch.stack([spread for _, spread in means]).mean())
        square = variance + float(torch.stack([mean.square() for mean, _ in means]).mean())
        return math.sqrt(square), math.sqrt(variance)
    to_model = dataset.scaling.to_model
    square, variance = mean_squares(dataset._source, to_model, _measured(dataset))
    return math.sqrt(square), math.sqrt(variance)


def range_of(dataset: DataSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Smallest and largest raw value of each channel or column, see `DataSet.value_range`."""
    lows, highs = [], []
    for piece in _pieces(dataset):
        values = piece.transpose(0, 1).flatten(1)
        lows.append(_filled(values, math.inf).amin(1).double())
        highs.append(_filled(values, -math.inf).amax(1).double())
    low, high = torch.stack(lows).amin(0), torch.stack(highs).amax(0)
    return tuple(low.tolist()), tuple(high.tolist())


def _filled(values: Tensor, number: float) -> Tensor:
    """Values with a number in place of NaN, which only floating-point ones have."""
    return torch.nan_to_num(values, number) if values.is_floating_point() else values


def _known(dataset: DataSet, raw: Tensor) -> Tensor:
    """Raw examples in model range, 0, about their mean, where entries are missing."""
    return _filled(dataset.scaling.to_model(raw), 0.0)


def _pieces(dataset: DataSet) -> Iterator[Tensor]:
    return chunks(dataset._source, _measured(dataset))


def _measured(dataset: DataSet) -> Tensor | None:
    """Rows on which figures are measured: None for all, as of examples in memory."""
    return _subset(dataset, _most(dataset)) if dataset.is_lazy else dataset.rows


def _size(dataset: DataSet) -> int:
    return max(1, math.prod(dataset.event_shape))


def _most(dataset: DataSet) -> int:
    """Examples on which figures are measured, where these are read lazily."""
    return min(_MEASURED_EXAMPLES, max(2, _MEASURED_NUMBERS // _size(dataset)))


def _subset(dataset: DataSet, count: int) -> Tensor | None:
    """A random subset of rows that are read lazily; None for examples in memory."""
    source = dataset._source
    if not isinstance(source, Rows):
        return None
    rows = few(source, dataset.rows, count)
    if dataset.on_bad_example == "skip":
        rows = rows[source.readable(rows)[0]]
    if not len(rows):
        raise DataError(f"{dataset.name}: none of {count} examples can be read")
    return rows
