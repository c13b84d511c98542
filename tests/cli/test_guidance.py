"""Guidance from the command line."""

from __future__ import annotations

import numpy as np
import pytest

from sde_score import samplers
from sde_score.cli import main
from sde_score.evaluation import train_classifier
from sde_score.guidance import Guided
from sde_score.training import load_run


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A run on labelled digits, with snapshots."""
    path = tmp_path_factory.mktemp("runs") / "classes"
    words = ["--steps", "4", "--batch-size", "8", "--backbone", "mlp(width=8, depth=1)"]
    words += ["--conditional", "--snapshot-every", "2", "--no-progress", "--lr", "0.1"]
    assert main(["train", "--out", str(path), *words]) == 0
    return path


def drawn(path, out, *words):
    words = ["--num", "3", "--steps", "3", "--no-progress", *words]
    assert main(["sample", str(path), "--sampler", "ddim", "--out", str(out), *words]) == 0
    return np.load(out)["samples"]


@pytest.mark.filterwarnings("ignore:training showed")
def test_samples_are_those_of_the_guided_model(classes, tmp_path):
    run = load_run(classes)
    labels = run.labels_in_turn(3)
    weak = load_run(classes, "ema(0.05)").model
    for text, model in {
        "cfg(3)": Guided(run.model, "cfg(3)"),
        "cfg(3, interval=(0.2, 5.0), negative=1)": Guided(
            run.model, "cfg(3)", negative=1, interval=(0.2, 5.0)
        ),
        "cfg(2, against='ema(0.05)')": Guided(run.model, "cfg(2)", against=weak),
        "cfg++(0.5)": Guided(run.model, "cfg++(0.5)", sampler=samplers.create("ddim(steps=3)")),
    }.items():
        got = drawn(classes, tmp_path / "some.npz", "--guidance", text)
        expected = samplers.sample(
            model, "ddim(steps=3)", run.event_shape, 3, condition=labels, progress=False
        )
        np.testing.assert_array_equal(got, run.scaling.from_model(expected).numpy())
    assert not np.array_equal(got, drawn(classes, tmp_path / "plain.npz"))


@pytest.mark.filterwarnings("ignore:training showed")
def test_a_sweep_is_measured_and_drawn(classes, tmp_path, record, refusal, monkeypatch):
    def quick(x, labels, count, path, **_):
        return train_classifier(x, labels, count, steps=2)

    monkeypatch.setattr("sde_score.evaluation.samples.classifier_for", quick)
    words = ["evaluate", str(classes), "--num", "8", "--no-progress", "--distances", "energy"]
    words += ["--samplers", "ddim(steps=3)", "--data", "digits", "--out", str(tmp_path / "g.png")]
    found = record(*words, "--guidance", "cfg(3)", "cfg(4)")
    assert [(row["guidance"], row["nfe"]) for row in found["rows"]] == [
        ("cfg(3)", 6),
        ("cfg(4)", 6),
    ]
    assert 0 <= found["rows"][0]["accuracy"]["value"] <= 1
    assert (tmp_path / "g.png").read_bytes()[:4] == b"\x89PNG"
    assert "a picture over guidance" in refusal(*words)


@pytest.mark.filterwarnings("ignore:training showed")
def test_guidance_is_refused_before_anything_is_spent(classes, run_path, tmp_path, refusal):
    out = ["--no-progress", "--out", str(tmp_path / "none")]
    for path, text, said in (
        (run_path, "cfg(3)", "was trained without any: train it with --conditional"),
        (classes, "cgf(3)", "unknown guidance 'cgf'"),
    ):
        for words in (["compare", str(path)], ["benchmark", "--model", str(path)]):
            assert said in refusal(*words, "--guidance", text, *out)
    said = refusal("compare", str(classes), "--guidance", "cfg++", *out)
    assert "take a sampler of given steps" in said
    words = ["compare", str(classes), "--views", "ddim", "--guidance", "apg(3, momentum=-0.5)"]
    said = refusal(*words, *out)
    assert "bits_examples must be 0" in said
    said = refusal("benchmark", "--model", str(classes), "--guidance", "cfg++", *out)
    assert "no flow to measure solvers against" in said
    assert "guidance=cfg(2) is of --model" in refusal("benchmark", "--guidance", "cfg(2)", *out)
    assert not (tmp_path / "none").exists()


def test_guidance_that_cannot_be_is_refused(classes, run_path, tmp_path, refusal):
    out = ["--out", str(tmp_path / "some.npz"), "--num", "2"]
    assert "unknown guidance 'cgf'" in refusal("sample", str(classes), "--guidance", "cgf(3)", *out)
    always = ["--guidance", "cfg(3, negative=1)", "--label", "none"]
    assert "condition is missing" in refusal("sample", str(classes), *always, *out)
    said = refusal("sample", str(run_path), "--guidance", "cfg(3)", *out)
    assert "condition" in said
