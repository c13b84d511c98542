"""Pictures of examples of any shape: images, curves of series, columns of tables."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sde_score._core.files import replace_file
from sde_score.report.look import Look, cell, kind_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_DPI = 110  # of pictures on pages
_PANEL = 480  # pixels of a panel in a page, which one image may exceed
_WIDE = 14.0  # inches of a figure, which one map may exceed
_CURVES = 64  # series drawn over one another
_PAIRED, _COLUMNS = 5, 30  # columns of a table of which all pairs, and all marginals, are drawn
_SHARES = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)

INK, ACCENT, FAINT = "#1f2933", "#c2410c", "#9aa5b1"
SMALL, TEXT, HEAD = 8.5, 9.5, 10.5
"""Sizes of type."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = _DPI) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def draw_examples(
    axes: Axes, x: Tensor, look: Look, columns: int, limit: float | None = None
) -> None:
    """Draw examples in model range into a panel of a figure, without ticks.

    Images lie side by side, channels of fields apart; series are curves, channels one above the
    other, each in the range of the data; of a table of two columns there are points, of more the
    spread of each column.

    Args:
        axes: the panel.
        x: shape `(n, *event)`.
        look: of the data.
        columns: images side by side.
        limit: largest absolute value in the window of points and columns; None fits them.
    """
    kind = kind_of(x.shape[1:])
    if kind == "images":
        axes.imshow(look.sheet(x, columns).numpy())
        axes.set_axis_off()
        return
    axes.set(xticks=[], yticks=[])
    if kind == "series":
        values = look.raw(x).flatten(2)[:_CURVES]
        axes.set_axis_off()
        for index, part in enumerate(_parts(axes, values.shape[1])):
            _draw_curves(part, values[:, index])
            part.set(xticks=[], yticks=[], ylim=_window(look, index))
        return
    values = x.detach().cpu().double()
    if values.shape[1] == 2:
        axes.scatter(values[:, 0], values[:, 1], s=3, color=INK, alpha=0.5, linewidths=0)
        axes.set_aspect("equal")
        if limit is not None:
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    elif values.shape[1] == 1:
        axes.hist(values[:, 0], bins=40, color=INK, alpha=0.7)
        axes.set(xlim=None if limit is None else (-limit, limit))
    else:
        draw_spread(axes, values)
        axes.set(ylim=None if limit is None else (-limit, limit))


def _window(look: Look, channel: int) -> tuple[float, float] | None:
    """The range of the data in a channel and a quarter beyond, alike in all panels; None fits what
    is drawn."""
    if not look.low:
        return None
    low, high = look.low[channel], look.high[channel]
    beyond = (high - low) / 4 or 1.0
    return low - beyond, high + beyond


def _parts(axes: Axes, count: int) -> list[Axes]:
    """Panels one above the other inside of a panel."""
    return [axes.inset_axes((0, 1 - (i + 1) / count, 1, 0.96 / count)) for i in range(count)]


def _draw_curves(axes: Axes, values: Tensor) -> None:
    axes.plot(values.T, color=INK, alpha=0.35, linewidth=0.8)
    axes.set_xlim(0, values.shape[1] - 1)


def draw_spread(axes: Axes, values: Tensor) -> None:
    """Median, half and nine tenths of each column, shape `(n, columns)`, as marks side by side."""
    low, below, middle, above, high = torch.quantile(values, _SHARES, dim=0)
    place = torch.arange(values.shape[1])
    if len(place) > _COLUMNS:
        axes.fill_between(place, low, high, color=FAINT, alpha=0.4, linewidth=0)
        axes.fill_between(place, below, above, color=INK, alpha=0.4, linewidth=0)
        axes.plot(place, middle, color=ACCENT, linewidth=1)
        return
    axes.vlines(place, low, high, color=FAINT, linewidth=1)
    axes.vlines(place, below, above, color=INK, linewidth=3)
    axes.scatter(place, middle, s=7, color=ACCENT, zorder=3)


def examples_figure(
    x: Tensor, columns: int = 8, title: str = "", look: Look | None = None
) -> Figure:
    """Examples in model range as one figure, in the data's own terms.

    Images are a sheet; channels that are no colors, and values that are no gray levels, have a map
    and a scale for each channel. Series have a panel for each channel. Tables of one column are a
    histogram, of up to 5 columns histograms with points of every pair, of up to 30 a histogram for
    each column, of more the spread of each.

    Args:
        x: shape `(n, *event)`.
        columns: images side by side.
        title: above all.
        look: of the data; None takes what is in [-1, 1], without names.
    """
    look = _plain(x.shape[1:]) if look is None else look
    kind = kind_of(x.shape[1:])
    if kind == "images" and look.is_field(x):
        figure = _field_figure(x, look, columns)
    elif kind == "images":
        sheet = look.sheet(x, columns)
        height, width = (max(side / _DPI, 1.0) for side in sheet.shape[:2])
        figure = new_figure(width + 0.1, height + 0.1 + (0.3 if title else 0))
        draw_examples(figure.subplots(), x, look, columns)
    elif kind == "series":
        figure = _series_figure(look.raw(x).flatten(2)[:_CURVES])
    else:
        figure = _table_figure(look.raw(x), look)
    figure.suptitle(title, fontsize=HEAD)
    return figure


def _plain(event_shape: Sequence[int]) -> Look:
    """The look of data of which nothing is known: from -1 to 1."""
    ends = (1.0,) * event_shape[0]
    return Look(low=tuple(-end for end in ends), high=ends)


def _field_figure(x: Tensor, look: Look, columns: int) -> Figure:
    """A map for each channel, of all examples side by side, with its scale."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    maps, ends = look.sheets(x, columns), look.ends(x)
    height, width = (max(side / _DPI, 1.5) for side in maps[0].shape[:2])
    across = max(1, min(len(maps), int(_WIDE / (width + 0.9))))
    rows = -(-len(maps) // across)
    figure = new_figure((width + 0.9) * across, (height + 0.3) * rows)
    grid = figure.subplots(rows, across, squeeze=False).flatten()
    for index, (axes, pixels) in enumerate(zip(grid, maps, strict=False)):
        axes.imshow(pixels.numpy())
        axes.set_title(f"channel {index + 1}" if len(maps) > 1 else "", fontsize=TEXT)
        scale = figure.colorbar(ScalarMappable(Normalize(*ends[index]), "gray"), ax=axes)
        scale.ax.tick_params(labelsize=SMALL)
    for axes in grid:
        axes.set_axis_off()
    return figure


def _series_figure(values: Tensor) -> Figure:
    count = values.shape[1]
    figure = new_figure(7.2, 1 + 1.4 * count)
    for index, axes in enumerate(figure.subplots(count, sharex=True, squeeze=False)[:, 0]):
        _draw_curves(axes, values[:, index])
        without_box(axes)
        if count > 1:
            axes.set_ylabel(f"channel {index + 1}")
    axes.set_xlabel("position")
    return figure


def _table_figure(values: Tensor, look: Look) -> Figure:
    count, names = values.shape[1], look.names(values.shape[1])
    ends = list(zip(look.low, look.high, strict=True)) if len(look.low) == count else None
    if count > _COLUMNS:
        figure = new_figure(9, 3.6)
        axes = figure.subplots()
        draw_spread(axes, values)
        axes.set(xlabel="column", title="median, half and nine tenths of each column")
        without_box(axes)
        return figure
    if count > _PAIRED or count == 1:
        rows = math.ceil(count / 5)
        figure = new_figure(max(3.2, 2.2 * min(count, 5)), 0.4 + 1.8 * rows)
        places = list(figure.subplots(rows, min(count, 5), squeeze=False).flat)
        for axes in places[count:]:
            axes.set_axis_off()
        for index, axes in enumerate(places[:count]):
            _draw_marginal(axes, values[:, index], None if ends is None else ends[index])
            axes.set_xlabel(names[index], fontsize=TEXT)
        return figure
    figure = new_figure(0.8 + 1.9 * count, 0.8 + 1.9 * count)
    grid = figure.subplots(count, count, squeeze=False, sharex="col")
    for row, column in itertools.product(range(count), repeat=2):
        axes = grid[row][column]
        if row < column:
            axes.set_axis_off()
        elif row == column:
            _draw_marginal(axes, values[:, row], None if ends is None else ends[row])
        else:
            pair = values[:, column], values[:, row]
            axes.scatter(*pair, s=4, color=INK, alpha=0.4, linewidths=0)
            without_box(axes)
        axes.set_xlabel(names[column] if row == count - 1 else "", fontsize=TEXT)
        axes.set_ylabel(names[row] if column == 0 and row > 0 else "", fontsize=TEXT)
    return figure


def _draw_marginal(axes: Axes, values: Tensor, ends: tuple[float, float] | None) -> None:
    """A histogram over the range of the data, where it is known."""
    axes.hist(values, bins=min(60, max(10, len(values) // 20)), color=INK, alpha=0.75)
    if ends is not None:
        axes.axvspan(*ends, color=FAINT, alpha=0.2, linewidth=0, zorder=0)
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)


def save_examples(x: Tensor, path: Path, columns: int = 8, look: Look | None = None) -> None:
    """Write examples in model range as a PNG file, in one step.

    Every pixel of an image is there; see `examples_figure`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    look = _plain(x.shape[1:]) if look is None else look
    if kind_of(x.shape[1:]) == "images" and not look.is_field(x):
        content = png_of_pixels(look.sheet(x, columns))
    else:
        content = png(examples_figure(x, columns, look=look), dpi=150)
    replace_file(path, content)


def png_of_pixels(image: Tensor) -> bytes:
    """An image of uint8, shape `(height, width, 1 or 3)`, as the bytes of a PNG file."""
    from PIL import Image  # comes with matplotlib

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1).contiguous().numpy()).save(buffer, format="png")
    return buffer.getvalue()


def labeled_panels(
    panels: Sequence[tuple[str, Tensor]], look: Look, columns: int, size: float, per_row: int
) -> Figure:
    """Sets of examples side by side, each under its label, every pixel of images shown.

    Args:
        panels: label and examples in model range, shape `(n, *event)`.
        look: of the data.
        columns: examples side by side in a panel, fewer where they are large.
        size: of a panel, in inches, at least.
        per_row: panels side by side.
    """
    event_shape, limit, share = panels[0][1].shape[1:], None, 1.0
    if kind_of(event_shape) == "images":
        height, width = (side + 1 for side in cell(event_shape))
        columns = max(1, min(columns, _PANEL // width))
        panels = [(label, x[: columns * columns]) for label, x in panels]
        size = max(size, 0.1 + 1.06 * columns * max(height, width) / _DPI)  # and margins
        share = min(1.0, height / width)
    else:
        limit = max(_reach(x) for _, x in panels)
    rows = -(-len(panels) // per_row)
    figure = new_figure(size * min(per_row, len(panels)), (share * size + 0.4) * rows)
    grid = figure.subplots(rows, min(per_row, len(panels)), squeeze=False).flatten()
    for axes, (label, x) in zip(grid, panels, strict=False):
        draw_examples(axes, x, look, columns, limit)
        axes.set_title(label, fontsize=8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if kind_of(event_shape) == "images" and look.is_field(panels[0][1]):
        ends = "; ".join(f"{low:.4g} to {high:.4g}" for low, high in look.ends(panels[0][1]))
        figure.supxlabel(f"channels left to right, black to white: {ends}", fontsize=SMALL)
    return figure


def _reach(x: Tensor) -> float:
    """Largest absolute value of points; of many columns nearly the largest of the usual values."""
    values = x.detach().cpu().double().abs()
    if kind_of(x.shape[1:]) == "table" and values.shape[1] > 2:
        return 1.15 * float(torch.quantile(values, _SHARES[-1], dim=0).max())
    return float(values.max())


def plain_numbers(axis: Axis, ticks: Sequence[float]) -> None:
    """Plain numbers at the ticks of a logarithmic axis, and no others."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_ticklabels([f"{tick:g}" for tick in ticks])


def without_box(axes: Axes) -> None:
    """A faint grid, no lines above and to the right, and small labels."""
    axes.tick_params(labelsize=SMALL)
    axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
