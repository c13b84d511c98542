"""The picture of a benchmark of samplers: error against cost, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from sde_score.evaluation import Benchmark, BenchmarkRow
from sde_score.report.pictures import (
    FAINT,
    HEAD,
    INK,
    SMALL,
    TEXT,
    new_figure,
    plain_numbers,
    without_box,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

# Told apart with any color vision (Okabe & Ito 2008, https://jfly.uni-koeln.de/color/).
_PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"
_NAMED = 18  # lines that a legend can name; the others are gray
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of costs
_SPAN = 1e5  # range of values in a panel; outliers far above would flatten all others


class Panel(NamedTuple):
    """A panel: its title, the value of a row, and the name of its floor."""

    title: str
    value: Callable[[BenchmarkRow], float | None]
    floor: str | None = None


def panels(benchmark: Benchmark) -> list[Panel]:
    """The error of the solver twice, the likelihood where it is known, and a distance."""
    found = [
        Panel("Error at the end of the flow, RMS", lambda row: row.rms),
        Panel("Error at the end of the flow, median start", lambda row: row.median),
    ]
    if "nll gap" in benchmark.floors:
        found.append(Panel("|NLL gap| per dimension", _gap, "nll gap"))
    for name in benchmark.names[: 4 - len(found)]:
        found.append(Panel(f"Distance to the target: {name}", _distance(name), name))
    return found


def _gap(row: BenchmarkRow) -> float | None:
    return None if row.nll_gap is None else abs(row.nll_gap.value)


def _distance(name: str) -> Callable[[BenchmarkRow], float | None]:
    return lambda row: None if row.distances is None else row.distances[name].value


def pareto_front(points: Iterable[Point], floor: float = 0.0) -> list[Point]:
    """Points with less error than every other point of at most their cost.

    Errors below `floor` differ by chance and count as equal.
    """
    front: list[Point] = []
    for cost, error in sorted(points):
        if not front or max(error, floor) < max(front[-1][1], floor):
            front.append((cost, error))
    return front


def benchmark_figure(benchmark: Benchmark) -> Figure:
    """Draw a benchmark: a line for each sampler on a grid, rings around the Pareto front.

    Args:
        benchmark: from `sde_score.evaluation.benchmark`; seeds are averaged.
    """
    figure = new_figure(13, 10.5)
    shown = panels(benchmark)
    lines = _lines(benchmark)
    named = _named(lines, shown)
    grid = figure.subplots(2, 2, squeeze=False).flatten()
    for axes, panel in zip(grid, shown, strict=False):
        _draw(axes, benchmark, panel, lines, named)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    seeds = len({row.seed for row in benchmark.rows})
    figure.suptitle(
        f"Samplers on {benchmark.target}: error against cost "
        f"({benchmark.count} starts for each of {seeds} seed(s))",
        x=0.012, ha="left", fontsize=14, weight="bold", color=INK,
    )  # fmt: skip
    handles = {label: line for axes in grid for line, label in _handles(axes)}
    if handles:
        figure.legend(
            [*handles.values()], [*handles], loc="outside lower center", ncols=3,
            fontsize=SMALL, frameon=False,
        )  # fmt: skip
    return figure


def _handles(axes: Axes) -> Iterable[tuple[Artist, str]]:
    return zip(*axes.get_legend_handles_labels(), strict=True)


def _lines(benchmark: Benchmark) -> dict[str, list[BenchmarkRow]]:
    """Rows with figures by sampler and grid, by cost."""
    lines: dict[str, list[BenchmarkRow]] = {}
    for row in sorted((row for row in benchmark.means if not row.reason), key=lambda r: r.nfe):
        lines.setdefault(row.label, []).append(row)
    return lines


def _points(rows: Sequence[BenchmarkRow], panel: Panel) -> list[Point]:
    found = ((row.nfe, panel.value(row)) for row in rows)
    return [(nfe, value) for nfe, value in found if value is not None and value > 0]


def _named(lines: Mapping[str, list[BenchmarkRow]], shown: Sequence[Panel]) -> list[str]:
    """Lines with a color and a name: all if they are few, else those most often on a front."""
    if len(lines) <= _NAMED:
        return list(lines)
    score = dict.fromkeys(lines, 0)
    for panel in shown:
        points = {label: _points(rows, panel) for label, rows in lines.items()}
        front = set(pareto_front(point for each in points.values() for point in each))
        for label, each in points.items():
            score[label] += len(front & set(each))
    best = sorted((label for label in lines if score[label]), key=lambda label: -score[label])
    return best[:_NAMED]


def _draw(
    axes: Axes, benchmark: Benchmark, panel: Panel,
    lines: Mapping[str, list[BenchmarkRow]], named: Sequence[str],
) -> None:  # fmt: skip
    everything = []
    for label, rows in lines.items():
        points = _points(rows, panel)
        if not points:
            continue
        everything += points
        _draw_line(axes, label, points, named, dashed=bool(rows[0].source))
    axes.set(xscale="log", yscale="log")
    if everything:
        _limit(axes, [value for _, value in everything])
        _mark_front(axes, pareto_front(everything, _floor(benchmark, panel.floor)[1]))
        low, high = min(nfe for nfe, _ in everything), max(nfe for nfe, _ in everything)
        plain_numbers(axes.xaxis, [n for n in _TICKS if low <= n <= high] or [low])
        axes.set_xlim(low / 1.15, high * 1.15)
    if panel.floor is not None:
        _draw_floor(axes, benchmark, panel.floor)
    axes.set_title(panel.title, fontsize=HEAD, loc="left", color=INK)
    axes.set_xlabel("network evaluations per sample (NFE)", fontsize=TEXT)
    without_box(axes)


def _draw_line(
    axes: Axes, label: str, points: Sequence[Point], named: Sequence[str], *, dashed: bool
) -> None:
    nfes, values = zip(*points, strict=True)
    style = "--" if dashed else "-"
    if label not in named:
        axes.plot(nfes, values, style, color=FAINT, linewidth=0.7, alpha=0.6, zorder=1)
        return
    index = named.index(label)
    axes.plot(
        nfes, values, style, color=_PALETTE[index % len(_PALETTE)],
        marker=_MARKERS[index // len(_PALETTE) % len(_MARKERS)], markersize=4, linewidth=1.5,
        label=label, zorder=3,
    )  # fmt: skip


def _limit(axes: Axes, values: Sequence[float]) -> None:
    low = min(values)
    axes.set_ylim(0.6 * low, 1.6 * min(max(values), _SPAN * low))


def _mark_front(axes: Axes, front: Sequence[Point]) -> None:
    nfes, values = zip(*front, strict=True)
    axes.plot(
        nfes, values, "o", markersize=10, markerfacecolor="none", markeredgecolor=INK,
        markeredgewidth=1.1, label="Pareto front", zorder=4,
    )  # fmt: skip


def _floor(benchmark: Benchmark, name: str | None) -> tuple[float, float]:
    """Interval of perfect samples; zeros if unknown."""
    if name is None:
        return 0.0, 0.0
    floor = benchmark.floors[name]
    ends = (0.0, floor.margin) if name == "nll gap" else (floor.low, floor.high)
    return ends if math.isfinite(ends[1]) else (0.0, 0.0)


def _draw_floor(axes: Axes, benchmark: Benchmark, name: str) -> None:
    low, high = axes.get_ylim()
    ends = _floor(benchmark, name)
    if ends[1] <= 0:
        return
    axes.set_ylim(min(low, 0.5 * ends[1]), max(high, 1.2 * ends[1]))
    bottom = axes.get_ylim()[0]
    axes.axhspan(max(ends[0], bottom), ends[1], color=FAINT, alpha=0.3, linewidth=0, zorder=0)
    axes.text(
        0.99, ends[1], "noise floor: perfect samples", transform=axes.get_yaxis_transform(),
        fontsize=SMALL, color=INK, ha="right", va="bottom",
    )  # fmt: skip
