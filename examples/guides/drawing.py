"""Style of the pictures of the guides: panels with a title each, and options in one place."""

import argparse
from pathlib import Path

import torch

from sde_score.report.pictures import FAINT, INK, SMALL, TEXT, new_figure, png

BLUE, ORANGE, GREEN, PURPLE, PINK = "#0072b2", "#d55e00", "#00805c", "#6a2c7c", "#cc79a7"
__all__ = ["BLUE", "FAINT", "GREEN", "INK", "ORANGE", "PINK", "PURPLE"]


def options(file, doc, **numbers):
    """The options of a script: `--out`, and numbers that say how much is measured."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(Path(file).stem + ".png"))
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    torch.set_num_threads(1)
    return parser.parse_args()


def panels(*titles, rows=1):
    """A figure 12 inches wide with panels side by side, and in rows."""
    figure = new_figure(12, 4.2 if rows == 1 else 3.7 * rows)
    axes = figure.subplots(rows, len(titles) // rows).flatten()
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title, fontsize=TEXT + 1, loc="left")
        panel.tick_params(labelsize=SMALL)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color=FAINT, alpha=0.25)
    return figure, axes


def ticks(axis, values):
    """Ticks of a logarithmic axis at the values that were measured."""
    axis.set_ticks(list(values), [f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def save(figure, axes, path):
    """Write the picture, 1200 pixels wide."""
    for panel in axes:
        panel.xaxis.label.set_fontsize(TEXT)
        panel.yaxis.label.set_fontsize(TEXT)
        if panel.get_legend_handles_labels()[0] and panel.get_legend() is None:
            panel.legend(fontsize=SMALL, frameon=False)
    path.write_bytes(png(figure, 100))
    print(f"wrote {path}")
