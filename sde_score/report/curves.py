"""Curves of training: the loss, what it has above the best, and several runs in one panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from sde_score.report.pictures import (
    ACCENT,
    FAINT,
    HEAD,
    SMALL,
    TEXT,
    new_figure,
    plain_numbers,
    without_box,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]

_COLORS = (ACCENT, "#0072b2", "#00805c", "#cc79a7", "#8a6d00", "#56b4e9")
_WINDOW = 9  # records whose median is the broad line
_EXCESS = "excess_loss"
_FAR = 3


def training_curve(records: Records) -> Figure:
    """Loss against step, from the records of `metrics.jsonl`, and beside it what it has above that
    of the best model for the data, where that was measured."""
    return training_curves({"": records})


def training_curves(runs: Mapping[str, Records]) -> Figure:
    """Losses of several runs against their steps.

    Args:
        runs: records by the name of the run.
    """
    measured = any(_EXCESS in record for records in runs.values() for record in records)
    names = ["loss", _EXCESS] if measured else ["loss"]
    figure = new_figure(6.4 if len(names) == 1 else 9.6, 2.9)
    titles = {"loss": "loss of training", _EXCESS: "above the best model for the data"}
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for index, (run, records) in enumerate(runs.items()):
            found = [(each["step"], each[name]) for each in records if name in each]
            _draw(axes, found, run, _COLORS[index % len(_COLORS)])
        _tidy(axes)
        axes.set_title(titles[name], fontsize=HEAD, loc="left")
        axes.set_xlabel("step", fontsize=TEXT)
        if len(runs) > 1:
            axes.legend(fontsize=SMALL, frameon=False)
    return figure


def _draw(axes: Axes, found: Sequence[tuple[float, float]], run: str, color: str) -> None:
    """Each measurement thin, their running median broad."""
    if not found:
        return
    steps, values = zip(*found, strict=True)
    few = len(found) < 2 * _WINDOW
    axes.plot(steps, values, color=color, linewidth=1.4 if few else 0.6, alpha=1 if few else 0.45,
              label=run if few else None, marker="o" if len(found) == 1 else None)  # fmt: skip
    if not few:
        half = _WINDOW // 2
        smooth = [median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
        axes.plot(steps, smooth, color=color, linewidth=1.8, label=run)


def _tidy(axes: Axes) -> None:
    """A logarithmic axis with plain numbers where values are above 0 and far apart."""
    values = [float(y) for line in axes.get_lines() for y in list(line.get_ydata())]  # type: ignore[arg-type]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > _FAR * low:  # learned weights may go below 0
        axes.set_yscale("log")
        plain_numbers(axes.yaxis, _ticks(low, high))
        axes.set_ylim(low / 1.1, high * 1.1)
    without_box(axes)
    axes.grid(color=FAINT, alpha=0.3)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below the lowest value to above the highest, about eight at most."""
    digits = next(
        (d for d in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)) if len(d) * math.log10(high / low) < 8),
        (1,),
    )
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    return [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
