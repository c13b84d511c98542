"""Pictures of tables: marginals and pairs of columns, real rows beside generated ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from sde_score.data import DataError
from sde_score.report.page import Section
from sde_score.report.pictures import ACCENT, INK, SMALL, TEXT, new_figure, png, without_box
from sde_score.training import Run, coding_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Table = Mapping[str, np.ndarray[Any, Any]]

_PAIRED, _COLUMNS, _ACROSS = 6, 30, 5  # columns: with pairs, shown at all, and in a row
_ROWS = 2000  # real rows that are looked at
_POINTS = 600  # of each kind in a panel
_BARS = 12  # categories with a bar of their own
_OUTER = (0.002, 0.998)  # quantiles between which real columns are drawn


def real_table(run: Run) -> dict[str, np.ndarray[Any, Any]] | None:
    """Complete rows of a run's training data by column, at most 2000; None where they are not at
    hand, or no table."""
    coding = coding_of(run)
    if coding is None:
        return None
    try:
        part = run.own("train").complete().subset(_ROWS)
        return coding.decode(part.raw())
    except DataError:
        return None


def columns_section(run: Run, x: Tensor, sampler: str) -> Section | None:
    """Columns of a run's table, real rows beside samples; None for a run on other data.

    Args:
        run: an open run.
        x: samples in model range.
        sampler: that drew them.
    """
    coding = coding_of(run)
    if coding is None:
        return None
    table, real = coding.decode(run.scaling.from_model(x.cpu().double())), real_table(run)
    text = (
        f"Samples of {sampler} beside rows that the run was trained on, in the units of the table; "
        "of a few columns pairs too, of real rows below the diagonal and of samples above it."
    )
    alt = "Distributions of the columns of real rows and of samples."
    return Section("Columns", text, picture=png(table_figure(table, real)), alt=alt)


def table_figure(table: Table, real: Table | None = None) -> Figure:
    """Columns of generated rows, and of real ones where they are given.

    Of up to 6 columns the diagonal holds the marginals of both, the panels below it pairs of real
    rows and those above pairs of generated ones; of more columns the marginals of the first 30.
    Categories are bars, and in pairs they are spread a little.

    Args:
        table: generated columns by name.
        real: real columns by the same names.
    """
    names = [name for name in table if len(np.unique(_of(table, real, name))) > 1][:_COLUMNS]
    names = names or list(table)[:1]
    if len(names) > _PAIRED:
        rows = math.ceil(len(names) / _ACROSS)
        figure = new_figure(2.1 * _ACROSS, 0.6 + 1.8 * rows)
        places = list(figure.subplots(rows, _ACROSS, squeeze=False).flat)
        for axes in places[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(places, names, strict=False):
            _marginal(axes, name, table, real)
            axes.set_xlabel(name, fontsize=TEXT)
    else:
        figure = _pairs(names, table, real)
    _legend(figure, real is not None)
    return figure


def _pairs(names: list[str], table: Table, real: Table | None) -> Figure:
    count = len(names)
    figure = new_figure(0.9 + 1.8 * count, 1.2 + 1.8 * count)
    grid = figure.subplots(count, count, squeeze=False)
    for row, column in itertools.product(range(count), repeat=2):
        axes, shown = grid[row][column], table if row < column or real is None else real
        if row == column:
            _marginal(axes, names[row], table, real)
            _limits(axes, "x", names[row], table, real)
        elif row < column and real is None:
            axes.set_axis_off()
        else:
            color = ACCENT if shown is table else INK
            for side, name in (("x", names[column]), ("y", names[row])):
                _limits(axes, side, name, table, real)
            x, y = (_places(shown, names[i], table, real, i) for i in (column, row))
            axes.scatter(
                x[:_POINTS], y[:_POINTS], s=4, color=color, alpha=0.4, linewidths=0, rasterized=True
            )
            without_box(axes)
        turned = 45 if _is_category(table[names[column]]) else 0
        axes.tick_params("x", labelbottom=row == count - 1, labelrotation=turned)
        axes.tick_params("y", labelleft=column == 0)
        axes.tick_params(labelsize=SMALL)
        axes.set_xlabel(names[column] if row == count - 1 else "", fontsize=TEXT)
        axes.set_ylabel(names[row] if column == 0 else "", fontsize=TEXT)
    return figure


def _marginal(axes: Axes, name: str, table: Table, real: Table | None) -> None:
    """Shares of categories as bars, other columns as histograms, of integers in bins of some."""
    known = table[name] if real is None else real[name]
    if _is_category(known):
        values, _ = _categories(name, table, real)
        width = 0.4 if real is not None else 0.7
        for index, (source, color) in enumerate(_sources(name, table, real)):
            shares = [np.mean(source == value) for value in values]
            at = np.arange(len(values)) + (index - 0.5 if real is not None else 0) * width
            axes.bar(at, shares, width, color=color, alpha=0.8)
        axes.set_xticks(range(len(values)), [str(value)[:8] for value in values])
        axes.tick_params("x", labelrotation=45 if len(values) > 3 else 0)
    else:
        low, high = _ends(known)
        edges: Any = np.linspace(low, high, min(40, max(10, len(known) // 15)) + 1)
        if known.dtype.kind in "iu":
            step = max(1, math.ceil((high - low) / 40))
            edges = np.arange(math.floor(low), math.ceil(high) + step + 1, step) - 0.5
        for source, color in _sources(name, table, real):
            # Shares of all rows, those beyond the picture too.
            weights = np.full(len(source), 1 / len(source))
            heights, _ = np.histogram(source.astype(float), edges, weights=weights)
            filled = color == INK or real is None
            alpha = 0.55 if filled else 1.0
            axes.stairs(heights, edges, fill=filled, color=color, alpha=alpha, linewidth=1.4)
    axes.set_yticks([])
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _sources(name: str, table: Table, real: Table | None) -> list[tuple[Any, str]]:
    generated = [(table[name], ACCENT)]
    return generated if real is None else [(real[name], INK), *generated]


def _of(table: Table, real: Table | None, name: str) -> Any:
    parts = [table[name]] if real is None else [table[name], real[name]]
    return np.concatenate([part.astype(str) for part in parts])


def _is_category(values: Any) -> bool:
    few = values.dtype.kind in "iu" and len(np.unique(values)) <= 2
    return values.dtype.kind in "Ob" or few


def _categories(name: str, table: Table, real: Table | None) -> tuple[list[Any], int]:
    """The commonest categories of real rows, in their order, and the number of all."""
    values, counts = np.unique(table[name] if real is None else real[name], return_counts=True)
    most = np.sort(np.argsort(-counts, kind="stable")[:_BARS])
    return values[most].tolist(), len(values)


def _places(shown: Table, name: str, table: Table, real: Table | None, seed: int) -> Any:
    """Where rows stand on an axis: numbers, or numbers of categories with some spread."""
    values = shown[name]
    if not _is_category(table[name] if real is None else real[name]):
        return values.astype(float)
    known, _ = _categories(name, table, real)
    index = {value: float(number) for number, value in enumerate(known)}
    found = np.array([index.get(value, math.nan) for value in values.tolist()])
    return found + np.random.default_rng(seed).uniform(-0.3, 0.3, len(found))


def _limits(axes: Axes, side: str, name: str, table: Table, real: Table | None) -> None:
    known = table[name] if real is None else real[name]
    if _is_category(known):
        values, _ = _categories(name, table, real)
        places, texts = range(len(values)), [str(value)[:8] for value in values]
        getattr(axes, f"set_{side}ticks")(places, texts)
        getattr(axes, f"set_{side}lim")(-0.6, len(values) - 0.4)
    else:
        low, high = _ends(known)
        getattr(axes, f"set_{side}lim")(low, high)


def _ends(values: Any) -> tuple[float, float]:
    """The range of a column, without its outermost rows, and a margin."""
    low, high = np.quantile(values.astype(float), _OUTER)
    margin = 0.08 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _legend(figure: Figure, both: bool) -> None:
    from matplotlib.patches import Patch

    kinds = [("real", INK), ("generated", ACCENT)] if both else [("generated", ACCENT)]
    patches = [Patch(color=color, alpha=0.7, label=label) for label, color in kinds]
    figure.legend(handles=patches, loc="outside upper right", ncols=2, frameon=False, fontsize=TEXT)
