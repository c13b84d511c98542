"""The picture and the table of a sweep over guidance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sde_score.evaluation import Evaluation, Interval
from sde_score.evaluation.samples import SamplesRow
from sde_score.report import evaluation_table, guidance_figure
from sde_score.report.pictures import png
from sde_score.scaling import Scaling

TEXTS = ("cfg(1)", "cfg(2)", "cfg(4)")


def swept(judged=True, samplers=("ddim", "heun")):
    rows = tuple(
        SamplesRow(
            sampler, 20, 1.5, (Interval(0.1 * (i + 1) + j, 0.01), Interval(9.0, 0.1)),
            torch.randn(6, 1, 4, 4), text, Interval(0.9 - 0.1 * i, 0.02) if judged else None,
        )
        for i, text in enumerate(TEXTS) for j, sampler in enumerate(samplers)
    )  # fmt: skip
    real = Interval(0.97, 0.01) if judged else None
    floors = (Interval(0.05, 0.01), Interval(0.5, 0.1))
    return Evaluation(("energy", "frechet"), floors, 100, 50, 300, rows, real)


@pytest.fixture
def run():
    return SimpleNamespace(
        path=Path("runs/classes"), event_shape=(1, 4, 4), record=None, scaling=Scaling()
    )


def _curves(axes):
    return [line for line in axes.get_lines() if line.get_marker() == "o"]


def test_lines_are_the_values_and_panels_the_samples(run):
    figure = guidance_figure(run, swept())
    distance, accuracy = figure.axes[:2]
    for index, line in enumerate(_curves(distance)):
        assert line.get_ydata().tolist() == pytest.approx([0.1 + index, 0.2 + index, 0.3 + index])
    assert accuracy.get_lines()[0].get_ydata()[0] == 0.97
    assert _curves(accuracy)[1].get_ydata().tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert [text.get_text() for text in distance.get_xticklabels()] == list(TEXTS)
    assert [axes.get_title() for axes in figure.axes[2:]] == [f"{t}, 20 NFE" for t in TEXTS]
    assert accuracy.get_ylim()[1] <= 1.01  # no share is above 1
    title = figure.subfigs[0].get_suptitle()
    assert title == "classes: nearest to real data under cfg(1)"
    assert png(figure)[:4] == b"\x89PNG"


def test_guidance_that_cannot_be_told_from_the_nearest_is_named_with_it(run):
    """0.1 and 0.2 overlap with 95% intervals of 0.06; 0.3 with one of 0.1 does not."""
    found = swept(False, ("ddim",))
    errors = (0.03, 0.03, 0.05)
    rows = tuple(
        replace(row, distances=(Interval(row.distances[0].value, error),))
        for row, error in zip(found.rows, errors, strict=True)
    )
    figure = guidance_figure(run, replace(found, rows=rows))
    assert figure.subfigs[0].get_suptitle().endswith("under cfg(1), cfg(2)")


def test_without_classes_there_is_the_distance_alone(run):
    figure = guidance_figure(run, swept(False, ("ddim",)))
    assert len(figure.axes) == 1 + 3


def test_the_table_names_guidance_and_shares():
    table = evaluation_table(swept())
    assert table.header == [
        "sampler", "guidance", "NFE", "seconds", "energy", "frechet", "in class"
    ]  # fmt: skip
    assert table.rows[0][1] == "cfg(1)"
    assert table.rows[0][-1] == "0.900 ± 0.039"
    assert table.rows[-1][0] == "noise floor: real data"
    assert table.rows[-1][-1] == "0.970 ± 0.020"
    assert {len(row) for row in table.rows} == {7}
    plain = evaluation_table(swept(False))
    assert "in class" not in plain.header
    assert {len(row) for row in plain.rows} == {6}
