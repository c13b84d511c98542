"""A comparison is the same in every file, and has its picture and its place on the page."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.text import Text
from PIL import Image

from sde_score import evaluation
from sde_score.evaluation import VIEWS, Bits, Comparison, Interval, ViewRow, view_of
from sde_score.report import (
    Section,
    comparison_csv,
    comparison_figure,
    comparison_table,
    put_views_on_page,
    render,
    write_comparison,
    write_report,
)
from sde_score.report.page import insert
from sde_score.report.tables import figure_text
from sde_score.report.views.picture import _label_starts, headline, spread
from sde_score.report.views.table import comparison_section
from sde_score.training import TrainConfig, load_run, train

TINY = TrainConfig(
    data="digits",
    backbone="mlp(width=32, depth=1)",
    steps=20,
    batch_size=16,
    log_every=5,
    dequantize=True,
)
SMALL = {"count": 16, "bits_examples": 3, "extractor": "pixels"}
VIEWED = ("reverse-sde", "ancestral", "ddim", "heun")


def compare(run, views=VIEWED, **changed):
    """Measured and written, as the command does."""
    settings = {**SMALL, "nfes": (3, 5), **changed}
    found = evaluation.compare(run, views=views, progress=False, **settings)
    write_comparison(run, found)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(TINY, path, progress=False)
    return load_run(path)


@pytest.fixture(scope="module")
def found(run):
    return compare(run)


@pytest.fixture(scope="module")
def figure(run, found):
    return comparison_figure(run, found)


def test_files_hold_what_was_measured(run, found):
    stored = json.loads((run.path / "comparison.json").read_text())
    assert Comparison.from_record(stored) == found
    with (run.path / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["view"] for line in lines] == [row.view for row in found.rows]
    for line, row in zip(lines, found.rows, strict=True):
        assert (line["sampler"], int(line["nfe"])) == (row.sampler, row.nfe)
        for name, distance, floor in zip(found.names, row.distances, found.floors, strict=True):
            assert float(line[name]) == distance.value
            assert float(line[f"{name} standard error"]) == distance.standard_error
            assert float(line[f"{name} floor high"]) == floor.high
        assert float(line["bits/dim"]) == found.bits_of(row).value.value
    with Image.open(run.path / "comparison.png") as picture:
        assert picture.size == (1800, 1500)


def test_page_shows_the_comparison_once(run, found):
    page = put_views_on_page(run)
    assert page == run.path / "report.html"
    put_views_on_page(run)
    text = page.read_text()
    assert text.count("<h2>One network, all views") == 1
    assert text.count("<section id=") == text.count("</section>") == 5
    assert figure_text(found.rows[0].distances[0]) in text
    write_report(run)  # as evaluate --report does: the comparison stays
    assert page.read_text().count("<h2>One network, all views") == 1


@pytest.mark.parametrize(
    "content",
    ["{}", '{"settings": {}, "comparison": {}}', "[]", "{", "[" * 100_000, "null", "\x00"],
)
def test_page_says_so_where_the_file_is_damaged_or_of_another_version(content, tmp_path):
    (tmp_path / "comparison.png").write_bytes(b"x")
    (tmp_path / "comparison.json").write_text(content)
    section = comparison_section(tmp_path)
    assert "comparison.json is damaged or of another version" in section.text
    assert section.picture is None


def test_page_without_a_comparison_has_no_section(tmp_path):
    assert comparison_section(tmp_path) is None


def test_section_takes_the_place_of_its_elder():
    page = render("t", "l", [Section("a", "old"), Section("b", "kept")])
    assert insert(page, Section("a", "new")) == render(
        "t", "l", [Section("a", "new"), Section("b", "kept")]
    )
    assert insert(page, Section("c", "x")) == render(
        "t", "l", [Section("a", "old"), Section("b", "kept"), Section("c", "x")]
    )


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.12341, 0.005, "0.1234 ± 0.0098"),
        (473.2, 9.7, "473 ± 19"),
        (1.8579, 0.0381, "1.858 ± 0.075"),
        (5.0, 0.0, "5.000 ± 0.000"),
        (2345.0, 200.0, "2345 ± 392"),
    ],
)
def test_figures_show_the_digits_that_are_known(value, error, text):
    assert figure_text(Interval(value, error)) == text


def made(distances, bits=None):
    """A comparison of one distance from {view: [(nfe, value), ...]}."""
    rows = tuple(
        ViewRow(view, f"{view} {nfe}", nfe, 1.0, (Interval(value, 0.05),), "flow" if bits else None)
        for view, points in distances.items()
        for nfe, value in points
    )
    return Comparison(("d",), 16, 8, 100, (Interval(1.0, 0.1),), rows, bits or {})


def test_headline_names_the_first_and_the_last_at_the_floor():
    two = made({"pc": [(5, 9), (10, 1.1), (20, 1.0)], "heun": [(5, 1.1), (9, 1.0)]})
    assert headline(two).endswith(
        "Heun reaches the noise floor with 5 evaluations,\npredictor-corrector with 10"
    )
    tied = made({"pc": [(10, 1.0)], "ddim": [(10, 1.0)], "heun": [(5, 1.0)]})
    assert headline(tied).endswith("DDIM and predictor-corrector with 10")
    # what rises again has not arrived
    again = made({"pc": [(5, 1.0), (10, 3), (20, 1.0)], "heun": [(5, 8), (9, 7)]})
    assert headline(again).endswith(
        "predictor-corrector reaches the noise floor with 20 evaluations,\nHeun not with 20"
    )
    assert "none reaches" in headline(made({"heun": [(5, 8)]}))


def test_table_shows_intervals_the_floor_and_bits():
    bits = {"flow": Bits(Interval(1.858, 0.038), 64, 1.0)}
    shown = comparison_table(made({"heun": [(5, 0.9)]}, bits=bits))
    assert list(shown.header) == ["view", "sampler", "NFE", "seconds", "d", "bits/dim"]
    assert shown.rows[0][2:] == ["5", "1.0", "0.900 ± 0.098", "1.858 ± 0.074"]
    assert shown.rows[1][-2:] == ["1.00 ± 0.20", ""]
    assert "16 samples" in shown.caption


def test_table_and_csv_leave_empty_what_was_not_weighed():
    without = made({"heun": [(5, 0.9)]})
    assert comparison_table(without).rows[0][-1] == ""
    assert next(csv.DictReader(comparison_csv(without).splitlines()))["bits/dim"] == ""


def test_names_of_lines_that_start_together_stay_below_the_title():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set(xscale="log", yscale="log", ylim=(5.0, 500.0))
    starts = [(view, 5, 460.0 - 2 * index) for index, view in enumerate(VIEWS)]
    _label_starts(axes, starts, 3.0)
    heights = [text.get_position()[1] for text in axes.texts]
    assert len(heights) == len(VIEWS)
    assert max(heights) <= axes.get_ylim()[1]
    assert axes.get_ylim()[1] < 2000


def test_spread_moves_labels_apart_and_no_further():
    assert spread([0.9, 0.5, 0.1], 0.1) == pytest.approx([0.9, 0.5, 0.1])
    assert spread([0.5, 0.5], 0.1) == pytest.approx([0.55, 0.45])
    moved = spread([0.62, 0.6, 0.58, 0.2], 0.1)
    assert moved == pytest.approx([0.7, 0.6, 0.5, 0.2])
    chain = spread([0.5, 0.5, 0.35], 0.1)  # a pushed label pushes the next
    assert [a - b for a, b in pairwise(chain)] == pytest.approx([0.1, 0.1])
    assert sum(chain) == pytest.approx(1.35)
    # two that touch come to touch a third
    assert spread([0.59, 0.45, 0.45], 0.1) == pytest.approx([0.59667, 0.49667, 0.39667], abs=1e-5)


def test_picture_shows_every_row_and_the_floor(run):
    found = compare(run, views=(*VIEWED, "ode", "dpmpp-2m", "ddim(steps=4)"))
    figure = comparison_figure(run, found)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("Distance")]
    assert [axes.get_title(loc="left").rpartition(" ")[2] for axes in panels] == list(found.names)
    for index, axes in enumerate(panels):
        drawn = {(x, y) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
        assert drawn >= {(row.nfe, row.distances[index].value) for row in found.rows}
        texts = [text.get_text() for text in axes.texts]
        assert {view_of(row.view).label for row in found.rows} <= set(texts)
        low, high = axes.get_ylim()
        assert all(low < row.distances[index].value < high for row in found.rows)


def test_labels_do_not_overlap(figure):
    figure.canvas.draw()
    for axes in figure.axes[:2]:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without leader lines
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        names = [text.get_text() for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in pairs), names


def test_points_and_missing_bits_have_their_picture(tmp_path):
    config = replace(TINY, data="moons", steps=5, dequantize=False)
    train(config, tmp_path / "r", progress=False)
    run = load_run(tmp_path / "r")
    found = compare(run, views=("ddim", "heun"), bits_examples=0, extractor="auto")
    assert found.bits == {}
    assert (tmp_path / "r" / "comparison.png").exists()
