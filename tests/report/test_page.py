"""The page is one file, holds what was measured, and a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from sde_score.evaluation import evaluate
from sde_score.report import Section, Table, evaluation_table, render
from sde_score.report.demo import demo
from sde_score.report.tables import figure_text
from sde_score.training import TrainConfig

TINY = TrainConfig(
    data="digits", backbone="mlp(width=32, depth=1)", steps=20, batch_size=16, log_every=5
)
SPECS = ("ddim(steps=5)", "heun(steps=4)", "annealed-langevin(steps=3)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    return demo(out, config=TINY, specs=SPECS, count=24, progress=False)


def test_text_is_escaped():
    sections = [Section("<b>", "a & b", Table(["<i>"], [["1 < 2"]]), b"png", 'say "x"')]
    page = render("<script>", "lead", sections)
    assert "<script>" not in page
    assert "<b>" not in page
    assert "1 &lt; 2" in page
    assert 'alt="say &quot;x&quot;"' in page
    assert "data:image/png;base64,cG5n" in page


def test_page_loads_nothing_from_elsewhere(made):
    page = made[0].read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "url(" not in page
    assert page.count("<img") == 3
    assert page.count('alt=""') == 0


def test_table_holds_what_was_measured(made):
    path, found, bits = made
    page = path.read_text()
    assert [row.nfe for row in found.rows] == [5, 7, 16]
    for row in found.rows:
        assert f"<td>{row.sampler}</td><td>{row.nfe}</td>" in page
        assert all(f"<td>{figure_text(each)}</td>" in page for each in row.distances)
    assert all(f"<td>{figure_text(floor)}</td>" in page for floor in found.floors)
    assert f"{bits.mean:.3f} ± {bits.standard_error:.3f}" in page


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


def test_browser_shows_the_page(made, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("chromium is not installed")
    shot = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    size = "--window-size=1100,2200"
    command = [browser, *flags, size, f"--screenshot={shot}", made[0].as_uri()]
    subprocess.run(command, capture_output=True, timeout=600, check=True)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (2200, 1100)
    # The training curve is the one thing in its color: the pictures were decoded and laid out.
    curve = np.abs(pixels - np.array([0xC2, 0x41, 0x0C])).sum(2) < 30
    assert curve.sum() > 100
    # Ink stays inside the page: nothing runs off its right edge.
    assert (pixels[:, -8:] > 250).all()
