"""Results of a benchmark of samplers: a row for each entry and seed, and their means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sde_score._core.records import Record
from sde_score.evaluation.metrics.confidence import Interval


@dataclass(frozen=True)
class BenchmarkRow(Record):
    """Result of an entry with one seed.

    Args:
        sampler: of the `Entry`.
        grid: of the `Entry`.
        spec: of the `Entry`.
        stochastic: of the `Entry`.
        budget: of the `Entry`.
        source: of the `Entry`.
        seed: random seed of the starts; None for a mean over seeds.
        nfe: evaluations per sample, counted on the model.
        seconds: for all samples.
        rms: root mean square error to the end of the flow; None where noise is drawn.
        median: over samples of the same for each sample.
        distances: by name.
        nll_gap: per dimension; None where the density is not known.
        reason: why there are no figures; empty otherwise.
    """

    sampler: str
    grid: str
    spec: str
    stochastic: bool
    budget: int | None = None
    source: str = ""
    seed: int | None = None
    nfe: float = math.nan
    seconds: float = math.nan
    rms: float | None = None
    median: float | None = None
    distances: Mapping[str, Interval] | None = None
    nll_gap: Interval | None = None
    reason: str = ""

    @property
    def label(self) -> str:
        """Library, sampler and grid."""
        name = f"{self.source} {self.sampler}" if self.source else self.sampler
        return f"{name} [{self.grid}]"


@dataclass(frozen=True)
class Benchmark(Record):
    """All that was measured on a target.

    Args:
        target: its name.
        sde: of the model that samplers saw.
        flow: how the flow was found.
        count: samples per row.
        names: of the distances.
        floors: values of as many perfect samples: the distances and, where the density is known,
            `nll gap`.
        rows: one for each entry and seed.
        data: other data than a run's own that samples were measured against, in words; else empty.
    """

    target: str
    sde: str
    flow: str
    count: int
    names: tuple[str, ...]
    floors: Mapping[str, Interval]
    rows: tuple[BenchmarkRow, ...] = ()
    data: str = ""

    @property
    def means(self) -> list[BenchmarkRow]:
        """Rows averaged over seeds: root mean squares of the error, means of the rest."""
        groups: dict[str, list[BenchmarkRow]] = {}
        for row in self.rows:
            groups.setdefault(row.spec, []).append(row)
        return [_mean_row(group) for group in groups.values()]


def _mean_row(group: Sequence[BenchmarkRow]) -> BenchmarkRow:
    first = replace(group[0], seed=None)
    failed = [row for row in group if row.reason]
    if failed:
        reason = failed[0].reason
        if len(group) > 1:
            reason = f"{len(failed)} of {len(group)} seeds: {reason}"
        empty = replace(first, rms=None, median=None, distances=None, nll_gap=None)
        return replace(empty, nfe=failed[0].nfe, seconds=failed[0].seconds, reason=reason)
    row = replace(
        first,
        nfe=statistics.fmean(row.nfe for row in group),
        seconds=statistics.fmean(row.seconds for row in group),
    )
    squares = [row.rms**2 for row in group if row.rms is not None]
    medians = [row.median for row in group if row.median is not None]
    if squares and medians:
        rms, median = math.sqrt(statistics.fmean(squares)), statistics.fmean(medians)
        row = replace(row, rms=rms, median=median)
    gaps = [row.nll_gap for row in group if row.nll_gap is not None]
    several = [row.distances for row in group if row.distances is not None]
    names = several[0] if several else {}
    distances = {name: _mean([each[name] for each in several]) for name in names}
    return replace(row, distances=distances or None, nll_gap=_mean(gaps) if gaps else None)


def _mean(found: Sequence[Interval]) -> Interval:
    """Mean over seeds; its error is the larger of the mean one within seeds and that between."""
    values, root = [each.value for each in found], math.sqrt(len(found))
    within = math.sqrt(statistics.fmean(each.standard_error**2 for each in found)) / root
    between = statistics.stdev(values) / root if len(found) > 1 else 0.0
    return Interval(statistics.fmean(values), max(within, between))
