"""The page is one file, holds what was measured."""

from __future__ import annotations

import re

import pytest

from sde_score.evaluation import evaluate
from sde_score.report import Section, Table, evaluation_table, render
from sde_score.report.tables import figure_text

SPECS = ("ddim(steps=5)", "heun(steps=4)", "annealed-langevin(steps=3)")


def test_text_is_escaped():
    sections = [Section("<b>", "a & b", Table(["<i>"], [["1 < 2"]]), b"png", 'say "x"')]
    page = render("<em>", "lead", sections)
    assert "<em>" not in page
    assert "<b>" not in page
    assert "1 &lt; 2" in page
    assert 'alt="say &quot;x&quot;"' in page
    assert "data:image/png;base64,cG5n" in page


def test_page_loads_nothing_from_elsewhere(made):
    page = made[0].read_text()
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "url(" not in page
    assert re.findall(r'<img (?!alt="\w[^"]+" src="data:image/png;base64,)', page) == [
        "<img "
    ]  # that of the enlarged picture, which is empty until one is clicked
    assert page.count("<img") == 3 + 4 * 16 + 1  # curve, forward, panels; one by one; enlarged


def test_table_holds_what_was_measured(made):
    path, found, bits = made
    page = path.read_text()
    assert [row.nfe for row in found.rows] == [5, 7, 16]
    for row in found.rows:
        cells = f'<td data-name="sampler">{row.sampler}</td><td data-name="NFE">{row.nfe}</td>'
        assert cells in page
        assert all(f">{figure_text(each)}</td>" in page for each in row.distances)
    assert all(f">{figure_text(floor)}</td>" in page for floor in found.floors)
    assert f"{bits.mean:.4f} ± {bits.standard_error:.4f}" in page


def test_rows_are_reproducible_and_count_their_own_evaluations(made):
    from sde_score.training import load_run

    _, found, _ = made
    run = load_run(made[0].parent)
    again = evaluate(run, SPECS[1:2], count=24, batch_size=10, progress=False)
    assert again.rows[0].samples.allclose(found.rows[1].samples, atol=1e-4)
    assert again.rows[0].nfe == 7
    assert evaluation_table(again).rows[0][0] == SPECS[1]


def test_unknown_sampler_is_refused_before_anything_is_computed(made):
    from sde_score.training import load_run

    run = load_run(made[0].parent)
    with pytest.raises(ValueError, match="unknown sampler 'hain'"):
        evaluate(run, ["ddim(steps=3)", "hain"])
    with pytest.raises(ValueError, match="unknown distance 'fid'"):
        evaluate(run, ["ddim(steps=3)"], distances=["fid"])
    with pytest.raises(ValueError, match="samplers is empty"):
        evaluate(run, [])
    assert run.model.nfe == 0


def test_a_sampler_that_diverges_is_named(made):
    from sde_score.training import load_run

    run = load_run(made[0].parent)
    run.model.denoise = lambda x, t, condition=None: x * float("nan")
    with pytest.raises(ValueError, match=r"ddim\(steps=3\) diverged: 8 of 8 samples"):
        evaluate(run, ["ddim(steps=3)"], count=8, progress=False)


def test_objects_are_evaluated_as_their_names_are(made):
    from sde_score import samplers
    from sde_score.training import load_run

    run = load_run(made[0].parent)
    mine = samplers.DDIM(steps=3)
    by_object = evaluate(run, [mine], count=8, distances=[mean_gap], progress=False)
    by_name = evaluate(run, ["ddim(steps=3)"], count=8, distances=[mean_gap], progress=False)
    assert by_object.rows[0].distances == by_name.rows[0].distances
    assert by_object.names == ("mean_gap",)
    assert by_object.rows[0].sampler == str(mine)


def mean_gap(x, y):
    return float((x.mean() - y.mean()).abs())
