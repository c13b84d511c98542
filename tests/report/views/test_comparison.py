"""The comparison of a run: kept as it grows, the same in every file, and a picture of it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from sde_score.evaluation import VIEWS, Bits, Comparison, Interval, ViewRow
from sde_score.report.page import Section, insert, render
from sde_score.report.run_report import put_views_on_page, write_report
from sde_score.report.views.comparison import (
    Settings,
    compare_run,
    comparison_csv,
    comparison_section,
    comparison_table,
    figure_text,
)
from sde_score.report.views.picture import comparison_figure, headline, spread
from sde_score.training import TrainConfig, load_run, train

TINY = TrainConfig(
    data="digits",
    backbone="mlp(width=32, depth=1)",
    steps=20,
    batch_size=16,
    log_every=5,
    dequantize=True,
)
SMALL = Settings(count=16, bits_examples=3, extractor="pixels")
VIEWED = ("reverse-sde", "ancestral", "ddim", "heun")


def compare(run, settings=SMALL, views=VIEWED, nfes=(3, 5)):
    return compare_run(run, settings, views=views, nfes=nfes, progress=False)


@pytest.fixture
def unpictured(monkeypatch):
    """Draws no picture, the slow part of a small comparison."""
    monkeypatch.setattr("sde_score.report.views.comparison.comparison_figure", lambda *_: None)
    monkeypatch.setattr("sde_score.report.views.comparison.png", lambda *_: b"")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    train(TINY, path, progress=False)
    return load_run(path)


@pytest.fixture(scope="module")
def found(run):
    return compare(run)


def test_files_hold_what_was_measured(run, found):
    stored = json.loads((run.path / "comparison.json").read_text())
    assert Comparison.from_record(stored["comparison"]) == found
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


def test_rows_and_bits_are_those_of_the_run(run, found):
    assert found.names == ("sliced-wasserstein2", "frechet[pixels]")
    assert found.count == 16
    assert found.held_out == len(run.dataset("held_out"))
    assert {row.nfe for row in found.rows} == {3, 5}
    assert {bits.examples for bits in found.bits.values()} == {3}
    # trained on levels spread over their bins, and asked about such
    assert all("dequantization='uniform'" in likelihood for likelihood in found.bits)


def test_samples_are_measured_in_the_terms_of_the_data(run, found):
    """Rounded to the levels that a user would save, as the data are."""
    from sde_score import samplers
    from sde_score.report.views.comparison import _ruler

    ruler = _ruler(run, run.dataset("held_out"), SMALL, False)
    row = found.rows[0]
    drawn = samplers.sample(
        samplers.create(row.sampler), run.model, run.event_shape, 16, progress=False
    )
    levels = run.scaling.from_model(drawn.float())
    assert levels.dtype == torch.uint8
    assert ruler(run.scaling.to_model(levels)) == row.distances


@pytest.mark.usefixtures("unpictured")
def test_only_what_is_missing_is_measured(run, found):
    before = run.model.nfe
    assert compare(run) == found
    assert run.model.nfe == before
    more = compare(run, nfes=(3, 4, 5), views=("ddim",))
    new = likelihoods = 4  # one row of 4 evaluations, and the ELBO of as many layers
    assert run.model.nfe - before == new + likelihoods
    assert len(more.rows) == len(found.rows) + 1
    assert [row for row in more.rows if row.nfe != 4] == list(found.rows)


@pytest.mark.parametrize(
    "changed",
    [{"count": 18}, {"seed": 1}, {"bits_examples": 2}, {"extractor": "random-convolution"}],
)
@pytest.mark.usefixtures("unpictured")
def test_other_settings_start_anew(run, changed):
    first = compare(run, views=("ddim",), nfes=(3,))
    other = compare(run, replace(SMALL, **changed), views=("ddim",), nfes=(2,))
    assert [row.nfe for row in other.rows] == [2]
    assert first.rows[0] not in other.rows


@pytest.mark.usefixtures("unpictured")
def test_other_weights_start_anew(run):
    compare(run, views=("ddim",), nfes=(3,))
    raw = load_run(run.path, "raw")
    assert [row.nfe for row in compare(raw, views=("ddim",), nfes=(2,)).rows] == [2]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"settings": 1', "\x00", "null"])
@pytest.mark.usefixtures("unpictured")
def test_a_file_that_is_no_comparison_is_replaced(run, content):
    (run.path / "comparison.json").write_text(content)
    assert len(compare(run, views=("ddim",), nfes=(3,)).rows) == 1


def test_a_kill_keeps_the_rows_that_were_done(run, monkeypatch):
    (run.path / "comparison.json").unlink(missing_ok=True)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sde_score.report.views.comparison.bits_per_dim", stop)
    with pytest.raises(KeyboardInterrupt):
        compare(run)
    stored = json.loads((run.path / "comparison.json").read_text())["comparison"]
    assert len(stored["rows"]) == 8
    assert stored["bits"] == {}


def test_page_shows_the_comparison_once(run):
    found = compare(run)
    page = put_views_on_page(run)
    assert page == run.path / "report.html"
    put_views_on_page(run)
    text = page.read_text()
    assert text.count("One network, all views") == 1
    assert text.count("<section>") == text.count("</section>") == 3
    assert figure_text(found.rows[0].distances[0]) in text
    write_report(run)  # as evaluate --report does: the comparison stays
    assert page.read_text().count("One network, all views") == 1


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
    found = compare(run, views=(*VIEWED, "ode"))
    figure = comparison_figure(run, found)
    panels = [axes for axes in figure.axes if axes.get_title(loc="left").startswith("Distance")]
    assert [axes.get_title(loc="left").rpartition(" ")[2] for axes in panels] == list(found.names)
    for index, axes in enumerate(panels):
        drawn = {(x, y) for line in axes.lines for x, y in zip(*line.get_data(), strict=True)}
        assert drawn >= {(row.nfe, row.distances[index].value) for row in found.rows}
        texts = [text.get_text() for text in axes.texts]
        assert {VIEWS[row.view].label for row in found.rows} <= set(texts)
        low, high = axes.get_ylim()
        assert all(low < row.distances[index].value < high for row in found.rows)


def test_labels_do_not_overlap(run):
    figure = comparison_figure(run, compare(run))
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
    found = compare(run, replace(SMALL, bits_examples=0, extractor="auto"), views=("ddim", "heun"))
    assert found.bits == {}
    assert (tmp_path / "r" / "comparison.png").exists()


@pytest.mark.usefixtures("unpictured")
def test_conditional_runs_are_sampled_with_the_labels_of_the_data(tmp_path):
    train(replace(TINY, conditional=True, steps=5), tmp_path / "r", progress=False)
    run, seen = load_run(tmp_path / "r"), []
    for name in ("denoise", "velocity"):  # what Heun asks for, and what the flow's density does
        ask = getattr(run.model, name)
        setattr(run.model, name, _listening(ask, seen))
    found = compare(run, views=("heun",), nfes=(3,))
    assert len(found.bits) == 1
    assert all(condition is not None for condition in seen)
    assert len(set(seen[0].tolist())) > 3
    held_out = run.dataset("held_out")
    assert seen[-1].tolist() == held_out.labels[held_out.rows[:3]].tolist()


def _listening(ask, seen):
    def answer(x, t, condition=None):
        seen.append(condition)
        return ask(x, t, condition)

    return answer


def test_runs_without_noise_or_held_out_data_are_refused(tmp_path):
    train(replace(TINY, objective="hutchinson", steps=2), tmp_path / "score", progress=False)
    with pytest.raises(ValueError, match="data without noise"):
        compare(load_run(tmp_path / "score"))
    train(replace(TINY, held_out=0.0, steps=2), tmp_path / "all", progress=False)
    with pytest.raises(ValueError, match="held_out=0"):
        compare(load_run(tmp_path / "all"))


@pytest.mark.parametrize("changed", [{"count": 3}, {"bits_examples": 1}, {"bits_examples": -1}])
def test_settings_out_of_range_are_refused(changed):
    with pytest.raises(ValueError, match=next(iter(changed))):
        replace(SMALL, **changed)
