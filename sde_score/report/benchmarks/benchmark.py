"""A benchmark of samplers, kept in a folder: what was measured, as a table, as lines, as a
picture."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sde_score._core.files import replace_file
from sde_score.evaluation.benchmarks.journal import Journal
from sde_score.evaluation.benchmarks.run import (
    Bench,
    Benchmark,
    BenchmarkRow,
    Entry,
    FlowEnds,
    run_benchmark,
)
from sde_score.evaluation.benchmarks.targets import BenchmarkTarget, exact_flow
from sde_score.evaluation.metrics.confidence import Interval
from sde_score.report.benchmarks.picture import benchmark_figure
from sde_score.report.page import Table
from sde_score.report.pictures import png
from sde_score.report.views.comparison import figure_text
from sde_score.training import Run

NAME = "benchmark"
"""Stem of the files: .jsonl holds what was measured, .json, .csv and .png show it."""

_RUN_TOLERANCE = 1e-8
_APART = ("distances", "nll_gap", "reason")  # what a line shows in columns of its own
_MOST = 10_000  # training examples that are looked at


def keep_benchmark(
    target: BenchmarkTarget,
    entries: Sequence[Entry],
    folder: Path,
    *,
    count: int | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 512,
    fresh: bool = False,
    progress: bool = True,
) -> Benchmark:
    """Measure samplers on a target and write what is found into a folder.

    A cell of the journal, `benchmark.jsonl`, is never measured again, nor is the flow, whose ends
    are in files beside it: a call that was stopped goes on where it was.

    Args:
        target: what is sampled.
        entries: from `plan`, and any others.
        folder: made if it is not there.
        count: samples per row; None takes what suits the target.
        seeds: names of the starts.
        batch_size: samples that the model sees at once.
        fresh: forget what was measured before; the flow stays.
        progress: show a bar.

    Raises:
        ValueError: for a journal that is none, or arguments as for `run_benchmark`.
    """
    bench = Bench(target, count or target.starts, FlowEnds(target, folder / "flow"), batch_size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    found = run_benchmark(bench, entries, seeds=seeds, journal=Journal(path), progress=progress)
    replace_file(path.with_suffix(".json"), json.dumps(found.record(), indent=1).encode())
    replace_file(path.with_suffix(".csv"), benchmark_csv(found).encode())
    replace_file(path.with_suffix(".png"), png(benchmark_figure(found), 150))
    return found


def target_of_run(run: Run) -> BenchmarkTarget:
    """A trained network as a target: its own flow is the truth for solvers, its data for samples.

    The flow is integrated with adaptive steps, on a float64 copy of the network, with both
    tolerances 1e-8, down to where time grids end by default, and denoised there: what a sampler of
    very many steps would find. The density is not known.

    Args:
        run: an open run, trained at all noise levels, with held-out data.

    Raises:
        ValueError: for a run without one of them.
    """
    if not run.all_noise_levels:
        raise ValueError(
            f"{run.path} was trained by {run.config.objective} on data without noise: samplers "
            "need all noise levels; train denoising"
        )
    held_out, train = run.dataset("held_out"), run.dataset("train")
    precise = copy.deepcopy(run.model).double()
    end = run.model.sde.sampling_t_min

    def flow(x: Tensor, condition: Tensor | None) -> Tensor:
        return exact_flow(precise, x.double(), condition, end=end, tolerance=_RUN_TOLERANCE)

    model = run.model
    return BenchmarkTarget(
        name=run.path.name,
        model=model,
        event_shape=run.event_shape,
        truth=lambda count: held_out.subset(count).tensor(),
        data=lambda count, seed: train.subset(max(count, min(len(train), _MOST)), seed).tensor(),
        flow=flow,
        flow_note=f"of the network: adaptive to {_RUN_TOLERANCE:g} in float64, down to t = {end:g}",
        identity=f"run {run.digest[:16]} under {model.sde!r} on {run.config.data}",
        condition=run.draw_labels,
        deliver=lambda x: run.scaling.to_model(run.scaling.from_model(x.float())),
    )


def benchmark_csv(benchmark: Benchmark) -> str:
    """A line for each entry and seed; every figure with its standard error and the floor."""
    lines = [_line(benchmark, row) for row in benchmark.rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(benchmark: Benchmark, row: BenchmarkRow) -> dict[str, Any]:
    line: dict[str, Any] = {"target": benchmark.target, "samples": benchmark.count}
    kept = {name: value for name, value in row.record().items() if name not in _APART}
    line |= {name: "" if value is None else value for name, value in kept.items()}
    for name, floor in benchmark.floors.items():
        found = _figure(row, name)
        line[name] = "" if found is None else found.value
        line[f"{name} standard error"] = "" if found is None else found.standard_error
        line |= {f"{name} floor low": floor.low, f"{name} floor high": floor.high}
    return {**line, "reason": row.reason}


def _figure(row: BenchmarkRow, name: str) -> Interval | None:
    if name == "nll gap":
        return row.nll_gap
    return None if row.distances is None else row.distances[name]


def benchmark_table(benchmark: Benchmark) -> Table:
    """Means over the seeds, sorted by the evaluations, then by the error; the floor last."""
    names = list(benchmark.floors)
    rows = []
    for row in sorted(benchmark.means, key=_rank):
        whose = f"{row.source} {row.sampler}".strip()
        nfe = row.nfe if row.nfe == row.nfe else (row.budget or 0)
        cells = [whose, row.grid, f"{nfe:.0f}"]
        if row.reason:
            rows.append([*cells, "", row.reason[:60], "", *[""] * len(names)])
            continue
        found = (_figure(row, name) for name in names)
        figures = ["" if each is None else figure_text(each) for each in found]
        errors = ["" if each is None else f"{each:.3g}" for each in (row.rms, row.median)]
        rows.append([*cells, f"{row.seconds:.2f}", *errors, *figures])
    floors = [figure_text(benchmark.floors[name]) for name in names]
    rows.append(["noise floor", "", "", "", "", "", *floors])
    seeds = len({row.seed for row in benchmark.rows})
    return Table(
        ["sampler", "grid", "NFE", "seconds", "rms", "median", *names],
        rows,
        f"{benchmark.target}, {benchmark.sde}: {benchmark.count} samples for each of {seeds} "
        f"seed(s), the same starts for all; ± is the 95% interval. Errors are per dimension, to "
        f"the flow ({benchmark.flow}). The floor is what perfect samples of one seed score.",
    )


def _rank(row: BenchmarkRow) -> tuple[float, float]:
    nfe = row.nfe if row.nfe == row.nfe else float(row.budget or 0)
    return nfe, float("inf") if row.rms is None else row.rms
