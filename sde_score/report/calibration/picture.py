"""Pictures of calibration: ranks with their band, expected coverage, predictive checks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sde_score.evaluation import Calibration, PredictiveCheck, Ranks
from sde_score.report.pictures import ACCENT, FAINT, HEAD, INK, SMALL, TEXT, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4  # panels side by side
_STATISTICS = 24  # statistics of one picture


def calibration_figure(found: Calibration, title: str = "") -> Figure:
    """A panel of ranks for each parameter, and one of expected coverage.

    Bars within the gray band are what ranks of an exact posterior do, each in 99 of 100 cases; a
    curve within its band, as a whole in 95. Bars that are high at both ends say that the posterior
    is too narrow, in the middle that it is too wide, at one end that it is shifted.

    Args:
        found: by `evaluation.calibrate` or `Calibration.of`.
        title: above all.
    """
    count = len(found.sbc.names) + 1
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(2.7 * columns, 2.3 * rows + 0.3)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index in range(count - 1):
        _draw_ranks(panels[index], found.sbc, index)
    _draw_coverage(panels[count - 1], found)
    for panel in panels[count:]:
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=HEAD)
    return figure


def _draw_ranks(axes: Axes, ranks: Ranks, index: int) -> None:
    counts, expected = ranks.histogram()
    low, high = ranks.bin_band()
    place = [bin_ / len(expected) for bin_ in range(len(expected) + 1)]
    axes.stairs(high.numpy(), place, baseline=low.numpy(), fill=True, color=FAINT, alpha=0.4)
    axes.stairs(counts[index].numpy(), place, color=INK, linewidth=1.2)
    axes.stairs(expected.numpy(), place, color=ACCENT, linewidth=0.8, baseline=None)
    top = max(float(counts[index].max()), float(high.max()))
    axes.set(xlim=(0, 1), ylim=(0, 1.1 * top), xticks=[0, 0.5, 1])
    p_value = float(ranks.p_values()[index])
    axes.set_title(f"{ranks.names[index]}: p = {p_value:.2g}", fontsize=TEXT)
    axes.set_xlabel("rank of the truth / draws", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


def _draw_coverage(axes: Axes, found: Calibration) -> None:
    """Shares of truths by shares of draws: each parameter, and distances to random points."""
    margin = found.tarp.margin()
    axes.fill_between([0, 1], [-margin, 1 - margin], [margin, 1 + margin], color=FAINT, alpha=0.4)
    for ranks, color, width in ((found.sbc, INK, 0.8), (found.tarp, ACCENT, 1.4)):
        expected, curves = ranks.cumulative()
        for curve in curves:
            axes.plot([0, *expected], [0, *curve], color=color, linewidth=width)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
    p_value = float(found.tarp.p_values()[0])
    axes.set_title(f"TARP: p = {p_value:.2g}", fontsize=TEXT)
    axes.set_xlabel("share of draws (black: each parameter)", fontsize=SMALL)
    axes.set_ylabel("share of truths", fontsize=SMALL)
    axes.tick_params(labelsize=SMALL)


def predictive_figure(found: PredictiveCheck, title: str = "") -> Figure:
    """What was seen, on the spread of what the posterior's draws simulate, statistic by statistic.

    A panel for each of the first 24: a histogram of the simulations, and a line at what was seen.

    Args:
        found: by `evaluation.predictive`.
        title: above all.
    """
    count = min(len(found.names), _STATISTICS)
    columns = min(_COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(2.7 * columns, 1.7 * rows + 0.3)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for index, axes in enumerate(panels):
        if index >= count:
            axes.set_axis_off()
            continue
        axes.hist(found.simulated[:, index].numpy(), bins=30, color=INK, alpha=0.5)
        axes.axvline(float(found.seen[index]), color=ACCENT, linewidth=1.6)
        p_value = float(found.p_values[index])
        axes.set_title(f"{found.names[index]}: p = {p_value:.2g}", fontsize=TEXT)
        axes.set_yticks([])
        axes.tick_params(labelsize=SMALL)
    if title:
        figure.suptitle(title, fontsize=HEAD)
    return figure
