"""Pictures of examples of any shape: images, points in the plane, or curves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sde_score._core.files import replace_file
from sde_score.data import Scaling

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_TINY = 16  # pixels; shorter sides than this are enlarged
_PLOTTED = 90  # pixels; longer sides than this are larger than a plot

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


def png(figure: Figure, dpi: int = 110) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def is_picture(event_shape: Sequence[int]) -> bool:
    """Whether an event can be shown as an image: `(1 or 3, height, width)`."""
    return len(event_shape) == 3 and event_shape[0] in (1, 3)


def mosaic(images: Tensor, columns: int) -> Tensor:
    """Images `(n, C, H, W)` in [-1, 1] side by side: values in [0, 1], shape `(h, w, C)`.

    One white pixel stands between neighbors; places left over are white.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.ones(rows * (height + 1) - 1, columns * (width + 1) - 1, channels)
    levels = ((images.detach().float().cpu() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    for index, image in enumerate(levels):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        sheet[top : top + height, left : left + width] = image
    return sheet


_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


def in_shown_range(x: Tensor, scaling: Scaling) -> Tensor:
    """Images in model range as `mosaic` takes them, black at -1 and white at 1.

    Levels span the model range as they are. Continuous data are taken back to their own terms, in
    which black and white are those of the usual range that holds nearly all: [0, 1], [-1, 1] or
    [0, 255]; else the ends of the values themselves.
    """
    if scaling.levels is not None or not is_picture(x.shape[1:]):
        return x
    raw = scaling.from_model(x.double())
    values = raw.flatten().sort().values
    edge = len(values) // 100
    low, high = values[edge].item(), values[-1 - edge].item()
    for black, white in _RANGES:
        slack = 0.05 * (white - black)
        if black - slack <= low and high <= white + slack:
            break
    else:
        black, white = low, max(high, low + 1e-12)
    return (2 * (raw - black) / (white - black) - 1).float()


def _enlarged(images: Tensor) -> Tensor:
    """Tiny images, drawn smoothly at four times their size, as an eye can read them."""
    if min(images.shape[2:]) >= _TINY:
        return images
    return F.interpolate(images.detach().float().cpu(), scale_factor=4.0, mode="bicubic")


def draw_examples(axes: Axes, x: Tensor, columns: int, limit: float | None = None) -> None:
    """Draw examples in model range into a plot.

    Args:
        axes: the plot.
        x: shape `(n, *event)`; gray or color images, points in the plane, or anything else, which
            is drawn as curves over its flattened entries.
        columns: images side by side.
        limit: half-width of the window for points; None fits them.
    """
    if is_picture(x.shape[1:]):
        sheet = mosaic(_enlarged(x), columns).expand(-1, -1, 3).numpy()
        axes.imshow(sheet, interpolation="nearest")
        axes.set_axis_off()
        return
    points = x.detach().flatten(1).float().cpu().numpy()
    if points.shape[1] == 2:
        axes.scatter(points[:, 0], points[:, 1], s=3, color=INK, alpha=0.5, linewidths=0)
        axes.set_aspect("equal")
        if limit is not None:
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
        axes.set(xticks=[], yticks=[])
    else:
        axes.plot(points[:64].T, color=INK, alpha=0.2, linewidth=0.8)
        axes.set_xlabel("entry")


def examples_figure(x: Tensor, columns: int = 8, title: str = "") -> Figure:
    """Examples in model range as one figure; see `draw_examples`."""
    rows = -(-len(x) // columns) if is_picture(x.shape[1:]) else columns
    figure = new_figure(0.62 * columns, 0.62 * rows + (0.3 if title else 0))
    axes = figure.subplots()
    draw_examples(axes, x, columns)
    axes.set_title(title, fontsize=10)
    return figure


def save_examples(x: Tensor, path: Path, columns: int = 8) -> None:
    """Write examples in model range as a PNG file, in one step.

    Images larger than a plot shows them are put side by side, pixel by pixel.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    large = is_picture(x.shape[1:]) and max(x.shape[2:]) > _PLOTTED
    content = _sheet(x, columns) if large else png(examples_figure(x, columns), dpi=150)
    replace_file(path, content)


def _sheet(images: Tensor, columns: int) -> bytes:
    """The mosaic of images as the bytes of a PNG file, one pixel for one."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    sheet = (255 * mosaic(images, columns).expand(-1, -1, 3)).round().to(torch.uint8)
    imsave(buffer, sheet.numpy(), format="png")
    return buffer.getvalue()


def training_curve(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss against step, from the records of `metrics.jsonl`."""
    figure = new_figure(6.4, 2.6)
    axes = figure.subplots()
    steps = [r["step"] for r in records]
    axes.plot(steps, [r["loss"] for r in records], color=ACCENT, linewidth=1.4)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(color=FAINT, alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def labeled_panels(
    panels: Sequence[tuple[str, Tensor]], columns: int, size: float, per_row: int
) -> Figure:
    """Sets of examples side by side, each under its label.

    Args:
        panels: label and examples in model range, shape `(n, *event)`.
        columns: examples side by side in a panel.
        size: of a panel, in inches.
        per_row: panels side by side.
    """
    rows = -(-len(panels) // per_row)
    figure = new_figure(size * min(per_row, len(panels)), (size + 0.3) * rows)
    grid = figure.subplots(rows, min(per_row, len(panels)), squeeze=False).flatten()
    images = is_picture(panels[0][1].shape[1:])
    limit = None if images else float(torch.cat([x.flatten() for _, x in panels]).abs().max())
    for axes, (label, x) in zip(grid, panels, strict=False):
        draw_examples(axes, x, columns, limit)
        axes.set_title(label, fontsize=8)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    return figure


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
