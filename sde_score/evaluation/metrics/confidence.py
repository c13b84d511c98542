r"""Distances of samples to a held-out set, with 95% intervals and a noise floor.

A distance between two finite sets depends on their sizes, so all that are compared here have one
size, s: the value of a sampler is the mean of D over random subsets of s of its n samples, each
measured against the whole held-out set, which is the same for all. The spread of D over such
subsets tells the error of the value due to the choice of samples. With v the variance over subsets
drawn without replacement, R of them,

.. math:: se^2 = v \Big(\frac{s}{n - s} + \frac{1}{R}\Big), \qquad
          \text{95\%: } value \pm 1.96\, se .

The first term is the delete-(n - s) jackknife, the second vanishes with more subsets. Intervals
cover sampling variability only: the held-out set is common to all rows and to the floor, and
cancels in their differences.

The noise floor is the value of perfect samples: the same statistic of the training data, of N
examples. Subsets of N examples overlap, which hides the share s / N of their variance; so one
subset has the variance v / (1 - s / N), and a value made of n perfect samples lies within

.. math:: mean \pm 1.96\, \sqrt{\frac{v}{1 - s/N} \Big(\frac{s}{n} + \frac{1}{R}\Big)}

in 95% of the cases. Both are exact for a D that is linear in the sets and err on the wide side
where D is not, as at the floor itself.

Reference: Shao & Wu 1989, https://doi.org/10.1214/aos/1176347263.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.records import Record
from sde_score.evaluation.features.extractors import extract
from sde_score.evaluation.metrics._sets import require_sets
from sde_score.evaluation.metrics.distances import (
    DEFAULT,
    Distance,
    FeatureDistance,
    named_distance,
)
from sde_score.evaluation.provenance import provenance
from sde_score.random import generator_from

_NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Interval(Record):
    """An estimate with its standard error.

    Args:
        value: the estimate.
        standard_error: of the value, in its units.
    """

    value: float
    standard_error: float

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.value - self.margin

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.value + self.margin

    @property
    def margin(self) -> float:
        """Half of the 95% interval."""
        return _NORMAL_95 * self.standard_error


class _Sets(NamedTuple):
    """A distance with the examples it compares, or their features."""

    distance: Distance
    held_out: Tensor
    train: Tensor | None


def interval_of(values: Tensor, size: int, count: int) -> Interval:
    """The distance of samples.

    Args:
        values: of random subsets of them, shape `(R,)`.
        size: of a subset, s.
        count: of all samples, n.
    """
    share = size / (count - size) + 1 / len(values)
    return Interval(float(values.mean()), float(values.std()) * math.sqrt(share))


def floor_of(values: Tensor, size: int, count: int, examples: int) -> Interval:
    """The noise floor.

    Args:
        values: of random subsets of the training data, shape `(R,)`.
        size: of a subset, s.
        count: of the samples that stand beside it, n.
        examples: of the training data, N.
    """
    variance = float(values.var()) / (1 - size / examples)
    share = size / count + 1 / len(values)
    return Interval(float(values.mean()), math.sqrt(variance * share))


@dataclass(frozen=True, eq=False)
class DistanceEstimator:
    """Distances of samples to held-out data, with 95% intervals and noise floors.

    Args:
        train: the data of training, in model range, shape `(N, *event)`; for the noise floor, None
            for none.
        held_out: data that training never saw, shape `(m, *event)`, m >= 2.
        count: samples n of each set that will be measured, at least 4.
        distances: specs such as `"frechet(extractor='pixels')"` (`DISTANCES`), or functions of two
            sets.
        repeats: subsets R, at least 2.
        seed: random seed of the subsets, which are the same for all sets of samples.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if a set is too small, the sets do not fit, or a distance is unknown.
    """

    train: Tensor | None
    held_out: Tensor
    count: int
    distances: Sequence[str | Distance] = ("sliced-wasserstein2(projections=128)", "frechet")
    repeats: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        require_count(4, count=self.count)
        require_count(2, repeats=self.repeats)
        train = self.held_out if self.train is None else self.train
        require_sets(train, self.held_out)
        if self.size < 2:
            raise ValueError(
                f"train holds {len(train)} examples: two disjoint sets of 2 need at least 4"
            )
        if not self.distances:
            raise ValueError("distances is empty: name at least one, such as 'frechet'")
        _ = self._measures

    @property
    def size(self) -> int:
        """Examples s in each measured subset: half the samples, or half the training data."""
        return min(self.count, self.count if self.train is None else len(self.train)) // 2

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the distances, with their extractors in brackets."""
        return tuple(name for name, _ in self._measures)

    @property
    def identity(self) -> str:
        """Names of the distances, with a digest of what measures them."""
        return f"{', '.join(self.names)} | {provenance(*self._measures)}"

    @cached_property
    def floors(self) -> tuple[Interval, ...]:
        """Noise floor of each distance: what perfect samples would score, and how far off.

        Raises:
            ValueError: without training data.
        """
        return tuple(self._floor(sets) for sets in self._sets)

    def __call__(self, samples: Tensor) -> tuple[Interval, ...]:
        """Distances of samples to the held-out data, one interval per distance.

        Args:
            samples: in model range, shape `(count, *event)`.

        Raises:
            ValueError: if their number or shape does not fit, or they are not finite.
        """
        if len(samples) != self.count:
            raise ValueError(f"{len(samples)} samples came, expected are count={self.count}")
        require_sets(samples, self.held_out)
        found = []
        for (_, measure), sets in zip(self._measures, self._sets, strict=True):
            values = self._subsets(sets, _seen_by(measure, samples))
            found.append(interval_of(values, self.size, self.count))
        return tuple(found)

    @cached_property
    def _measures(self) -> tuple[tuple[str, Distance], ...]:
        return tuple(named_distance(distance) for distance in self.distances)

    @cached_property
    def _sets(self) -> tuple[_Sets, ...]:
        """Sets, or their features, which are extracted once: subsets are taken of features."""
        return tuple(
            _Sets(
                measure.distance if isinstance(measure, FeatureDistance) else measure,
                _seen_by(measure, self.held_out),
                None if self.train is None else _seen_by(measure, self.train),
            )
            for _, measure in self._measures
        )

    def _floor(self, sets: _Sets) -> Interval:
        if sets.train is None:
            raise ValueError("train=None: the noise floor is that of the training data; give them")
        values = self._subsets(sets, sets.train)
        return floor_of(values, self.size, self.count, len(sets.train))

    def _subsets(self, sets: _Sets, x: Tensor) -> Tensor:
        """The distance of each subset of x to the held-out data, float64, shape `(repeats,)`.

        Subsets come in disjoint pairs, halves of one permutation, whose first-order errors cancel.
        """
        values = []
        for repeat in range(self.repeats):
            order = torch.randperm(len(x), generator=generator_from(self.seed, repeat // 2))
            first = self.size * (repeat % 2)
            rows = order[first : first + self.size].to(x.device)
            values.append(sets.distance(x[rows], sets.held_out))
        return torch.tensor(values, dtype=torch.float64)


def _seen_by(measure: Distance, x: Tensor) -> Tensor:
    return extract(x, measure.extractor) if isinstance(measure, FeatureDistance) else x


class Measurement(NamedTuple):
    """A distance of samples to data, and the noise floor: where perfect samples would fall."""

    distance: Interval
    floor: Interval | None


def distances(
    samples: Tensor,
    held_out: Tensor,
    names: Sequence[str | Distance] = DEFAULT,
    *,
    train: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Compare two sets of examples by hand.

    For example `distances(samples, held_out, ["energy"], train=train)["energy"].distance.value`.

    Args:
        samples: shape `(n, *event)`, n >= 4.
        held_out: what they are compared with, shape `(m, *event)`, m >= 2.
        names: distances, as specs (`DISTANCES`) or functions of two sets.
        train: other examples of the same distribution as `held_out`, for the noise floor; None for
            no floor.
        seed: random seed of the subsets.

    Returns:
        By name of the distance.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if a set is too small, the sets do not fit, or a distance is unknown.
    """
    estimator = DistanceEstimator(train, held_out, len(samples), names, seed=seed)
    found = estimator(samples)
    floors = [None] * len(found) if train is None else estimator.floors
    measured = map(Measurement, found, floors)
    return dict(zip(estimator.names, measured, strict=True))
