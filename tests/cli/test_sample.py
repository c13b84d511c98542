"""Samples that are no numbers, and terminals that do not know every character."""

from __future__ import annotations

import io
import re
import sys

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.cli.output import speak_plainly
from sde_score.evaluation.samples import FiniteWatch, require_finite_samples


@pytest.fixture
def run_of_plane(tmp_path):
    path = str(tmp_path / "run")
    words = ["train", "--data", "ring(n=60)", "--steps", "2", "--batch-size", "8", "--no-progress"]
    assert main([*words, "--backbone", "mlp(width=4, depth=1)", "--out", path]) == 0
    return path


@pytest.mark.parametrize("ending", ["npz", "npy", "png"])
def test_samples_that_are_not_finite_are_refused_with_their_numbers_and_the_step(
    run_of_plane, tmp_path, monkeypatch, refusal, capsys, ending
):
    """Continuous data have no level to refuse them by; nothing is written."""
    from sde_score.models import ScoreModel

    usual, calls = ScoreModel._predict, []

    def overflowing(self, x, at, condition):
        answer = usual(self, x, at, condition)
        if len(x) == 4:
            calls.append(at)
        if len(x) == 4 and len(calls) >= 3:
            answer = answer.clone()
            answer[2] = torch.nan
        return answer

    monkeypatch.setattr(ScoreModel, "_predict", overflowing)
    capsys.readouterr()
    out = tmp_path / f"x.{ending}"
    said = refusal(
        "sample", run_of_plane, "--num", "9", "--batch-size", "4", "--sampler", "ddim(steps=5)",
        "--out", str(out), "--no-progress",
    )  # fmt: skip
    assert re.search(
        r"ddim\(steps=5\) diverged: 2 of 9 samples are not finite, with the numbers 2, 6; "
        r"first at step 3 \(t = 0\.\d+\); take more steps",
        said,
    )
    assert not out.exists()


def test_many_samples_that_are_not_finite_are_counted_and_the_first_named():
    samples = torch.zeros(20, 2)
    samples[7:15, 1] = torch.inf
    with pytest.raises(ValueError, match=r"8 of 20 .* numbers 7, 8, 9, 10, 11, \.\.\.; more steps"):
        require_finite_samples(samples, "heun", "more steps")
    watch = FiniteWatch()
    watch(1, 0.5, samples[:7])
    assert watch.first is None
    watch(2, 0.25, samples)
    watch(3, 0.125, samples)
    assert watch.first == (2, 0.25)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_result_is_shown_on_a_terminal_of_any_encoding(monkeypatch, encoding, run_path):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["likelihood", str(run_path), "--num", "4", "--no-progress"]) == 0
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert re.search(r"\d \+- \d" if encoding == "ascii" else r"\d ± \d", shown)


def test_other_characters_become_a_question_mark(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    speak_plainly()
    print("a–b × ☃", flush=True)
    assert written.getvalue() == b"a-b x ?\n"


@pytest.mark.parametrize("verb", [["sample"], ["optimise-grid", "--nfe", "5"]])
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_computed(
    verb, tmp_path, refusal
):
    """No run is there: what is computed first would fail otherwise."""
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / ("x.npz" if verb[0] == "sample" else "x.json")
    said = refusal(*verb, str(tmp_path / "run"), "--out", str(place))
    assert "cannot be written" in said
    assert "file is no folder" in said


@pytest.mark.parametrize(
    ("labels", "names", "asked", "written"),
    [
        ([1, 2, 3], None, "3", [3, 3]),
        ([1, 2, 3], None, None, [1, 2]),
        ([0, 1, 2], None, "1", [1, 1]),
        ([0, 1, 2], ("cat", "dog", "eel"), "dog", [1, 1]),
        ([0, 1, 2], ("cat", "dog", "eel"), "2", [2, 2]),
    ],
)
def test_classes_are_asked_for_and_written_as_the_data_have_them(
    tmp_path, capsys, register_for_test, refusal, labels, names, asked, written
):
    from sde_score.data import NAMED, from_tensor, load

    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    own = {"class_names": names} if names else {}
    register_for_test(NAMED, "mine", lambda: from_tensor(x, torch.tensor(labels * 10), **own))
    run, out = str(tmp_path / "run"), str(tmp_path / "x.npz")
    words = ["train", "--data", "mine", "--conditional", "--steps", "1", "--batch-size", "4"]
    assert main([*words, "--backbone", "mlp(width=4, depth=1)", "--out", run, "--no-progress"]) == 0
    words = ["sample", run, "--num", "2", "--sampler", "ddim(steps=2)", "--out", out]
    assert main([*words, *(["--label", asked] if asked else [])]) == 0
    with np.load(out) as arrays:
        assert arrays["labels"].tolist() == written
    assert load(out).num_classes == len(set(written))
    capsys.readouterr()
    wrong = "0" if names is None and labels[0] == 1 else "4"
    assert f"label={wrong} is no class of this run, which has 3" in refusal(
        *words, "--label", wrong
    )
