"""A benchmark of samplers as files in a folder, and as a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sde_score._core.files import replace_file
from sde_score.evaluation import Benchmark, BenchmarkRow, Interval
from sde_score.report.benchmarks.picture import benchmark_figure
from sde_score.report.pictures import png
from sde_score.report.tables import Table, csv_text, estimate_columns, figure_text

NAME = "benchmark"
"""Stem of the files: .json, .csv and .png."""

_APART = ("distances", "nll_gap", "reason")  # fields that have columns of their own in CSV


def write_benchmark(benchmark: Benchmark, folder: Path) -> None:
    """Write `benchmark.json`, `.csv` and `.png`, each in one step; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.json"
    replace_file(path, json.dumps(benchmark.record(), indent=1).encode())
    replace_file(path.with_suffix(".csv"), benchmark_csv(benchmark).encode())
    replace_file(path.with_suffix(".png"), png(benchmark_figure(benchmark), 150))


def benchmark_csv(benchmark: Benchmark) -> str:
    """A line for each entry and seed; every figure with its standard error and the floor."""
    return csv_text([_line(benchmark, row) for row in benchmark.rows])


def _line(benchmark: Benchmark, row: BenchmarkRow) -> dict[str, Any]:
    line: dict[str, Any] = {"target": benchmark.target, "samples": benchmark.count}
    kept = {name: value for name, value in row.record().items() if name not in _APART}
    line |= {name: "" if value is None else value for name, value in kept.items()}
    for name, floor in benchmark.floors.items():
        line |= estimate_columns(name, _figure(row, name), floor)
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
        cells = [f"{row.source} {row.sampler}".strip(), row.grid, f"{_cost(row):.0f}"]
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
        "random seed(s), the same starts for all; ± is the 95% interval. Errors are per dimension, "
        f"to the flow ({benchmark.flow}). The floor is where perfect samples of one seed fall."
        + (f" Samples are measured against {benchmark.data}." if benchmark.data else ""),
    )


def _cost(row: BenchmarkRow) -> float:
    """Evaluations, or the budget of a row without figures."""
    return row.nfe if row.nfe == row.nfe else float(row.budget or 0)


def _rank(row: BenchmarkRow) -> tuple[float, float]:
    return _cost(row), float("inf") if row.rms is None else row.rms
