r"""Samplers measured against exact answers: error of the solver, of the distribution, and cost.

Every sampler starts from the same noise. With e the difference between the end of a deterministic
sampler and the end of the probability flow from the same start, and D the dimensions,

.. math:: RMS = \sqrt{E\, |e|^2 / D}, \qquad median = \mathrm{median}\ \sqrt{|e|^2 / D} .

A few starts near a border between modes dominate the first; the second is the error at the others.
With or without noise on the way, samples are compared with the distribution: by distances to fresh
draws (`DistanceEstimator`), and by the gap of the negative log-likelihood per dimension,

.. math:: gap = \frac1D \left( E_{samples}[-\log p] - E_p[-\log p] \right),

above 0 where noise is left, below 0 where modes are too narrow. Its standard error covers the
samples and the entropy.

Samplers are compared at equal budgets, not at equal steps: each takes the most steps that its
budget of network evaluations pays for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.checks import require_count, shown
from sde_score._core.conditions import rows_of
from sde_score._core.processes import place, shared
from sde_score._core.progress import progress_bar
from sde_score.evaluation.benchmarks.plan import (
    BENCHMARK_BUDGETS,
    FAILURES,
    Draw,
    Entry,
    available,
    plan,
)
from sde_score.evaluation.benchmarks.reference_flow import FlowEnds
from sde_score.evaluation.benchmarks.results import Benchmark, BenchmarkRow
from sde_score.evaluation.benchmarks.targets import BENCHMARK_TARGETS, BenchmarkTarget
from sde_score.evaluation.benchmarks.trained import target_of_run
from sde_score.evaluation.journal import Journal
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.evaluation.provenance import package_digest
from sde_score.random import example_seeds
from sde_score.samplers import Sampler
from sde_score.training import Run

_DISTANCES = ("sliced-wasserstein2(projections=128)", "energy")
_REFERENCE = 1024  # draws to compare with: an energy distance costs their square
_REPEATS = 20
_FLOOR_SEED, _ENTROPY_SEED = 7002, 7003
_DIVERGED = 1e100  # whose square still is a number


@dataclass(frozen=True, eq=False)
class Bench:
    """Measures entries on a target.

    Args:
        target: the distribution that is sampled.
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

    @property
    def identity(self) -> str:
        """Name of target, settings and code in a journal."""
        size = f"{self.count} samples in batches of {self.batch_size}"
        return f"{self.target.identity} | {size} | {package_digest()[:16]}"

    @cached_property
    def estimator(self) -> DistanceEstimator:
        """Distances to draws of the distribution, and their floors."""
        others = self.target.data(max(_REFERENCE, self.count), _FLOOR_SEED)
        truth = self.target.truth(_REFERENCE)
        return DistanceEstimator(others, truth, self.count, _DISTANCES, repeats=_REPEATS)

    @cached_property
    def entropy(self) -> tuple[float, float] | None:
        """Per dimension, with its standard error."""
        return self.target.entropy(_ENTROPY_SEED)

    @cached_property
    def floors(self) -> dict[str, Interval]:
        """What perfect samples score, and how far from it they fall."""
        found = dict(zip(self.estimator.names, self.estimator.floors, strict=True))
        surprise = self.target.surprise(self.target.data(_REFERENCE, _FLOOR_SEED))
        if surprise is not None and self.entropy is not None:
            error = math.hypot(float(surprise.std()) / math.sqrt(self.count), self.entropy[1])
            found["nll gap"] = Interval(0.0, error)
        return found

    def measure(self, entry: Entry, seed: int) -> BenchmarkRow:
        """Sample and measure; an error of the sampler becomes the reason of a row without figures.

        Args:
            entry: the sampler, its grid and budget.
            seed: random seed of the starts.
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

        def batch(first: int) -> tuple[Tensor, int]:
            before, size = model.nfe, min(self.batch_size, self.count - first)
            seeds = example_seeds(seed, size, first)
            part = rows_of(condition, slice(first, first + size))
            with torch.no_grad():
                found = draw(self.target, self.target.start(seeds), seeds, part)
            return found.double().cpu(), model.nfe - before

        parts = shared(range(0, self.count, self.batch_size), batch)
        calls = sum(spent for _, spent in parts)
        return torch.cat([samples for samples, _ in parts]), calls / len(parts)

    def _figures(self, row: BenchmarkRow, samples: Tensor, seed: int) -> BenchmarkRow:
        if not row.stochastic:
            rms, median = endpoint_error(samples, self.flows(seed, self.count))
            row = replace(row, rms=rms, median=median)
        found = self.estimator(self.target.deliver(samples))
        distances = dict(zip(self.estimator.names, found, strict=True))
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
        ends: the exact answers, of the same shape.
    """
    squares = (samples.double() - ends.double()).flatten(1).square().mean(1)
    return float(squares.mean().sqrt()), float(squares.sqrt().quantile(0.5))


def benchmark(
    target: str | BenchmarkTarget | Run = "ring",
    samplers: Sequence[str | Sampler] | None = None,
    *,
    grids: Sequence[str] = (),
    nfes: Sequence[int] = BENCHMARK_BUDGETS,
    count: int | None = None,
    seeds: Sequence[int] = (0,),
    folder: Path | None = None,
    batch_size: int = 512,
    fresh: bool = False,
    peers: Sequence[Entry] = (),
    guidance: str | None = None,
    progress: bool = True,
) -> Benchmark:
    """Measure samplers on a target.

    Results are kept in `benchmark.jsonl` of the folder as they are found, the ends of the flow in
    files beside it. Neither is computed again, unless the target, the sampler with all its defaults
    or their code is another: an edited sampler, or another version of this package, is measured
    anew. Processes of a group, all of which call this, share the samples of each row: the same to
    the bit whatever their number.

    Args:
        target: a name in `BENCHMARK_TARGETS`, a target, or a trained run.
        samplers: specs or objects; None takes all (`available`), and the few steps of a flow map.
        grids: time grids for each sampler; none for each sampler's own.
        nfes: budgets, network evaluations per sample.
        count: samples per row; None takes what suits the target.
        seeds: random seeds of the starts, which are the same for all samplers.
        folder: made if it is not there; None keeps nothing.
        batch_size: samples that the model sees at once.
        fresh: measure everything again; the ends of the flow stay.
        peers: entries beside those of `samplers`.
        guidance: of the model of a run, such as `"cfg(3)"`; see `guided_run`.
        progress: show a bar.

    Raises:
        ValueError: for an unknown target, sampler, grid or argument, no samplers, a budget below
            1, a journal that is none, or guidance without a run or that it does not suit.
    """
    if isinstance(target, Run):
        target = target_of_run(target, guidance)
    elif guidance is not None:
        raise ValueError(
            f"guidance={guidance!r} with target={shown(target)}: accepted for a trained run; a "
            "target of one has its own, target_of_run(run, guidance)"
        )
    target = BENCHMARK_TARGETS.resolve(target)
    flow = FlowEnds(target, None if folder is None else folder / "flow")
    bench = Bench(target, target.starts if count is None else count, flow, batch_size)
    chosen: Sequence[str | Sampler] = [*available(), *target.samplers]
    chosen = chosen if samplers is None else samplers
    entries = plan(target.model, chosen, grids, nfes) if chosen or not peers else []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    path = None if folder is None else folder / "benchmark.jsonl"
    if fresh and path is not None and place()[0] == 0:
        path.unlink(missing_ok=True)
    everything = [*entries, *peers]
    return run_benchmark(bench, everything, seeds=seeds, journal=Journal(path), progress=progress)


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
        seeds: random seeds of the starts, which are the same for all entries.
        journal: results in it are not measured again.
        progress: show a bar.

    Raises:
        ValueError: if there are no seeds or entries.
    """
    if not seeds or not entries:
        raise ValueError("seeds and samplers must not be empty: give at least one of each")
    journal = Journal() if journal is None else journal
    rows = []
    cells = [(entry, seed) for seed in dict.fromkeys(seeds) for entry in entries]
    with progress_bar(cells, unit="cell", shown=progress, delay=0) as bar:
        for entry, seed in bar:
            bar.set_description(f"{entry.spec} seed {seed}"[:40])
            what = f"{entry.source} {entry.spec}".strip()
            key = f"{bench.identity} | seed {seed} | {what} | {entry.digest}"
            row = journal.find(key, BenchmarkRow.from_record)
            if row is None:
                row = bench.measure(entry, seed)
                journal.put(key, row.record())
            rows.append(row)
    floors = _floors(bench, journal)
    target = bench.target
    names = tuple(name for name in floors if name != "nll gap")
    sde = repr(target.model.sde)
    return Benchmark(
        target.name, sde, target.flow_note, bench.count, names, floors, tuple(rows),
        target.data_note,
    )  # fmt: skip


def _floors(bench: Bench, journal: Journal) -> dict[str, Interval]:
    key = f"{bench.identity} | floors"
    found = journal.find(
        key, lambda floors: {k: Interval.from_record(v) for k, v in floors.items()}
    )
    if found is None:
        found = bench.floors
        journal.put(key, {name: floor.record() for name, floor in found.items()})
    return found
