"""Several runs on one page: what differs, their training, samples and measurements."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from sde_score._core.files import replace_file
from sde_score.evaluation import Evaluation
from sde_score.report.curves import training_curves
from sde_score.report.look import Look
from sde_score.report.page import Section, render
from sde_score.report.pictures import labeled_panels, png
from sde_score.report.repeat import train_command, trained_with, versions
from sde_score.report.run_report import EVALUATION, LIKELIHOOD
from sde_score.report.samples_section import drawn_anew
from sde_score.report.table_picture import columns_section
from sde_score.report.tables import Table, figure_text, kinds_of_rows
from sde_score.training import Run

_ELSEWHERE = ("device", "compile", "checkpoint_every", "keep", "sample_every", "log_every")
"""Fields that change nothing that is learned."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a damaged record raises."""


def write_side_by_side(runs: Sequence[Run], path: Path) -> Path:
    """Write one page about several runs.

    Args:
        runs: open runs, at least two.
        path: of the page.

    Returns:
        path of the page.
    """
    names = _names(runs)
    sections = [_choices(runs, names), _training(runs, names), *_samples(runs, names)]
    sections += [*_measured(runs, names), *_likelihoods(runs, names)]
    repeat = "\n".join(
        f"{train_command(run.config, run.path)}\n# trained with {trained_with(run)}" for run in runs
    )
    sections.append(Section("Repeat", f"The page was written with {versions()}.", code=repeat))
    page = render("sde_score: " + ", ".join(names), f"{len(runs)} runs side by side.", sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    return path


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of the run directories, whole paths where two have one name."""
    short = [run.path.name for run in runs]
    return [str(run.path) if short.count(run.path.name) > 1 else run.path.name for run in runs]


def _choices(runs: Sequence[Run], names: Sequence[str]) -> Section:
    """The fields of the configurations that are not the same in all."""
    fields = [
        field.name
        for field in dataclasses.fields(runs[0].config)
        if field.name not in _ELSEWHERE
        and len({str(getattr(run.config, field.name)) for run in runs}) > 1
    ]
    rows = [[field, *(str(getattr(run.config, field)) for run in runs)] for field in fields]
    sizes = [sum(weight.numel() for weight in run.model.parameters()) for run in runs]
    rows.append(["weights of the network", *map(str, sizes)])
    rows.append(["steps so far", *(str(run.step) for run in runs)])
    text = "Choices that are not the same in all runs."
    return Section("What differs", text, Table(["choice", *names], rows))


def _training(runs: Sequence[Run], names: Sequence[str]) -> Section:
    records = {name: run.metrics for name, run in zip(names, runs, strict=True)}
    found = {name: each for name, each in records.items() if each}
    rows = [
        [name, str(each[-1]["step"]), f"{each[-1]['loss']:.4g}", f"{each[-1]['seconds']:.0f}",
         f"{each[-1]['examples_per_second']:.0f}"]
        for name, each in found.items()
    ]  # fmt: skip
    same = len({(run.config.objective, run.config.sde, run.config.data) for run in runs}) == 1
    warning = "" if same else "Losses of other objectives, diffusions or data cannot be compared."
    header = ["run", "step", "loss", "seconds", "examples a second"]
    picture = png(training_curves(found)) if found else None
    alt = "The training losses of all runs against the step."
    return Section("Training", warning, Table(header, rows), picture, alt)


def _samples(runs: Sequence[Run], names: Sequence[str]) -> list[Section]:
    """Samples of each run by its own sampler; a picture for each shape of the data, and for the
    columns of each table."""
    sections: list[Section] = []
    drawn = [(name, run) for name, run in zip(names, runs, strict=True) if run.all_noise_levels]
    drawn.sort(key=lambda pair: pair[1].event_shape)
    for shape, some in groupby(drawn, lambda pair: pair[1].event_shape):
        panels, columns, group = [], [], list(some)
        for name, run in group:
            x = drawn_anew(run, run.sampler).x
            panels.append((f"{name}\n{run.sampler}", x))
            if (section := columns_section(run, x, run.sampler)) is not None:
                columns.append(replace(section, title=f"Columns of {name}"))
        shown = "x".join(map(str, shape))
        sections.append(Section(
            "Samples" if len(group) == len(drawn) else f"Samples of shape {shown}",
            "The same seeds in every panel, each run by the sampler that suits it.",
            picture=png(labeled_panels(panels, Look.of(group[0][1]), 4, 2.4, 4)),
            alt="Samples of " + ", ".join(name for name, _ in group) + ".",
        ))  # fmt: skip
        sections += columns
    return sections


def _measured(runs: Sequence[Run], names: Sequence[str]) -> list[Section]:
    """What `evaluate --report` measured: a table for runs with the same distances, each beside the
    floor of its own data."""
    found: dict[tuple[str, ...], list[tuple[str, Evaluation]]] = {}
    for name, run in zip(names, runs, strict=True):
        evaluation = _evaluation(run.path / EVALUATION)
        if evaluation is not None:
            found.setdefault(evaluation.names, []).append((name, evaluation))
    sections = []
    for distances, group in found.items():
        rows: list[list[str]] = []
        kinds: dict[int, Literal["beyond", "floor"]] = {}
        for name, evaluation in group:
            own = kinds_of_rows([row.distances for row in evaluation.rows], evaluation.floors)
            kinds |= {len(rows) + index: kind for index, kind in own.items()}
            for row in evaluation.rows:
                label = " ".join(filter(None, [row.sampler, row.guidance]))
                rows.append([name, label, str(row.nfe), *map(figure_text, row.distances)])
            floor = [*map(figure_text, evaluation.floors)]
            rows.append([name, "noise floor: real data", "", *floor])
        caption = "; ".join(
            f"{name}: {each.count} samples against {each.held_out} held-out examples"
            for name, each in group
        )
        table = Table(["run", "sampler", "NFE", *distances], rows, f"{caption}.", kinds)
        title = "Measured" if len(found) == 1 else "Measured by " + ", ".join(distances)
        text = "Distances to held-out data that sde-score evaluate --report wrote, ± 95%."
        sections.append(Section(title, text, table))
    return sections


def _likelihoods(runs: Sequence[Run], names: Sequence[str]) -> list[Section]:
    """What `likelihood --report` measured, a row for each likelihood of each run."""
    rows = [
        [name, *row]
        for name, run in zip(names, runs, strict=True)
        for row in _bits(run.path / LIKELIHOOD)
    ]
    if not rows:
        return []
    text = (
        "What sde-score likelihood --report wrote, ± one standard error. Compare runs on the same "
        "data, by the same likelihood: lower is better."
    )
    header = ["run", "by", "data", "examples", "bits/dim", "NFE"]
    return [Section("Likelihood", text, Table(header, rows))]


def _bits(path: Path) -> list[list[str]]:
    """The rows of a record of likelihoods; none where there is no record that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        about = [str(found.get("data") or found["part"]), str(int(found["examples"]))]
        return [
            [str(row["by"]), *about,
             f"{float(row['bits_per_dim']):.4f} ± {float(row['standard_error']):.4f}",
             str(row["nfe"])]
            for row in found["rows"]
        ]  # fmt: skip
    except _UNREADABLE:
        return []


def _evaluation(path: Path) -> Evaluation | None:
    """The record of an evaluation; None where there is none that can be read."""
    try:
        return Evaluation.from_record(json.loads(path.read_text(encoding="utf-8")))
    except _UNREADABLE:
        return None
