"""Style of the pictures: one palette, one way to draw each kind of thing.

Blue is the truth, orange is what was learned, dark dots are data, green is whatever else a picture
needs. The truth is a broad pale line and what was learned a thin one on top, so that both are seen
where they agree. Everything draws into axes of matplotlib and nothing opens a window.
"""

import argparse
import io
from pathlib import Path

import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

TRUTH, LEARNED, OTHER, INK, FAINT = "#0072b2", "#d55e00", "#00805c", "#1f2933", "#9aa5b1"
TRUE_SHADES = LinearSegmentedColormap.from_list("truth", ["#ffffff", "#cfe4f2", "#62a8d3"])
LEARNED_SHADES = LinearSegmentedColormap.from_list("learned", ["#ffffff", "#fbe0cb", "#eb9a5c"])
ERROR_SHADES = LinearSegmentedColormap.from_list("error", ["#ffffff", "#d9c2de", "#6a2c7c"])
LOGARITHMIC = {"xscale": "log", "yscale": "log"}
LIMIT = 4.0  # half-width of the window on the plane

matplotlib.rcParams.update(
    {
        "font.size": 12.5,
        "axes.titlesize": 13.5,
        "axes.titlelocation": "left",
        "axes.titlepad": 9,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.solid_capstyle": "round",
        "axes.unicode_minus": True,
        "legend.frameon": False,
        "legend.handlelength": 1.4,
        "legend.labelcolor": "linecolor",
    }
)


def arguments(file, doc, steps=None, samples=None):
    """The options of a script: `--out`, `--steps` where it trains, `--samples` where samples are
    what takes its time; one thread from here on.

    Args:
        file: its `__file__`, whose name the picture gets.
        doc: its `__doc__`.
        steps: optimizer steps if the option is not given; None where nothing is trained.
        samples: how many samples if the option is not given; None for no such option.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(Path(file).stem + ".png"))
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps, help="optimizer steps")
    if samples is not None:
        parser.add_argument("--samples", type=int, default=samples, help="how many samples")
    torch.set_num_threads(1)
    return parser.parse_args()


def sheet(title, height=4.6, widths=(1, 1), heights=(1,)):
    """A figure 12 inches wide with a headline, and its panels: a list, or a grid as an array."""
    figure = Figure(figsize=(12, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.02)
    figure.suptitle(title, x=0.012, ha="left", fontsize=17, fontweight="bold")
    panels = figure.subplots(
        len(heights), len(widths), width_ratios=widths, height_ratios=heights, squeeze=False
    )
    return figure, (list(panels[0]) if len(heights) == 1 else panels)


def joined(panels):
    """One wide panel in the place of neighbors in a row."""
    places = [axes.get_subplotspec() for axes in panels]
    columns = slice(places[0].colspan.start, places[-1].colspan.stop)
    place = panels[0].get_gridspec()[places[0].rowspan.start, columns]
    for axes in panels:
        axes.remove()
    return place.get_gridspec().figure.add_subplot(place)


def save(figure, path):
    """Write the figure, 1200 pixels wide, in 256 colors."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    image = Image.open(buffer).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}")


def plane(axes, limit=LIMIT, step=2):
    """Make axes a square window on the plane of x = (x₁, x₂)."""
    ticks = list(range(-int(limit), int(limit) + 1, step))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=ticks, yticks=ticks)
    axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")
    axes.yaxis.label.set_rotation(0)


def name(axes, title, xlabel, ylabel, **settings):
    """Title, names of the axes with their units, and anything else that `axes.set` takes."""
    axes.set(xlabel=xlabel, ylabel=ylabel, **settings)
    axes.set_title(title)


def lattice(limit=LIMIT, count=121):
    """A square lattice: coordinates `(count, count)` twice, and its points `(count², 2)`."""
    line = torch.linspace(-limit, limit, count, dtype=torch.float64)
    x1, x2 = torch.meshgrid(line, line, indexing="xy")
    return x1, x2, torch.stack([x1, x2], -1).reshape(-1, 2)


@torch.no_grad()
def shade(axes, function, shades=TRUE_SHADES, limit=LIMIT, levels=12, top=None, count=121):
    """Shade the plane by a function of points `(n, 2)` that is at least 0; darker is more."""
    x1, x2, points = lattice(limit, count)
    values = function(points).double().reshape(x1.shape)
    top = float(values.max()) if top is None else top
    bounds = torch.linspace(0, top, levels + 1).tolist()
    return axes.contourf(x1, x2, values, bounds, cmap=shades, extend="max", zorder=0)


@torch.no_grad()
def contours(axes, function, levels, color=TRUTH, limit=LIMIT, width=1.2, count=121):
    """Lines of equal value of a function of points `(n, 2)`."""
    x1, x2, points = lattice(limit, count)
    values = function(points).double().reshape(x1.shape)
    return axes.contour(x1, x2, values, levels, colors=color, linewidths=width)


@torch.no_grad()
def arrows(axes, field, color=TRUTH, limit=LIMIT, count=15, longest=None, broad=False, **style):
    """Arrows of a field on points `(n, 2)`, as long as the root of the field; broad and pale where
    others are drawn on top."""
    _, _, points = lattice(limit * (1 - 0.5 / count), count)
    vectors = field(points).double()
    length = vectors.norm(dim=1, keepdim=True)
    longest = float(length.max()) if longest is None else longest
    drawn = vectors / length.clamp(min=1e-12) * (length / longest).sqrt().clamp(max=1)
    scale = count / (2 * limit) / 0.95
    thin = {"width": 0.0045, "headwidth": 4.2, "headlength": 4.5, "zorder": 3}
    pale = {"width": 0.013, "headwidth": 2.2, "headlength": 2.4, "headaxislength": 2.4}
    style = {**(pale if broad else thin), "alpha": 0.45 if broad else 1, **style}
    return axes.quiver(
        *points.T, *drawn.T, color=color, angles="xy", scale_units="xy", scale=scale, **style
    )


def dots(axes, x, color=INK, size=5, alpha=0.5, zorder=2):
    """Points of the plane."""
    axes.scatter(*x.detach().T, s=size, color=color, alpha=alpha, linewidths=0, zorder=zorder)


def truth(axes, x, y, **style):
    """A curve that is exact: broad and pale."""
    style = {"color": TRUTH, "linewidth": 6, "alpha": 0.4, **style}
    return axes.plot(x, y, **style)[0]


def learned(axes, x, y, **style):
    """A curve that was learned: thin, on top."""
    style = {"color": LEARNED, "linewidth": 1.8, **style}
    return axes.plot(x, y, **style)[0]


def other(axes, x, y, **style):
    """A curve that is neither: the contender of a picture."""
    style = {"color": OTHER, "linewidth": 1.8, **style}
    return axes.plot(x, y, **style)[0]


def say(axes, x, y, text, color=INK, inside=False, **style):
    """A label at a place in data units, or in parts of the panel, readable on any ground."""
    style = {"color": color, "zorder": 6, "linespacing": 1.25, **style}
    if inside:
        style["transform"] = axes.transAxes
    halo = [withStroke(linewidth=3.5, foreground="white")]
    return axes.text(x, y, text, path_effects=halo, **style)
