"""The picture of a sweep over guidance: distance, share in class, and samples of the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sde_score.evaluation import Evaluation, Interval, SamplesRow
from sde_score.report.look import Look, cell, kind_of
from sde_score.report.pictures import (
    ACCENT,
    FAINT,
    HEAD,
    INK,
    SMALL,
    TEXT,
    draw_examples,
    new_figure,
    without_box,
)
from sde_score.training import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE, _POINTS = 5, 400  # images a side of a panel, points in it
_COLORS = (ACCENT, "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def guidance_figure(run: Run, evaluation: Evaluation) -> Figure:
    """Draw distances and the share in class against guidance, above samples of the same seeds.

    Args:
        run: for the look of its data.
        evaluation: from `sde_score.evaluation.evaluate` under several guidances; samples are those
            of its first sampler.
    """
    first = evaluation.rows[0].sampler
    shown = [row for row in evaluation.rows if row.sampler == first]
    upper, width = 3.6, max(9.0, 1.9 * len(shown))
    side = width / len(shown)
    if kind_of(run.event_shape) == "images":
        height, broad = cell(run.event_shape)
        side *= height / broad
    figure = new_figure(width, upper + side + 0.8)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    halves = figure.add_gridspec(2, 1, height_ratios=(upper, side + 0.4))
    top, bottom = (figure.add_subfigure(halves[i]) for i in range(2))
    headline = f"{run.path.name}: nearest to real data under {_nearest(shown)}"
    top.suptitle(headline, x=0.012, ha="left", fontsize=14, weight="bold", color=INK)
    panels = top.subplots(1, 1 + (evaluation.accuracy is not None), squeeze=False)[0]
    name = evaluation.names[0]
    _draw(panels[0], evaluation, [row.distances[0] for row in evaluation.rows],
          evaluation.floors[0], "real\ndata")  # fmt: skip
    panels[0].set_ylim(bottom=0)
    panels[0].set_title(f"{name} to held-out data: lower is better", loc="left", fontsize=HEAD)
    if evaluation.accuracy is not None:
        shares = [row.accuracy for row in evaluation.rows]
        _draw(panels[1], evaluation, shares, evaluation.accuracy, "real\ndata")
        panels[1].set_title("share in the class that was asked for", loc="left", fontsize=HEAD)
        low, high = panels[1].get_ylim()
        panels[1].set_ylim(max(low, 0.0), min(high, 1.01))
        panels[1].yaxis.set_major_formatter("{x:.0%}")
    _draw_samples(bottom.subplots(1, len(shown), squeeze=False)[0], run, shown)
    bottom.suptitle(f"{first}: the same seeds and classes under each", x=0.012, ha="left",
                    fontsize=TEXT, color=INK)  # fmt: skip
    return figure


def _nearest(rows: Sequence[SamplesRow]) -> str:
    """Guidance of the least distance, and of all whose intervals overlap with its own."""
    best = min((row.distances[0] for row in rows), key=lambda found: found.value)
    return ", ".join(row.guidance for row in rows if row.distances[0].low <= best.high)


def _draw(
    axes: Axes,
    evaluation: Evaluation,
    found: Sequence[Interval | None],
    real: Interval,
    label: str,
) -> None:
    """Values with their intervals against guidance, a line for each sampler, over real data."""
    names = list(dict.fromkeys(row.guidance for row in evaluation.rows))
    samplers = list(dict.fromkeys(row.sampler for row in evaluation.rows))
    axes.axhspan(real.low, real.high, color=FAINT, alpha=0.3, linewidth=0)
    axes.axhline(real.value, color=FAINT, linewidth=1)
    axes.annotate(label, (1, real.value), (4, 0), xycoords=("axes fraction", "data"),
                  textcoords="offset points", va="center", fontsize=SMALL, color=INK)  # fmt: skip
    for index, sampler in enumerate(samplers):
        pairs = zip(evaluation.rows, found, strict=True)
        own = [(names.index(row.guidance), each) for row, each in pairs if row.sampler == sampler]
        known = [(place, each) for place, each in own if each is not None]
        axes.errorbar(
            [place for place, _ in known],
            [each.value for _, each in known],
            [each.margin for _, each in known],
            color=_COLORS[index % len(_COLORS)], marker="o", markersize=5, linewidth=1.8,
            elinewidth=1.2, capsize=3, label=sampler,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.3, len(names) - 0.7)
    without_box(axes)
    if len(samplers) > 1:
        axes.legend(fontsize=SMALL, frameon=False)


def _draw_samples(panels: Sequence[Axes], run: Run, rows: Sequence[SamplesRow]) -> None:
    """The first samples under each guidance, each panel under its name."""
    images = kind_of(run.event_shape) == "images"
    count = _SIDE * _SIDE if images else _POINTS
    limit = None if images else max(float(row.samples[:count].abs().max()) for row in rows)
    for axes, row in zip(panels, rows, strict=True):
        draw_examples(axes, row.samples[:count], Look.of(run), _SIDE, limit)
        axes.set_title(f"{row.guidance}, {row.nfe} NFE", fontsize=SMALL)
