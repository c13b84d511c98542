"""The picture of a comparison of views: distance against cost, samples, and bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor

from sde_score import samplers
from sde_score.evaluation import VIEWS, Comparison, Interval, ViewRow, view_of
from sde_score.report.look import Look, cell, kind_of
from sde_score.report.pictures import (
    FAINT,
    HEAD,
    INK,
    SMALL,
    TEXT,
    draw_examples,
    new_figure,
    plain_numbers,
    without_box,
)
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# One color for each family, told apart with any color vision (Okabe & Ito 2008,
# https://jfly.uni-koeln.de/color/); the second sampler of a family is dashed.
_PALETTE = ("#D55E00", "#CC79A7", "#009E73", "#0072B2", "#E69F00", "#56B4E9")
_SHOWN_NFE = 10  # samples are shown near this cost, where views differ most
_IMAGES, _POINTS = 14, 400
_PIXELS = 840  # width of a row of samples
DPI = 150  # of the picture
_DECADES = range(-6, 7)


def comparison_figure(run: Run, comparison: Comparison) -> Figure:
    """Draw a comparison.

    Args:
        run: for the samples, which are drawn anew from the same seeds.
        comparison: from `sde_score.evaluation.compare`.
    """
    upper, lower = 5.3, 4.7
    if kind_of(run.event_shape) == "images":  # every pixel is shown, in rows one below the other
        rows = 1 + len(_views(comparison))
        lower = max(lower, 0.4 + rows * (cell(run.event_shape)[0] / DPI + 0.1))
    figure = new_figure(12, upper + lower)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    halves = figure.add_gridspec(2, 1, height_ratios=(upper, lower))
    top, bottom = (figure.add_subfigure(halves[i]) for i in range(2))
    top.suptitle(headline(comparison), x=0.012, ha="left", fontsize=14, weight="bold", color=INK)
    top.supxlabel(
        f"{comparison.count} samples per point, measured {comparison.size} at a time against "
        f"{comparison.held_out} held-out examples. Colored bands: 95% intervals. Gray band: where "
        "as many real examples fall.",
        fontsize=SMALL,
        color="#52606d",
    )
    panels = top.subplots(1, len(comparison.names), squeeze=False)[0]
    for index, axes in enumerate(panels):
        _draw_distance(axes, comparison, index)
    if not comparison.bits:
        _draw_samples(bottom, run, comparison)
        return figure
    quarters = bottom.add_gridspec(1, 2, width_ratios=(1.35, 1))
    left, right = (bottom.add_subfigure(quarters[i]) for i in range(2))
    _draw_samples(left, run, comparison)
    _draw_bits(right.subplots(), comparison)
    return figure


def headline(comparison: Comparison) -> str:
    """The first and the last view to reach the noise floor, in one sentence."""
    reached = {view: _first_at_floor(comparison, view) for view in _views(comparison)}
    there = sorted((nfe, view) for view, nfe in reached.items() if nfe is not None)
    start = "One network, all views: "
    if not there:
        return start + "none reaches the noise floor of real data yet"
    (least, first), most = there[0], there[-1][0]
    text = f"{start}{view_of(first).label} reaches the noise floor with {least} evaluations"
    missing = [view_of(view).label for view, nfe in reached.items() if nfe is None]
    if missing:
        return f"{text},\n{_listed(missing)} not with {max(row.nfe for row in comparison.rows)}"
    last = _listed([view_of(view).label for nfe, view in there if nfe == most])
    return text + (f",\n{last} with {most}" if most > least else "")


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _first_at_floor(comparison: Comparison, view: str) -> int | None:
    """The evaluations from which on a view scores no worse than real data, by every distance."""
    first = None
    for row in _rows(comparison, view):
        pairs = zip(row.distances, comparison.floors, strict=True)
        within = all(found.value <= floor.high for found, floor in pairs)
        first = (row.nfe if first is None else first) if within else None
    return first


def _views(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(row.view for row in comparison.rows))


def _rows(comparison: Comparison, view: str) -> list[ViewRow]:
    return [row for row in comparison.rows if row.view == view]


def _style(view: str) -> tuple[str, str]:
    """Color and line style; samplers beside the views have the last color of all."""
    families = list(dict.fromkeys(v.family for v in VIEWS.values()))
    if view not in VIEWS:
        return _PALETTE[-1], ("-", "--", ":")[crc32(view.encode()) % 3]
    family = VIEWS[view].family
    kin = [name for name, v in VIEWS.items() if v.family == family]
    return _PALETTE[families.index(family) % len(_PALETTE)], ("-", "--", ":")[kin.index(view) % 3]


def _draw_distance(axes: Axes, comparison: Comparison, index: int) -> None:
    floor, nfes = comparison.floors[index], [row.nfe for row in comparison.rows]
    low, high = min(nfes), max(nfes)
    axes.set(xscale="log", yscale="log", xlim=(low / 5.5, high * 1.3))
    bottom = max(floor.low, 0.5 * floor.value)
    axes.axhspan(bottom, floor.high, color=FAINT, alpha=0.35, linewidth=0)
    text = "noise floor:\nreal data"
    axes.text(low / 5.2, floor.value, text, fontsize=SMALL, color=INK, va="center")
    starts, values = [], [bottom]
    for view in _views(comparison):
        rows = _rows(comparison, view)
        found = [row.distances[index] for row in rows]
        values += [each.value for each in found]
        if view_of(view).adaptive:
            _draw_point(axes, view, rows[0].nfe, found[0])
            continue
        _draw_line(axes, view, [row.nfe for row in rows], found)
        starts.append((view, rows[0].nfe, found[0].value))
    axes.set_ylim(0.62 * min(values), 1.25 * max(values))
    _label_starts(axes, starts, low / 1.22)
    axes.set_xlabel("network evaluations per sample (NFE)", fontsize=TEXT)
    title = f"Distance to held-out data: {comparison.names[index]}"
    axes.set_title(title, fontsize=HEAD, loc="left", color=INK)
    _tidy(axes, low, high)


def _draw_line(axes: Axes, view: str, nfes: Sequence[int], found: Sequence[Interval]) -> None:
    color, style = _style(view)
    values, highs = [each.value for each in found], [each.high for each in found]
    lows = [max(each.low, 0.2 * each.value) for each in found]  # logarithms need positive values
    axes.fill_between(nfes, lows, highs, color=color, alpha=0.16, linewidth=0)
    axes.plot(nfes, values, style, color=color, marker="o", markersize=4, linewidth=1.9, zorder=3)


def _draw_point(axes: Axes, view: str, nfe: int, found: Interval) -> None:
    """A view whose tolerance decides its cost: one diamond, named below it."""
    color, _ = _style(view)
    margin = min(found.margin, 0.8 * found.value)
    axes.errorbar(
        [nfe], [found.value], [[margin], [found.margin]], color=color, linewidth=1.4, marker="D",
        markersize=7, markeredgecolor="white", zorder=4,
    )  # fmt: skip
    axes.annotate(
        view_of(view).label, (nfe, found.value - margin), (0, -5), textcoords="offset points",
        fontsize=TEXT, color=color, ha="center", va="top",
    )  # fmt: skip


def _label_starts(axes: Axes, starts: Sequence[tuple[str, int, float]], x: float) -> None:
    """Name each line left of its first point, the names moved apart where they would touch."""
    order = sorted(starts, key=lambda start: -start[2])
    places = _places(axes, order)
    if places and places[0] > 1:  # the first name would stand in the title
        low, high = (math.log(y) for y in axes.get_ylim())
        axes.set_ylim(top=math.exp(low + (places[0] + 0.03) * (high - low)))
        places = _places(axes, order)
    low, high = (math.log(y) for y in axes.get_ylim())
    for (view, nfe, value), place in zip(order, places, strict=True):
        color, _ = _style(view)
        line = {"arrowstyle": "-", "color": color, "alpha": 0.5, "linewidth": 0.8}
        axes.annotate(
            view_of(view).label, (nfe, value), (x, math.exp(low + place * (high - low))),
            fontsize=TEXT, color=color, ha="right", va="center",
            arrowprops={**line, "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def _places(axes: Axes, order: Sequence[tuple[str, int, float]]) -> list[float]:
    """Heights of the names, as shares of the axis."""
    low, high = (math.log(y) for y in axes.get_ylim())
    return spread([(math.log(value) - low) / (high - low) for _, _, value in order], 0.055)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Decreasing places, moved as little as it takes to be `gap` apart.

    Least squares: with y_i = place_i + i gap the condition is that y decreases, an isotonic
    regression, which averages neighbors that are out of order.
    """
    groups: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, size = place + index * gap, 1
        while groups and groups[-1][0] < mean:
            other, count = groups.pop()
            mean = (mean * size + other * count) / (size + count)
            size += count
        groups.append((mean, size))
    levels = [mean for mean, size in groups for _ in range(size)]
    return [level - index * gap for index, level in enumerate(levels)]


def _tidy(axes: Axes, low: float, high: float) -> None:
    """Plain numbers on logarithmic axes, in x from `low` to `high`, and no box."""
    numbers = [digit * 10.0**decade for decade in _DECADES for digit in (1, 2, 5)]
    bottom, top = axes.get_ylim()
    in_x = [number for number in numbers if 0.99 * low <= number <= 1.01 * high]
    in_y = [number for number in numbers if bottom <= number <= top]
    plain_numbers(axes.xaxis, in_x)
    plain_numbers(axes.yaxis, in_y)
    without_box(axes)


def _draw_bits(axes: Axes, comparison: Comparison) -> None:
    """The bounds of finitely many layers as a line, all other likelihoods to its right."""
    layers, others = _bits(comparison)
    low, high = (min(layers), max(layers)) if layers else (1, 10)
    values = [each.value for each in (*layers.values(), *others.values())]
    if min(values) > 0:  # a density may have less than 0 bits
        axes.set(yscale="log", ylim=(0.62 * min(values), 1.4 * max(values)))
    axes.set(xscale="log", xlim=(low / 1.3, high * 20))
    if layers:
        color, _ = _style(next(view for view in VIEWS if VIEWS[view].layered))
        found = list(layers.values())
        line, margins = [each.value for each in found], [each.margin for each in found]
        axes.errorbar(list(layers), line, margins, color=color, marker="o", linewidth=1.9, ms=4)
        text = f"hierarchical VAE:\nELBO of n layers, {line[-1]:.2f} at {high}"
        _note(axes, text, (low, line[0]), (10, 0), color, "left")
    for index, (view, each) in enumerate(sorted(others.items(), key=lambda o: -o[1].value)):
        color, place = _style(view)[0], high * (2.6, 5.5, 9)[index % 3]
        axes.errorbar([place], [each.value], [each.margin], color=color, marker="s", markersize=5)
        text, up = f"{view_of(view).family}: {each.value:.2f}", 20 if index % 2 == 0 else -20
        _note(axes, text, (place, each.value), (0, up), color, "center")
    axes.set_title("Bits per dimension of held-out data", fontsize=HEAD, loc="left", color=INK)
    axes.set_xlabel("layers n, one evaluation each; right of them n → ∞", fontsize=TEXT)
    _tidy(axes, low, high)


Pair = tuple[float, float]


def _note(axes: Axes, text: str, at: Pair, offset: Pair, color: str, align: str) -> None:
    axes.annotate(
        text, at, offset, textcoords="offset points", color=color, fontsize=TEXT, ha=align,
        va="center",
    )  # fmt: skip


def _bits(comparison: Comparison) -> tuple[Mapping[int, Interval], Mapping[str, Interval]]:
    """Bounds of finitely many layers by their number, and likelihoods that no number of
    evaluations changes, by the first view that has them."""
    layers: dict[int, Interval] = {}
    others: dict[str, tuple[str, Interval]] = {}
    for row in comparison.rows:
        bits = comparison.bits_of(row)
        if bits is None or row.likelihood is None:
            continue
        if view_of(row.view).layered:
            layers[row.nfe] = bits.value
        else:
            others.setdefault(row.likelihood, (row.view, bits.value))
    return dict(sorted(layers.items())), dict(others.values())


def _draw_samples(figure: SubFigure, run: Run, comparison: Comparison) -> None:
    """Data and samples of each view near one cost, from the same seeds."""
    images, look = kind_of(run.event_shape) == "images", Look.of(run)
    wide = 1 + cell(run.event_shape)[1] if images else 1
    count = max(1, min(_IMAGES, _PIXELS // wide)) if images else _POINTS
    held_out = run.dataset("held_out")
    data = held_out.batch(torch.arange(min(count, len(held_out)))).x0
    panels = [("held-out data", INK, data)]
    for view in _views(comparison):
        row = min(_rows(comparison, view), key=lambda row: abs(math.log(row.nfe / _SHOWN_NFE)))
        label = f"{view_of(view).label}\n{row.nfe} evaluations"
        panels.append((label, _style(view)[0], _samples(run, row.sampler, count, comparison.seed)))
    figure.suptitle(
        "Samples near 10 evaluations, all from the same seeds", x=0.02, ha="left", fontsize=HEAD,
        color=INK,
    )  # fmt: skip
    shape = (len(panels), 1) if images else (2, -(-len(panels) // 2))
    limit = None if images else 1.2 * float(data.abs().max())
    grid = figure.subplots(*shape, squeeze=False).flatten()
    for axes, (label, color, x) in zip(grid, panels, strict=False):
        draw_examples(axes, x, look, count, limit)
        if images:
            at = {"x": -0.02, "y": 0.5, "ha": "right", "va": "center"}
            axes.text(s=label, transform=axes.transAxes, fontsize=SMALL, color=color, **at)
        else:
            axes.set_title(label, fontsize=SMALL, color=color)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()


def _samples(run: Run, spec: str, count: int, seed: int) -> Tensor:
    return samplers.sample(
        run.model,
        spec,
        run.event_shape,
        count,
        seed=seed,
        condition=run.draw_labels(count, seed),
        progress=False,
    ).float()
