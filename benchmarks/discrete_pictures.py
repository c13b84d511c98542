"""Data files and pictures of `ncsn_vs_sde.py` and `ddpm_vs_sde.py`, for docs/ncsn_against_sde.md.

    python benchmarks/discrete_pictures.py                                  # pictures, of the files
    python benchmarks/discrete_pictures.py MNIST=runs/ncsn_vs_sde ...       # the files first

A folder is the `--out` of either script, and what stands before it the name of its data. Rows of
the files that are of other data stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import results
import torch
from discrete_vs_continuous import CONTINUOUS
from results import Row
from tables import over_seeds

from sde_score import samplers
from sde_score.report.look import Look
from sde_score.report.pictures import (
    FAINT,
    HEAD,
    SMALL,
    TEXT,
    draw_examples,
    new_figure,
    plain_numbers,
    png,
)
from sde_score.training import load_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = results.FOLDER / "discrete_vs_continuous.csv"
PICTURES = Path(__file__).parents[1] / "docs" / "discrete"
FRECHET = "frechet"
COLORS = ("#c2410c", "#0072b2", "#00805c")
SHOWN = ("annealed-langevin, 232 x 1", "pc, 240", "heun, 30")


def rows_of(data: str, folder: Path) -> list[Row]:
    """Tidy rows of a folder: data, SDE, kind of figure, what was asked, training, value, error."""
    kept = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    sde = type(load_run(folder / "trainings" / f"{CONTINUOUS}-seed0").model.sde).__name__
    rows = []

    def add(row: Row, figure: str, of: str, training: str, name: str) -> None:
        about = {"data": data, "sde": sde, "figure": figure, "of": of, "training": training}
        value = {"value": row[name], "value ±": row[f"{name} ±"]}
        rows.append({**about, **value, "nfe": row.get("nfe"), "seed": row["seed"]})

    for row in _table(kept, "loss"):
        for name in ("discrete", CONTINUOUS, "difference"):  # each at the times of the ladder
            add(row, "loss", row["place"], f"{name} {row['ladder']}", name)
    for row in _table(kept, "bits"):
        add(row, "bits/dim", row["likelihood"], row["training"], "bits/dim")
    for row in _table(kept, "samples"):
        for name in (name for name in row if f"{name} ±" in row):
            add(row, name.partition("[")[0], row["sampler"], row["training"], name)
    return rows


def _table(kept: dict[str, Any], begins: str) -> list[Row]:
    return next(rows for title, rows in kept["tables"].items() if title.startswith(begins))


def gather(folders: Sequence[tuple[str, Path]], commit: str | None) -> None:
    """Write the rows of folders into the file, in the place of those of the same data and SDE."""
    found = [row for data, folder in folders for row in rows_of(data, folder)]
    new = {(row["data"], row["sde"]) for row in found}
    old = results.read(FILE) if FILE.exists() else []
    said = {} if commit is None else {"commit": commit}
    results.write(FILE, [r for r in old if (r["data"], r["sde"]) not in new] + found, **said)


def distances(sde: str) -> bytes:
    """A panel for each data: Fréchet distance of every training under every sampler."""
    rows = [r for r in results.read(FILE) if r["sde"] == sde and r["figure"] == FRECHET]
    figures = list(dict.fromkeys(row["data"] for row in rows))
    figure = new_figure(3.6 * len(figures) + 0.4, 3.9)
    for axes, data in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
        _panel(axes, over_seeds([_plain(row) for row in rows if row["data"] == data]))
        axes.set_title(data, fontsize=HEAD, loc="left")
    figure.axes[0].set_ylabel("Fréchet distance", fontsize=TEXT)
    figure.axes[0].legend(fontsize=SMALL, frameon=False)
    return png(figure)


def _plain(row: Row) -> Row:
    """What a panel needs of a row; without a training are the real examples."""
    kept = {name: row[name] for name in ("of", "value", "value ±")}
    return {**kept, "training": row["training"] or "", "seed": int(row["seed"])}


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    floor = next(row["value"] for row in rows if not row["training"])
    axes.axhline(floor, color=FAINT, linewidth=1, label="real examples")
    ways = list(dict.fromkeys(row["of"] for row in rows if row["training"]))
    kinds = list(dict.fromkeys(row["training"] for row in rows if row["training"]))
    colors = (*COLORS[: len(kinds) - 1], COLORS[-1])  # the last is that of all noise
    for index, (kind, color) in enumerate(zip(kinds, colors, strict=True)):
        found = {row["of"]: row for row in rows if row["training"] == kind}
        at = [k + 0.22 * (index - (len(kinds) - 1) / 2) for k in range(len(ways))]
        values = [found[way]["value"] for way in ways]
        errors = [found[way]["value ±"] for way in ways]
        name = "all noise" if kind == CONTINUOUS else f"{kind.split()[1]} levels"
        axes.errorbar(at, values, errors, fmt="o", color=color, markersize=3.5, linewidth=1,
                      label=f"trained at {name}")  # fmt: skip
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = (digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
    plain_numbers(axes.yaxis, [tick for tick in ticks if low <= tick <= high])
    axes.set_xticks(range(len(ways)), ways, rotation=60, ha="right", fontsize=SMALL)
    axes.tick_params(axis="y", which="both", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def samples(data: str, folder: Path) -> bytes:
    """Samples of each VE training by each of three samplers, from the same seeds."""
    import ncsn_vs_sde

    found = (folder / "trainings").glob("*-seed0")
    runs = {path.name.removesuffix("-seed0"): load_run(path) for path in found}
    names = sorted(runs, key=lambda name: (name == CONTINUOUS, len(name)))
    run = next(iter(runs.values()))
    raw = run.dataset("train").raw(torch.arange(1000))
    widest = ncsn_vs_sde.largest_std(run.scaling.dequantize(raw))
    how = ncsn_vs_sde.samplers_at([30, 240], run.model.sde, [232], widest)
    figure = new_figure(9.6, 0.85 * len(names) + 0.4)
    panels = figure.subplots(len(names), len(SHOWN), squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for axes, way in zip(line, SHOWN, strict=True):
            model = runs[name].model
            x = samplers.run(model, how[way], run.event_shape, 16, progress=False).samples
            draw_examples(axes, x, Look.of(run), 8)
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        trained = "all noise" if name == CONTINUOUS else f"{name.split('-')[1]} levels"
        line[0].set_ylabel(f"trained at\n{trained}", fontsize=SMALL)
    for axes, way in zip(panels[0], SHOWN, strict=True):
        axes.set_title(way, fontsize=TEXT, loc="left")
    return png(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Gather what is given, then draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--commit", help="at which they were measured [the one checked out]")
    options = parser.parse_args(argv)
    given = (each.partition("=") for each in options.folders)
    folders = [(name, Path(folder)) for name, _, folder in given]
    PICTURES.mkdir(exist_ok=True)
    if folders:
        gather(folders, options.commit)
    for sde in {row["sde"] for row in results.read(FILE)}:
        (PICTURES / f"{sde.lower()}.png").write_bytes(distances(sde))
    for data, folder in folders:
        if (folder / "trainings" / "discrete-232-seed0").exists():
            name = f"samples_{data.split()[0].split('-')[0].lower()}.png"
            (PICTURES / name).write_bytes(samples(data, folder))


if __name__ == "__main__":
    main()
