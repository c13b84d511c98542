"""Samples against data: every distance beside its floor, what data against data would score."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sde_score._core.checks import require_count
from sde_score.evaluation.metrics._sets import require_sets
from sde_score.evaluation.metrics.distances import DEFAULT, Distance, create
from sde_score.random import generator_from


@dataclass(frozen=True)
class Floor:
    """Law of a distance between two sets of data: what perfect samples would score.

    Args:
        mean: average over repeats.
        std: standard deviation of a single comparison, not of the mean.
        with_replacement: True if the data was too small for two disjoint sets, so that both were
            drawn from it with replacement; the copies make `std` of pairwise distances too large.
    """

    mean: float
    std: float
    with_replacement: bool


@dataclass(frozen=True)
class Score:
    """One distance between samples and data, and its floor.

    Args:
        name: the distance, as `create` takes it.
        value: distance between `size` samples and `size` examples of the data.
        floor_mean: average distance between two disjoint sets of `size` examples of the data.
        floor_std: standard deviation of that distance over such pairs.
        size: number of examples in every set.
    """

    name: str
    value: float
    floor_mean: float
    floor_std: float
    size: int


def noise_floor(
    distance: str | Distance, data: Tensor, size: int, repeats: int = 10, seed: int = 0
) -> Floor:
    """Distance of data against data: random pairs of disjoint sets of `size` examples.

    Args:
        distance: a function of two sets, or a name that `create` takes, such as `"energy"`.
        data: shape `(m, *event)`. With `m < 2 * size` the sets are drawn with replacement, and the
            result says so.
        size: examples in each set, at least 2; the floor is for comparisons of this size only.
        repeats: number of pairs, at least 2.
        seed: names the pairs; pair r depends on `(seed, r)` alone.

    Returns:
        Mean and standard deviation over the pairs.

    Raises:
        TypeError: if `data` is not a floating-point tensor.
        ValueError: if a count is too small, the distance is unknown, or it refuses the data.
    """
    require_count(2, size=size, repeats=repeats)
    require_sets(data, data)
    measure = create(distance) if isinstance(distance, str) else distance
    with_replacement = 2 * size > len(data)
    values = []
    for repeat in range(repeats):
        generator = generator_from(seed, repeat)
        if with_replacement:
            rows = torch.randint(len(data), (2 * size,), generator=generator)
        else:
            rows = torch.randperm(len(data), generator=generator)[: 2 * size]
        rows = rows.to(data.device)
        values.append(measure(data[rows[:size]], data[rows[size:]]))
    return Floor(statistics.fmean(values), statistics.stdev(values), with_replacement)


def compare(
    samples: Tensor, data: Tensor, distances: Sequence[str] | None = None, seed: int = 0
) -> list[Score]:
    """Measure how far samples are from data, and how far data is from data at the same size.

    Every set has `size = min(n, m // 2)` examples, drawn at random without replacement, so that a
    value and its floor are the same statistic: samples of the law of the data score within a few
    `floor_std` of `floor_mean`.

    Args:
        samples: shape `(n, *event)`, n >= 2.
        data: shape `(m, *event)`, m >= 4; m >= 2 n uses every sample.
        distances: names as `create` takes them; None takes those in `DEFAULT`.
        seed: names the random subsets.

    Returns:
        One score per distance, in the order asked for.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite, or a distance is
            unknown.
    """
    require_sets(samples, data)
    if len(data) < 4:
        raise ValueError(f"data holds {len(data)} examples: two disjoint sets of 2 need at least 4")
    size = min(len(samples), len(data) // 2)
    measures = {name: create(name) for name in (DEFAULT if distances is None else distances)}
    generator = generator_from(seed)
    x, y = _draw(samples, size, generator), _draw(data, size, generator)
    scores = []
    for name, measure in measures.items():
        floor = noise_floor(measure, data, size, seed=seed)
        scores.append(Score(name, measure(x, y), floor.mean, floor.std, size))
    return scores


def _draw(x: Tensor, size: int, generator: Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]
