r"""Distances of more samples than memory holds: by moments, or of the first samples.

Samples come in pieces and leave their moments alone, in blocks of b samples. A subset of s = 8 b
samples is 8 blocks of the n / b there are, so the variance v over such subsets, R of them, is that
of subsets of single samples, with fewer degrees of freedom, and

.. math:: se^2 = v \Big(\frac{s}{n - s} + \frac{1}{R}\Big)

as for `DistanceEstimator`. Distances that look at pairs of samples, or sort them, need all at once:
they are measured on the first samples, and their names say on how many.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sde_score.data import DataSet
from sde_score.evaluation.features.extractors import Extractor, feature_batches
from sde_score.evaluation.metrics.confidence import (
    DistanceEstimator,
    Interval,
    floor_of,
    interval_of,
)
from sde_score.evaluation.metrics.distances import Distance, FeatureDistance, named_distance
from sde_score.evaluation.metrics.frechet import FeatureStatistics, frechet, frechet_distance
from sde_score.random import generator_from

_MOST = 10_000  # samples that are held at once
_BYTES = 1 << 29  # that they may take, and the moments of a distance
_BLOCKS = 8  # in a subset
_PIECE = 1024  # examples that are read at once
_REPEATS = 40


def held_at_once(count: int, event_shape: Sequence[int]) -> int:
    """How many of the samples are held in memory: 10 000 at most, in half a gigabyte."""
    size = 4 * max(1, math.prod(event_shape))
    return min(count, _MOST, max(4, _BYTES // size))


class BlockMoments:
    """Moments of features in blocks of equal size, filled one after the other.

    Args:
        extractor: from examples in model range to features.
        size: examples in each block.
    """

    def __init__(self, extractor: Extractor, size: int) -> None:
        self.extractor, self.size = extractor, size
        self.blocks: list[FeatureStatistics] = []

    @property
    def count(self) -> int:
        """Examples in whole blocks."""
        return self.size * len(self._whole)

    @property
    def _whole(self) -> list[FeatureStatistics]:
        return [block for block in self.blocks if block.count == self.size]

    def add(self, x: Tensor) -> None:
        """Add examples in model range; those that memory has no block for are left out."""
        for features in feature_batches(x, self.extractor):
            width = features.shape[1]
            room = self.size - (self.blocks[-1].count or 0) if self.blocks else 0
            if room:
                self.blocks[-1].update(features[:room])
            most = max(2 * _BLOCKS, _BYTES // (8 * width**2)) - len(self.blocks)
            for part in torch.split(features[room:], self.size)[:most]:
                if len(part):
                    self.blocks.append(FeatureStatistics(width))
                    self.blocks[-1].update(part)

    def distances(self, reference: FeatureStatistics, seed: int) -> Tensor:
        """Fréchet distances of subsets to a reference, float64; they come in disjoint pairs."""
        whole, values = self._whole, []
        for repeat in range(_REPEATS):
            order = torch.randperm(len(whole), generator=generator_from(seed, repeat // 2))
            chosen = order[_BLOCKS * (repeat % 2) :][:_BLOCKS].tolist()
            subset = copy.deepcopy(whole[chosen[0]])
            for index in chosen[1:]:
                subset.merge(whole[index])
            values.append(frechet_distance(subset, reference))
        return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class StreamedEstimator:
    """Distances of samples that come in pieces, with 95% intervals and noise floors.

    Args:
        train: real examples for the noise floor.
        reference: examples that samples are measured against.
        count: samples of each set that will be measured.
        distances: specs, or functions of two sets.
        held: samples that distances see which need all at once.
        seed: random seed of the subsets.

    Raises:
        ValueError: as of `DistanceEstimator`, and for fewer than 32 examples for the floor.
    """

    train: DataSet
    reference: DataSet
    count: int
    distances: Sequence[str | Distance]
    held: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self._block < 2:
            raise ValueError(
                f"{len(self.train)} real examples give no floor for count={self.count} samples "
                f"that are measured in blocks: {4 * _BLOCKS} are needed"
            )
        _ = self._at_once

    @property
    def _block(self) -> int:
        return min(self.count, len(self.train)) // (2 * _BLOCKS)

    @property
    def size(self) -> int:
        """Samples in each measured subset of the distances by moments."""
        return _BLOCKS * self._block

    @cached_property
    def _measures(self) -> tuple[tuple[str, Distance], ...]:
        return tuple(named_distance(distance) for distance in self.distances)

    @cached_property
    def _by_moments(self) -> dict[str, Extractor]:
        return {
            name: measure.extractor
            for name, measure in self._measures
            if isinstance(measure, FeatureDistance) and measure.distance is frechet
        }

    @cached_property
    def _at_once(self) -> DistanceEstimator | None:
        others = [d for d, (name, _) in zip(self.distances, self._measures, strict=True)
                  if name not in self._by_moments]  # fmt: skip
        if not others:
            return None
        train, held_out = (
            part.subset(4096, self.seed).tensor() for part in (self.train, self.reference)
        )
        return DistanceEstimator(train, held_out, self.held, others, seed=self.seed)

    @property
    def held_out(self) -> DataSet:
        """Examples that samples are measured against."""
        return self.reference

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the distances, with how many samples they see where these are not all."""
        return tuple(
            name if name in self._by_moments else f"{name} (first {self.held})"
            for name, _ in self._measures
        )

    @cached_property
    def _references(self) -> dict[str, FeatureStatistics]:
        found = {}
        for name, extractor in self._by_moments.items():
            whole: FeatureStatistics | None = None
            for piece in _pieces(self.reference, torch.arange(len(self.reference))):
                part = FeatureStatistics.of(piece, extractor)
                whole = whole or FeatureStatistics(len(part.mean))
                whole.merge(part)
            if whole is not None:
                found[name] = whole
        return found

    @cached_property
    def floors(self) -> tuple[Interval, ...]:
        """Noise floor of each distance."""
        order = torch.randperm(len(self.train), generator=generator_from(self.seed))
        found = {}
        for name, extractor in self._by_moments.items():
            moments = BlockMoments(extractor, self._block)
            for piece in _pieces(self.train, order):
                moments.add(piece)
            values = moments.distances(self._references[name], self.seed)
            found[name] = floor_of(values, self.size, self.count, moments.count)
        return self._in_order(found, () if self._at_once is None else self._at_once.floors)

    def __call__(self, pieces: Iterable[Tensor]) -> tuple[Interval, ...]:
        """Distances of samples to the reference.

        Args:
            pieces: of the samples, in model range, `count` in all; each is let go.
        """
        moments = {
            name: BlockMoments(extractor, self._block)
            for name, extractor in self._by_moments.items()
        }
        first: list[Tensor] = []
        for piece in pieces:
            for each in moments.values():
                each.add(piece)
            missing = self.held - sum(map(len, first))
            if self._at_once is not None and missing > 0:
                first.append(piece[:missing].clone())
        found = {}
        for name, each in moments.items():
            values = each.distances(self._references[name], self.seed)
            found[name] = interval_of(values, self.size, each.count)
        return self._in_order(
            found, () if self._at_once is None else self._at_once(torch.cat(first))
        )

    def _in_order(
        self, by_moments: dict[str, Interval], others: Sequence[Interval]
    ) -> tuple[Interval, ...]:
        left = iter(others)
        return tuple(
            by_moments[name] if name in by_moments else next(left) for name, _ in self._measures
        )


def _pieces(dataset: DataSet, order: Tensor) -> Iterator[Tensor]:
    """Examples in model range, in an order, some at a time."""
    size = max(1, min(_PIECE, _BYTES // (64 * max(1, math.prod(dataset.event_shape)))))
    for rows in torch.split(order, size):
        yield dataset.batch(rows).x0
