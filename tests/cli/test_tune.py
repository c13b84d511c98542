"""`sde-score tune`, and the samplers that `sde-score sample` takes from it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from sde_score import samplers
from sde_score._core.modules import weights_digest
from sde_score.cli import main
from sde_score.cli.options import chosen_sampler
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
    assert (content.sampler, content.nfe) == ("fitted(steps=3)", 3)
    run = load_run(tuned)
    digest = weights_digest(run.model)[:16]
    assert content.target == f"{tuned}, step {run.step}, weights {digest}"
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


def test_sample_takes_it_by_itself_and_says_so(tuned, capsys, tmp_path):
    """Where nothing else is asked for, or its evaluations are."""
    file, out = str(tuned / "tuned" / "nfe-3.json"), str(tmp_path / "s.npz")

    def sampled(*words):
        assert main(["sample", str(tuned), "--json", "--num", "1", "--out", out, *words]) == 0
        shown = capsys.readouterr()
        return json.loads(shown.out)["sampler"], shown.err

    for words in ([], ["--nfe", "3"]):
        sampler, said = sampled(*words)
        assert sampler == file
        assert f"{file}: tuned for this run, fitted(steps=3); --sampler NAME takes another" in said
        assert "hint" not in said
    for words, wanted in {
        ("--nfe", "4"): "auto(steps=4)",
        ("--steps", "5"): "auto(steps=5)",
        ("--grid", "karras"): "auto(steps=20, grid='karras')",
        ("--sampler", "ddim", "--nfe", "2"): "ddim(steps=2)",
        ("--sampler", "heun", "--nfe", "4"): "heun(steps=2)",
    }.items():
        assert sampled(*words) == (wanted, "")


def test_two_tuned_samplers_are_not_chosen_from(tuned, capsys, tmp_path):
    (tuned / "tuned" / "nfe-4.json").write_bytes((tuned / "tuned" / "nfe-3.json").read_bytes())
    try:
        run = load_run(tuned)
        assert chosen_sampler(run, "auto") == "auto(steps=20)"
        assert "tuned for 3, 4 evaluations; --nfe takes one" in capsys.readouterr().err
        assert chosen_sampler(run, "auto", nfe=4) == str(tuned / "tuned" / "nfe-4.json")
        assert chosen_sampler(run, "auto", tuned=False) == "auto(steps=20)"
    finally:
        (tuned / "tuned" / "nfe-4.json").unlink()


def test_one_for_other_weights_is_taken_with_a_word(tuned, capsys):
    run = load_run(tuned)
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    assert chosen_sampler(run, "auto") == str(tuned / "tuned" / "nfe-3.json")
    said = capsys.readouterr().err
    assert "was made for" in said
    assert f"not for step {run.step}, weights {weights_digest(run.model)[:16]}" in said


def test_evaluate_measures_it(tuned, capsys, monkeypatch):
    def specs(run, chosen, **options):
        raise ValueError(f"asked for {chosen}")

    monkeypatch.setattr("sde_score.cli.evaluate.evaluate", specs)
    assert main(["evaluate", str(tuned)]) != 0
    assert f"asked for ('{tuned / 'tuned' / 'nfe-3.json'}',)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--sampler", "tuned(nfe=4)"], "none that suits"),
        (["--sampler", "tuned(steps=4)"], "write tuned, or tuned(nfe=10)"),
        (["--sampler", "none.json"], "none.json"),
        (["--sampler", "tuned", "--steps", "4"], "leave out steps and grid"),
        (["--sampler", "tuned", "--nfe", "4"], "makes 3 evaluations: leave out nfe=4"),
        (["--steps", "4", "--nfe", "4"], "both say how long"),
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
