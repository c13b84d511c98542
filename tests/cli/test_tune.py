"""`sde-score tune`, and the samplers that `sde-score sample` takes from it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from sde_score import samplers
from sde_score.cli import main
from sde_score.samplers import read_grid_file
from sde_score.training import load_run

QUICK = ["--num", "4", "--iterations", "1", "--candidates", "ddim", "--no-progress"]


@pytest.fixture(scope="module")
def tuned(run_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(run_path, path)
    assert main(["tune", str(path), "--nfe", "3", *QUICK]) == 0
    return path


def test_the_run_keeps_what_was_found(tuned, record, capsys, tmp_path):
    content = read_grid_file(tuned / "tuned" / "nfe-3.json")
    assert (content.sampler, content.nfe, content.target) == ("ddim(steps=3)", 3, str(tuned))
    out = ["--out", str(tmp_path / "t.json")]
    found = record("tune", str(tuned), "--nfe", "3", *out, *QUICK)
    assert found["ratios"] == list(content.ratios)
    assert found["errors"] == dict(content.errors)
    assert main(["tune", str(tuned), "--nfe", "3", "--seconds", "1e-9", *out, *QUICK]) == 0
    shown = capsys.readouterr()
    assert "the best of 1 samplers" in shown.out
    assert "stopped at --seconds 1e-09" in shown.err


@pytest.mark.parametrize("spec", ["tuned", "tuned(nfe=3)", "file"])
def test_sample_takes_it_where_it_is_asked_for(spec, tuned, record, tmp_path):
    file, out = str(tuned / "tuned" / "nfe-3.json"), str(tmp_path / "s.npz")
    words = ["--sampler", file if spec == "file" else spec, "--num", "3", "--out", out]
    found = record("sample", str(tuned), *words)
    assert (found["sampler"], found["nfe"]) == (file, 3)
    run = load_run(tuned)
    want = samplers.create(file)(run.model, (3, *run.event_shape), seed=0)
    assert np.array_equal(np.load(out)["samples"], run.scaling.from_model(want).numpy())
    assert record("sample", str(tuned), "--num", "1", "--out", out)["sampler"] != file


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sampler", "tuned(nfe=4)"], "none that suits"),
        (["--sampler", "tuned(steps=4)"], "write tuned, or tuned(nfe=10)"),
        (["--sampler", "none.json"], "none.json"),
        (["--sampler", "tuned", "--steps", "4"], "leave out steps and grid"),
    ],
)
def test_a_sampler_that_is_not_there_or_not_so_is_refused(words, says, tuned, refusal, tmp_path):
    out = ["--out", str(tmp_path / "s.npz")]
    assert says in refusal("sample", str(tuned), *words, *out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--candidates", "ancestral"], "draws noise"),
        (["--out", "tuned.yaml"], ".json"),
        (["--nfe", "0"], "nfe=0"),
        (["--seconds", "0"], "seconds=0"),
    ],
)
def test_mistakes_are_named(words, says, run_path, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refusal("tune", str(run_path), *QUICK, *words)
    assert not list(tmp_path.iterdir())
