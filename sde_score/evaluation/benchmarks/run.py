r"""Samplers measured against the truth: error of the solver, error of the law, and their cost.

Every sampler starts from the same noise. With e the difference between where a deterministic
sampler ends and where the probability flow takes the same start, and D the dimensions,

.. math:: RMS = \sqrt{E\, |e|^2 / D}, \qquad median = \mathrm{median}\ \sqrt{|e|^2 / D} .

Few starts near a border between modes decide the first; the second says how good the solver is for
the others. Whatever the noise on the way, samples are compared with the law: by distances to fresh
draws of it (`intervals`), and by the gap of the negative log-likelihood per dimension,

.. math:: gap = \frac1D \left( E_{samples}[-\log p] - E_p[-\log p] \right),

above 0 where noise is left, below 0 where modes are too narrow. Its standard error holds the chance
of the samples and of the entropy.

The budget is what counts, not the steps: `plan` finds, by counting on a tiny Gaussian, the steps at
which a sampler makes as many evaluations as the budget has, or the most below it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.evaluation.benchmarks.journal import Journal
from sde_score.evaluation.benchmarks.plan import FAILURES, NFES, Draw, Entry, available, plan
from sde_score.evaluation.benchmarks.reference_flow import FlowEnds
from sde_score.evaluation.benchmarks.results import Benchmark, BenchmarkRow
from sde_score.evaluation.benchmarks.targets import TARGETS, BenchmarkTarget
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.random import example_seeds

DISTANCES = ("sliced-wasserstein2(projections=128)", "energy")
"""Distances to fresh draws of the law."""

_REFERENCE = 1024  # draws that samples are compared with; an energy distance takes their square
_REPEATS = 20
_FLOOR_SEED, _ENTROPY_SEED = 7002, 7003
_DIVERGED = 1e100  # whose square still is a number


@dataclass(frozen=True, eq=False)
class Bench:
    """Measures entries on a target.

    Args:
        target: what is sampled.
        count: samples per row, at least 4.
        flows: ends of the flow.
        batch_size: samples that the model sees at once.
    """

    target: BenchmarkTarget
    count: int
    flows: FlowEnds
    batch_size: int = 512

    def __post_init__(self) -> None:
        require_count(4, count=self.count)
        require_count(batch_size=self.batch_size)

    @cached_property
    def ruler(self) -> DistanceEstimator:
        """Distances to draws of the law, and their floors."""
        others = self.target.data(max(_REFERENCE, self.count), _FLOOR_SEED)
        truth = self.target.truth(_REFERENCE)
        return DistanceEstimator(others, truth, self.count, DISTANCES, repeats=_REPEATS)

    @cached_property
    def entropy(self) -> tuple[float, float] | None:
        """Per dimension, with its standard error."""
        return self.target.entropy(_ENTROPY_SEED)

    @cached_property
    def floors(self) -> dict[str, Interval]:
        """What perfect samples score, and how far from it they fall."""
        found = dict(zip(self.ruler.names, self.ruler.floors, strict=True))
        surprise = self.target.surprise(self.target.data(_REFERENCE, _FLOOR_SEED))
        if surprise is not None and self.entropy is not None:
            error = math.hypot(float(surprise.std()) / math.sqrt(self.count), self.entropy[1])
            found["nll gap"] = Interval(0.0, error)
        return found

    def measure(self, entry: Entry, seed: int) -> BenchmarkRow:
        """Sample and measure; what the sampler raises becomes the reason of a row without figures.

        Args:
            entry: what.
            seed: names the starts.
        """
        row = BenchmarkRow(
            entry.sampler, entry.grid, entry.spec, entry.stochastic, entry.budget, entry.source,
            seed, reason=entry.reason,
        )  # fmt: skip
        if entry.draw is None or entry.reason:
            return replace(row, reason=entry.reason or "there is nothing to run")
        began = time.perf_counter()
        try:
            samples, nfe = self._samples(entry.draw, seed)
        except FAILURES as error:
            return replace(row, reason=f"{type(error).__name__}: {error}")
        row = replace(row, nfe=nfe, seconds=time.perf_counter() - began)
        bad = int((~(samples.flatten(1).abs() < _DIVERGED)).any(1).sum())
        if bad:
            return replace(row, reason=f"diverged: {bad} of {len(samples)} samples")
        return self._figures(row, samples, seed)

    def _samples(self, draw: Draw, seed: int) -> tuple[Tensor, float]:
        """Samples in float64 on the CPU, and the evaluations behind each."""
        condition, model = self.target.condition(self.count), self.target.model
        parts, before = [], model.nfe
        for first in range(0, self.count, self.batch_size):
            size = min(self.batch_size, self.count - first)
            seeds = example_seeds(seed, size, first)
            part = None if condition is None else condition[first : first + size]
            with torch.no_grad():
                found = draw(self.target, self.target.start(seeds), seeds, part)
            parts.append(found.double().cpu())
        return torch.cat(parts), (model.nfe - before) / len(parts)

    def _figures(self, row: BenchmarkRow, samples: Tensor, seed: int) -> BenchmarkRow:
        if not row.stochastic:
            rms, median = endpoint_error(samples, self.flows(seed, self.count))
            row = replace(row, rms=rms, median=median)
        found = self.ruler(self.target.deliver(samples))
        distances = dict(zip(self.ruler.names, found, strict=True))
        return replace(row, distances=distances, nll_gap=self._nll_gap(samples))

    def _nll_gap(self, samples: Tensor) -> Interval | None:
        surprise = self.target.surprise(samples)
        if surprise is None or self.entropy is None:
            return None
        entropy, entropy_error = self.entropy
        error = math.hypot(float(surprise.std()) / math.sqrt(len(surprise)), entropy_error)
        return Interval(float(surprise.mean()) - entropy, error)


def endpoint_error(samples: Tensor, ends: Tensor) -> tuple[float, float]:
    """Root mean square over samples and dimensions of their difference, and the median over samples
    of the same for each sample.

    Args:
        samples: shape `(batch, *event)`.
        ends: where they should be, of the same shape.
    """
    squares = (samples.double() - ends.double()).flatten(1).square().mean(1)
    return float(squares.mean().sqrt()), float(squares.sqrt().quantile(0.5))


def run_benchmark(
    bench: Bench,
    entries: Sequence[Entry],
    *,
    seeds: Sequence[int] = (0,),
    journal: Journal | None = None,
    progress: bool = True,
) -> Benchmark:
    """Measure every entry with every seed.

    Args:
        bench: the target, and how many samples.
        entries: from `plan`, and any others.
        seeds: names of the starts, which are the same for all entries.
        journal: what it holds is not measured again.
        progress: show a bar.

    Raises:
        ValueError: if there are no seeds or entries.
    """
    from tqdm.auto import tqdm

    if not seeds or not entries:
        raise ValueError("seeds and samplers must not be empty: give at least one of each")
    journal = Journal(None) if journal is None else journal
    rows = []
    cells = [(entry, seed) for seed in dict.fromkeys(seeds) for entry in entries]
    with tqdm(cells, unit="cell", disable=not progress) as bar:
        for entry, seed in bar:
            bar.set_description(f"{entry.spec} seed {seed}"[:40])
            key = _key(bench, entry, seed)
            if key not in journal:
                journal.put(key, bench.measure(entry, seed).record())
            rows.append(BenchmarkRow.from_record(journal[key]))
    floors = _floors(bench, journal)
    target = bench.target
    names = tuple(name for name in floors if name != "nll gap")
    sde = repr(target.model.sde)
    return Benchmark(target.name, sde, target.flow_note, bench.count, names, floors, tuple(rows))


def _key(bench: Bench, entry: Entry, seed: int) -> str:
    """All that a row depends on."""
    what = [bench.target.identity, f"{bench.count} samples", f"seed {seed}"]
    return " | ".join([*what, f"{entry.source} {entry.spec}".strip()])


def _floors(bench: Bench, journal: Journal) -> dict[str, Interval]:
    key = f"{bench.target.identity} | {bench.count} samples | floors"
    if key not in journal:
        journal.put(key, {name: asdict(floor) for name, floor in bench.floors.items()})
    return {name: Interval(**floor) for name, floor in journal[key].items()}


__all__ = [
    "DISTANCES",
    "NFES",
    "TARGETS",
    "Bench",
    "Benchmark",
    "BenchmarkRow",
    "BenchmarkTarget",
    "Entry",
    "FlowEnds",
    "available",
    "endpoint_error",
    "plan",
    "run_benchmark",
]
