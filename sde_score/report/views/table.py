"""A comparison of views as files, a table, and the section of a run's page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from sde_score._core.files import replace_file
from sde_score.evaluation import (
    VIEWS,
    Columns,
    Comparison,
    RunBits,
    RunLikelihood,
    family_of,
)
from sde_score.likelihood import BitsPerDim
from sde_score.report.evaluation_table import samples_caption
from sde_score.report.page import Section
from sde_score.report.pictures import png
from sde_score.report.scores import write_scores
from sde_score.report.tables import (
    Table,
    csv_text,
    estimate_columns,
    figure_text,
    kinds_of_rows,
)
from sde_score.report.views.picture import DPI, comparison_figure
from sde_score.training import Run

NAME = "comparison"
"""Stem of the files in the run directory: .json, .csv and .png."""
_TITLE = "One network, all views"


def write_comparison(run: Run, comparison: Comparison, folder: Path | None = None) -> None:
    """Write `comparison.json`, `.csv` and `.png` into a folder, each in one step.

    Where likelihoods were measured, `comparison-scores.csv` has a line for each example.

    Args:
        run: of the comparison.
        comparison: from `sde_score.evaluation.compare`.
        folder: made if it is not there; the run directory if not given.
    """
    folder = run.path if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}.json"
    replace_file(path, json.dumps(comparison.record(), indent=1).encode())
    replace_file(path.with_suffix(".csv"), comparison_csv(comparison).encode())
    replace_file(path.with_suffix(".png"), png(comparison_figure(run, comparison), DPI))
    columns = comparison_scores(run, comparison)
    if columns:
        write_scores(columns, folder / f"{NAME}-scores.csv")


def comparison_scores(run: Run, comparison: Comparison) -> Columns:
    """A row for each example whose likelihoods were measured; empty if none were."""
    values = {
        name: BitsPerDim(
            torch.tensor(bits.values, dtype=torch.float64),
            0,
            value_errors=torch.tensor(bits.errors).double() if bits.errors else None,
        )
        for name, bits in comparison.bits.items()
        if bits.values
    }
    if not values:
        return {}
    measured = RunLikelihood(run, num=max(len(each.values) for each in values.values()))
    examples, size = measured.examples, math.prod(run.event_shape)
    found = RunBits("held_out", examples, values, dimensions=size, columns=measured.scores)
    return found.scores


def comparison_csv(comparison: Comparison) -> str:
    """A line for each row; every figure with its standard error, distances with their floors."""
    lines = []
    for row in comparison.rows:
        line: dict[str, Any] = {
            "view": row.view,
            "family": _labels(row.view)[0],
            "sampler": row.sampler,
            "nfe": row.nfe,
            "seconds": f"{row.seconds:.3f}",
        }
        measured = zip(comparison.names, row.distances, comparison.floors, strict=True)
        for name, found, floor in measured:
            line |= estimate_columns(name, found, floor)
        bits = comparison.bits_of(row)
        line["likelihood"] = row.likelihood or ""
        line["bits/dim"] = "" if bits is None else bits.value.value
        line["bits/dim standard error"] = "" if bits is None else bits.value.standard_error
        lines.append(line)
    return csv_text(lines)


def comparison_table(comparison: Comparison) -> Table:
    """A row for each view and budget, every figure with its 95% interval, the noise floor last."""
    rows = []
    for row in comparison.rows:
        bits = comparison.bits_of(row)
        rows.append([
            *_labels(row.view), str(row.nfe), f"{row.seconds:.1f}",
            *map(figure_text, row.distances), "" if bits is None else figure_text(bits.value),
        ])  # fmt: skip
    rows.append(["noise floor", "real data", "", "", *map(figure_text, comparison.floors), ""])
    header = ["view", "sampler", "NFE", "seconds", *comparison.names, "bits/dim"]
    kinds = kinds_of_rows([row.distances for row in comparison.rows], comparison.floors)
    return Table(header, rows, samples_caption(comparison), kinds)


def _labels(view: str) -> tuple[str, str]:
    """Family and label."""
    return family_of(view), VIEWS[view].label if view in VIEWS else view


def comparison_section(path: Path) -> Section | None:
    """The section of a run's page, from the files in its directory; None without them."""
    data, picture = path / f"{NAME}.json", path / f"{NAME}.png"
    if not (data.exists() and picture.exists()):
        return None
    try:
        comparison = Comparison.from_record(json.loads(data.read_text(encoding="utf-8")))
        table = comparison_table(comparison)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = f"{data.name} is damaged or of another version: run sde-score compare again."
        return Section(_TITLE, text)
    return Section(
        _TITLE,
        "The same weights read as a ladder of noise scales, as a reverse-time SDE, as a "
        "hierarchical VAE and as a probability-flow ODE: distance to held-out data against the "
        "evaluations of the network that a sample costs, and bits per dimension where the view "
        "has a likelihood.",
        table,
        picture.read_bytes(),
        "Distance of each view's samples to held-out data against network evaluations, with the "
        "noise floor of real data, samples of each view, and bits per dimension.",
    )
