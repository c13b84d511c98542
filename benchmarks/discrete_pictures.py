"""Data file, tables and pictures of `ncsn_vs_sde.py` and `ddpm_vs_sde.py` for their page.

    python benchmarks/discrete_pictures.py                              # the page, of the file
    python benchmarks/discrete_pictures.py MNIST=runs/ncsn_vs_sde ...   # the file first

A folder is the `--out` of either script, and what stands before it the name of its data. Rows of
the file that are of other data stay. The page is docs/ncsn_against_sde.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
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
PAGE = PICTURES.parent / "ncsn_against_sde.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
COLORS = ("#c2410c", "#0072b2", "#00805c")
PICTURED = "MNIST"
SHOWN = ("annealed-langevin, 10 x 12", "pc, 120", "heun, 30")


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


def merged() -> list[Row]:
    """Rows of the file, means over the seeds; without a training are the real examples."""
    names = ("data", "sde", "figure", "of", "value", "value ±")
    return over_seeds(
        [
            {
                **{name: row[name] for name in names},
                "training": row["training"] or "",
                "seed": int(row["seed"]),
            }
            for row in results.read(FILE)
        ]
    )


def tables() -> str:
    """Tables of the page: what training cost, then the samples, in Markdown."""
    found = {(r["data"], r["sde"], r["figure"], r["of"], r["training"]): r for r in merged()}
    pairs = list(dict.fromkeys(key[:2] for key in found))
    return "\n\n".join([_losses(found, pairs), *(_samples(found, pair) for pair in pairs)])


Found = Mapping[tuple[str, ...], Row]


def _losses(found: Found, pairs: Sequence[tuple[str, ...]]) -> str:
    lines = [
        "| data, SDE | trained at | loss there | between | below | flow | bound | n layers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        for training in _trainings(found, pair):
            levels = training.removeprefix("discrete ")
            cells = []
            for place in ("rungs", "between", "below"):
                gap = found.get((*pair, "loss", place, f"difference {levels}"))
                theirs = found.get((*pair, "loss", place, f"{CONTINUOUS} {levels}"))
                cells.append(_percent(gap, theirs) if gap and theirs else "")
            ways = ["flow", "continuous bound", _own_bound(found, pair)]
            cells += [_cell(found.get((*pair, "bits/dim", way, training)), 2) for way in ways]
            lines.append(f"| {', '.join(pair)} | {_name(training)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _own_bound(found: Found, pair: tuple[str, ...]) -> str:
    """The bound of the most layers that were counted."""
    ways = [key[3] for key in found if key[:2] == pair and key[3].startswith("ELBO")]
    return max(ways, key=lambda way: int(way.split()[1]), default="")


def _samples(found: Found, pair: tuple[str, ...]) -> str:
    names = _trainings(found, pair)
    floor = found[(*pair, "frechet", "(training data)", "")]
    lines = [
        f"| {', '.join(pair)}: sampler | {' | '.join(f'trained at {_name(n)}' for n in names)} |",
        "|---|" + "---|" * len(names),
    ]
    ways = dict.fromkeys(k[3] for k in found if k[:3] == (*pair, "frechet") and k[4])
    for way in ways:
        cells = (_cell(found[(*pair, "frechet", way, name)], 1) for name in names)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"| real examples | {' | '.join([_cell(floor, 1)] * len(names))} |"])


def _trainings(found: Found, pair: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(k[4] for k in found if k[:3] == (*pair, "frechet") and k[4]))


def _name(training: str) -> str:
    return "all noise" if training == CONTINUOUS else f"{training.split()[1]} levels"


def _percent(gap: Row, of: Row) -> str:
    return f"{100 * gap['value'] / of['value']:+.1f} ± {100 * gap['value ±'] / of['value']:.1f} %"


def _cell(row: Row | None, digits: int) -> str:
    return f"{row['value']:.{digits}f} ± {row['value ±']:.{digits}f}" if row else ""


def with_tables(page: str) -> str:
    """The page with its tables written anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n\n{tables()}\n\n{end}{after}"


def distances(sde: str) -> bytes:
    """A panel for each data: Fréchet distance of every training under every sampler."""
    rows = [r for r in merged() if r["sde"] == sde and r["figure"] == "frechet"]
    figures = list(dict.fromkeys(row["data"] for row in rows))
    figure = new_figure(3.6 * len(figures) + 0.4, 3.9)
    for axes, data in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures, strict=True):
        _panel(axes, [row for row in rows if row["data"] == data])
        axes.set_title(data, fontsize=HEAD, loc="left")
    figure.axes[0].set_ylabel("Fréchet distance", fontsize=TEXT)
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", ncols=4, fontsize=SMALL, frameon=False)
    return png(figure)


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
        axes.errorbar(at, values, errors, fmt="o", color=color, markersize=3.5, linewidth=1,
                      label=f"trained at {_name(kind)}")  # fmt: skip
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = (digit * 10.0**power for power in range(-3, 4) for digit in (1, 1.5, 2, 3, 5, 7))
    plain_numbers(axes.yaxis, [tick for tick in ticks if low <= tick <= high])
    axes.set_xticks(range(len(ways)), ways, rotation=60, ha="right", fontsize=SMALL)
    axes.tick_params(axis="y", which="both", labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)


def samples(folder: Path) -> bytes:
    """Samples of each VE training by each of three samplers, from the same seeds."""
    import ncsn_vs_sde

    found = (folder / "trainings").glob("*-seed0")
    runs = {path.name.removesuffix("-seed0"): load_run(path) for path in found}
    names = sorted(runs, key=lambda name: (name == CONTINUOUS, len(name)))
    run = next(iter(runs.values()))
    raw = run.dataset("train").raw(torch.arange(1000))
    widest = ncsn_vs_sde.largest_std(run.scaling.dequantize(raw))
    how = ncsn_vs_sde.samplers_at([30, 120], run.model.sde, [10], widest)
    figure = new_figure(9.6, 1.05 * len(names) + 0.3)
    panels = figure.subplots(len(names), len(SHOWN), squeeze=False)
    for line, name in zip(panels, names, strict=True):
        for axes, way in zip(line, SHOWN, strict=True):
            model = runs[name].model
            x = samplers.run(model, how[way], run.event_shape, 12, progress=False).samples
            draw_examples(axes, x, Look.of(run), 6)
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
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    for sde in {row["sde"] for row in results.read(FILE)}:
        (PICTURES / f"{sde.lower()}.png").write_bytes(distances(sde))
    for data, folder in folders:
        if data == PICTURED and (folder / "trainings" / "discrete-10-seed0").exists():  # of VE
            (PICTURES / "samples.png").write_bytes(samples(folder))


if __name__ == "__main__":
    main()
