"""Pictures of docs/benchmarks.md, from rows of the data files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from sde_score.report.pictures import (
    FAINT,
    HEAD,
    INK,
    SMALL,
    TEXT,
    new_figure,
    plain_numbers,
    png,
    without_box,
)

Row = dict[str, Any]
Points = Mapping[str, Sequence[float | None]]
# Told apart with any color vision (Okabe & Ito 2008); ours warm, peers cold, the rest gray.
OURS, ALSO, AZULA, DIFFUSERS = "#D55E00", "#E69F00", "#0072B2", "#009E73"
DPI = 84


def sampler_errors(duels: Sequence[Any]) -> bytes:
    """Error against evaluations: a column of panels for each target, a row for each measure."""
    targets = list(dict.fromkeys(duel.target for duel in duels))
    measures = list(dict.fromkeys(duel.measure for duel in duels))
    figure = new_figure(13, 6.2)
    grid = figure.subplots(len(measures), len(targets), squeeze=False)
    for i, measure in enumerate(measures):
        for axes, target in zip(grid[i], targets, strict=True):
            here = [duel for duel in duels if (duel.target, duel.measure) == (target, measure)]
            for kind, color, style, name in (
                ("ours", ALSO, "-", "ours: the best name for each point"),
                ("auto", OURS, "-", "ours: auto"),
                ("azula", AZULA, "--", "azula: the best for each point"),
                ("diffusers", DIFFUSERS, "--", "diffusers: the best for each point"),
            ):
                found = [(duel.nfe, getattr(duel, kind)[measure]) for duel in here]
                width = 4 if kind == "ours" else 1.6
                axes.plot(*zip(*found, strict=True), style, color=color, marker="o", markersize=4,
                          linewidth=width, label=name)  # fmt: skip
            axes.set(xscale="log", yscale="log")
            plain_numbers(axes.xaxis, sorted({duel.nfe for duel in here}))
            title = {"rms": "RMS", "median": "median start"}[measure]
            axes.set_title(f"{target}: {title}", fontsize=HEAD, loc="left", color=INK)
            without_box(axes)
    for axes in grid[-1]:
        axes.set_xlabel("network evaluations", fontsize=TEXT)
    handles = {name: line for axes in grid.flat
               for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}  # fmt: skip
    figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=5,
                  fontsize=SMALL, frameon=False)  # fmt: skip
    return png(figure, DPI)


def dots(
    axes: Axes, points: Points, names: Sequence[str], colors: Sequence[str], strong: Callable
) -> None:
    """A line for each name with a dot for each of several figures, on a logarithmic axis; names
    that are strong are bold."""
    top = len(points) - 1
    for place, values in enumerate(points.values()):
        axes.axhline(top - place, color=FAINT, linewidth=0.5, zorder=0)
        for value, color in zip(values, colors, strict=True):
            if value is not None:
                axes.plot(value, top - place, "o", color=color, markersize=5.5, zorder=2)
    for name, color in zip(names, colors, strict=True):
        axes.plot([], [], "o", color=color, label=name)
    axes.set_yticks(range(len(points)), list(points)[::-1], fontsize=SMALL)
    for tick, label in zip(axes.get_yticklabels(), list(points)[::-1], strict=True):
        tick.set_fontweight("bold" if strong(label) else "normal")
    axes.set_xscale("log")
    axes.legend(fontsize=SMALL, frameon=False, loc="lower center", ncols=len(names),
                bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    without_box(axes)


def sampler_overhead(rows: Sequence[Row]) -> bytes:
    """Multiples of our cost."""
    batches = sorted({row["batch"] for row in rows})
    found = {(row["sampler"], row["by"], row["batch"]): row["times ours"] for row in rows}
    points = {
        f"{sampler}: {by}": [found[sampler, by, batch] for batch in batches]
        for sampler, by in dict.fromkeys((row["sampler"], row["by"]) for row in rows)
        if by != "ours"
    }
    figure = new_figure(9, 0.6 + 0.24 * len(points))
    axes = figure.subplots()
    dots(axes, points, [f"batch of {n}" for n in batches], (ALSO, INK),
         lambda label: not label.endswith("bare"))  # fmt: skip
    axes.axvline(1, color=OURS, linewidth=1.5)
    axes.set_xlabel("processor time of a step, times ours (the line)", fontsize=TEXT)
    plain_numbers(axes.xaxis, [0.2, 0.5, 1, 2, 5, 10, 20])
    return png(figure, DPI)


def likelihood(rows: Sequence[Row]) -> bytes:
    """Error of the worst image against evaluations."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    for name, color, style in (
        ("recipe", AZULA, "--"), ("dopri5", ALSO, "-"), ("quadrature", OURS, "-"),
    ):  # fmt: skip
        found = [(row["evaluations"], row["worst"]) for row in rows if row["name"] == name]
        axes.plot(*zip(*found, strict=True), style, marker="o", color=color, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("evaluations of the network", fontsize=TEXT)
    axes.set_ylabel("error of the worst image, bits/dim", fontsize=TEXT)
    plain_numbers(axes.xaxis, [20, 50, 100, 200, 500, 1000])
    axes.legend(fontsize=SMALL, frameon=False)
    without_box(axes)
    return png(figure, DPI)


def objectives(rows: Sequence[Row]) -> bytes:
    """Errors of the learned score by objective and dimension."""
    rows = [row for row in rows if row["table"] == "error"]
    dims = sorted({row["dimension"] for row in rows})
    found = {(row["objective"], row["dimension"]): row["error"] for row in rows}
    points = {
        name: [found.get((name, dim)) for dim in dims]
        for name in dict.fromkeys(row["objective"] for row in rows)
    }
    figure = new_figure(9, 0.8 + 0.26 * len(points))
    axes = figure.subplots()
    dots(axes, points, [f"{n} dimensions" for n in dims], (ALSO, OURS, INK)[-len(dims) :],
         lambda label: False)  # fmt: skip
    # Contrastive divergence far from its data has no scale of its own: it would flatten the rest.
    axes.set_xlim(right=10)
    axes.set_xlabel("relative squared error of the learned score (10 and more: off the picture)",
                    fontsize=TEXT)  # fmt: skip
    return png(figure, DPI)


def posterior_linear(rows: Sequence[Row]) -> bytes:
    """Divergence of each method by the number of steps, at the smaller noise."""
    std = min(row["std"] for row in rows)
    rows = [row for row in rows if row["std"] == std]
    steps = sorted({row["steps"] for row in rows})
    found = {(row["method"], row["steps"]): row["KL"] for row in rows}
    names = list(dict.fromkeys(row["method"] for row in rows))
    names.sort(key=lambda name: found[name, steps[-1]] or float("inf"))
    points = {name: [found[name, n] for n in steps] for name in names}
    figure = new_figure(9, 0.8 + 0.22 * len(points))
    axes = figure.subplots()
    dots(axes, points, [f"{n} steps" for n in steps], (ALSO, INK),
         lambda label: label.startswith("azula"))  # fmt: skip
    axes.set_xlabel(f"KL(samples || posterior), noise {std}; without a dot: infinite",
                    fontsize=TEXT)  # fmt: skip
    return png(figure, DPI)
