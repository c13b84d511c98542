"""`sde-score plan`: from flags, a file or a run, as tables and as JSON; nothing is written."""

from __future__ import annotations

import shutil

import pytest

from sde_score.cli import main

SMALL = ["--seconds", "0.05", "--no-progress"]


def test_flags_say_what_is_planned(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", "ring(n=60)", "--backbone", "mlp(width=8)", "--batch-size", "32"]
    found = record("plan", *words, "--steps", "40", "--price", "2", "--gpus", "4", *SMALL)
    assert list(tmp_path.iterdir()) == []
    assert found["batch_size"] == 32
    assert found["here"]["seconds"] == pytest.approx(40 * found["here"]["seconds_per_step"])
    assert [row["gpus"] for row in found["estimates"]] == [1, 2, 4]
    (row, *_) = found["estimates"]
    assert row["cost"] == pytest.approx(2 * row["total"] / 3600)


def test_a_run_or_its_file_says_what_is_planned_and_flags_change_it(run_path, record, tmp_path):
    from_run = record("plan", str(run_path), *SMALL)
    shutil.copy(run_path / "config.yaml", tmp_path / "mine.yaml")
    from_file = record("plan", "--steps", "99", str(tmp_path / "mine.yaml"), *SMALL)
    assert (from_run["steps"], from_file["steps"]) == (12, 99)
    assert from_run["batch_size"] == from_file["batch_size"] == 16
    assert from_run["parameters"] == from_file["parameters"]
    assert from_run["flops_per_example"] == from_file["flops_per_example"]


def test_people_get_two_tables(run_path, capsys):
    assert main(["plan", str(run_path), "--gpu", "a100", "--price", "1", *SMALL]) == 0
    said = capsys.readouterr().out
    for words in ("time of a step here, cpu", "peak memory of the process", "efficiency", "cost",
                  "Estimated for a100 in float32: 30% of peak"):  # fmt: skip
        assert words in said
    assert len([line for line in said.splitlines() if line.split()[:1] == ["16"]]) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "a10"], "a100"),
        (["--gpu", "custom(half=1e12)"], "full"),
        (["--utilisation", "2"], "utilisation"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["--seconds", "0"], "seconds"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(refusal, monkeypatch, words, said):
    monkeypatch.setattr("sde_score.evaluation.planning.measure._measured", None)
    assert said in refusal("plan", *words, "--no-progress")
