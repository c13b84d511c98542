"""`sde-score optimise-grid` and the grids that `sde-score sample --grid` takes from it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sde_score import samplers
from sde_score.cli import main
from sde_score.samplers import read_grid_file
from sde_score.training import load_run

QUICK = ["--num", "4", "--iterations", "2", "--no-progress"]


@pytest.fixture(scope="module")
def grid(run_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("grids") / "grid.json"
    assert main(["optimise-grid", str(run_path), "--nfe", "4", "--out", str(path), *QUICK]) == 0
    return path


def test_the_file_says_what_was_found(grid, run_path, record, tmp_path):
    content = read_grid_file(grid)
    assert content.sampler == "adams(steps=4)"
    assert (content.nfe, len(content.ratios), content.target) == (4, 4, str(run_path))
    words = ["--nfe", "4", "--out", str(tmp_path / "g.json")]
    found = record("optimise-grid", str(run_path), *words, *QUICK)
    assert (tmp_path / "g.json").read_text() == grid.read_text()
    assert found["ratios"] == list(content.ratios)
    assert found["errors"] == dict(content.errors)


def test_both_errors_are_shown(run_path, tmp_path, capsys):
    words = ["--sampler", "ddim", "--nfe", "2", "--out", str(tmp_path / "g.json"), *QUICK]
    assert main(["optimise-grid", str(run_path), *words]) == 0
    shown = capsys.readouterr().out
    assert [shown.count(word) for word in ("fitted", "fresh", "before", "after")] == [2, 2, 2, 2]


def test_sample_takes_the_grid_its_steps_and_its_sampler(grid, run_path, record, tmp_path):
    out = tmp_path / "s.npz"
    found = record("sample", str(run_path), "--grid", str(grid), "--num", "3", "--out", str(out))
    assert found["nfe"] == 4
    run = load_run(run_path)
    sampler = samplers.create("adams", steps=4, grid=f"file(path={str(grid)!r})")
    want = run.scaling.from_model(sampler(run.model, (3, *run.event_shape), seed=0))
    assert np.array_equal(np.load(out)["samples"], want.numpy())
    words = ["--sampler", "ddim", "--num", "2", "--out", str(out)]
    assert record("sample", str(run_path), "--grid", str(grid), *words)["nfe"] == 4


@pytest.mark.parametrize(
    "words", [["--steps", "9"], ["--sampler", "ddim(steps=9)"], ["--sampler", "heun(steps=9)"]]
)
def test_another_number_of_steps_is_refused(words, grid, run_path, refusal, tmp_path):
    out = ["--out", str(tmp_path / "s.npz")]
    said = refusal("sample", str(run_path), "--grid", str(grid), *words, *out)
    assert "made for adams(steps=4), 4 NFE: set steps=4" in said


def test_a_damaged_or_missing_file_is_refused(grid, run_path, refusal, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"ratios": [1.0]}))
    assert "bad.json is no grid file" in refusal("sample", str(run_path), "--grid", str(bad))
    assert "none.json" in refusal("sample", str(run_path), "--grid", str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sampler", "ancestral"], "draws noise"),
        (["--out", "grid.yaml"], ".json"),
        (["--nfe", "0"], "nfe=0"),
        (["--method", "magic"], "accepted: auto, gradient, search"),
    ],
)
def test_mistakes_are_named(words, says, run_path, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refusal("optimise-grid", str(run_path), *QUICK, *words)
    assert not list(tmp_path.iterdir())


def test_a_conditional_run_is_fitted_to_all_its_classes(tmp_path):
    path = str(tmp_path / "r")
    train = ["--steps", "3", "--batch-size", "16", "--backbone", "mlp(width=8, depth=1)"]
    assert main(["train", "--out", path, *train, "--no-progress", "--conditional"]) == 0
    out = ["--nfe", "3", "--out", str(tmp_path / "g.json")]
    assert main(["optimise-grid", path, *out, *QUICK]) == 0
    assert len(read_grid_file(tmp_path / "g.json").ratios) == 3
