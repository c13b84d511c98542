"""`sde-score benchmark` measures, prints, keeps, and goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

from sde_score.cli import main
from sde_score.evaluation.benchmarks import run as sampler_benchmark
from sde_score.training import load_run

WORDS = ["--num", "12", "--no-progress"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(sampler_benchmark, "_REFERENCE", 48)
    monkeypatch.setattr(sampler_benchmark, "_REPEATS", 2)


def test_files_are_what_is_printed(tmp_path, record):
    out = tmp_path / "deep" / "out"
    words = ["benchmark", "--samplers", "ddim", "heun", "ancestral", "--nfe", "3", "5", "9", *WORDS]
    found = record(*words, "--seeds", "0", "1", "--out", str(out))
    assert found["target"] == "ring"
    assert [(row["spec"], row["seed"]) for row in found["rows"][:3]] == [
        ("ddim(steps=3)", 0), ("ddim(steps=5)", 0), ("ddim(steps=9)", 0)
    ]  # fmt: skip
    assert len(found["rows"]) == 18
    assert json.loads((out / "benchmark.json").read_text())["rows"] == found["rows"]
    lines = list(csv.DictReader((out / "benchmark.csv").read_text().splitlines()))
    assert [float(line["rms"]) for line in lines[:3]] == [r["rms"] for r in found["rows"][:3]]
    assert lines[0]["nll gap standard error"] != ""
    assert lines[-1]["rms"] == ""  # ancestral draws noise
    assert float(lines[0]["energy floor low"]) < float(lines[0]["energy floor high"])
    assert (out / "benchmark.png").read_bytes()[1:4] == b"PNG"
    heun = [row["nfe"] for row in found["rows"] if row["sampler"] == "heun"]
    assert heun == [3, 5, 9] * 2


def test_a_second_call_measures_what_is_new_alone(tmp_path, record, monkeypatch):
    measured = []
    measure = sampler_benchmark.Bench.measure

    def listening(bench, entry, seed):
        measured.append((entry.spec, seed))
        return measure(bench, entry, seed)

    monkeypatch.setattr(sampler_benchmark.Bench, "measure", listening)
    words = ["benchmark", "--target", "ring", *WORDS, "--out", str(tmp_path)]
    first = record(*words, "--samplers", "ddim", "--nfe", "3")
    again = record(*words, "--samplers", "ddim", "heun", "--nfe", "3")
    assert measured == [("ddim(steps=3)", 0), ("heun(steps=2)", 0)]
    assert again["rows"][0] == first["rows"][0]
    record(*words, "--samplers", "ddim", "--nfe", "3", "--fresh")
    assert len(measured) == 3


def test_table_shows_errors_reasons_and_the_floor(tmp_path, capsys):
    words = ["benchmark", "--samplers", "ddim", "heun", "--grids", "log_snr", "--nfe", "3", *WORDS]
    assert main([*words, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "log_snr" in said.out
    assert "noise floor" in said.out
    assert "nll gap" in said.out
    assert "benchmark.png" in said.err


def test_a_trained_run_is_measured_against_its_own_flow(run_path, tmp_path, record):
    run = shutil.copytree(run_path, tmp_path / "run")
    fine = "ode(rtol=1e-06, atol=1e-06)"
    words = ["benchmark", "--model", str(run), "--samplers", "ddim", fine, "--nfe", "4", "60"]
    found = record(*words, *WORDS)
    assert [row["spec"] for row in found["rows"]] == ["ddim(steps=4)", "ddim(steps=60)", fine]
    few, many, adaptive = (row["rms"] for row in found["rows"])
    assert adaptive < 3e-4 < 3 * many < few  # the truth is the network's flow, ends included
    assert "nll gap" not in found["floors"]
    assert found["rows"][0]["nll_gap"] is None
    assert found["target"] == "run"
    assert repr(load_run(run).model.sde) == found["sde"]
    assert (run / "benchmark" / "benchmark.png").exists()


def test_a_conditional_run_is_given_its_labels(tmp_path, record):
    path = tmp_path / "r"
    train = ["train", "--out", str(path), "--steps", "4", "--batch-size", "16", "--conditional"]
    assert main([*train, "--backbone", "mlp(width=32, depth=1)", "--held-out", "0.2"]) == 0
    found = record("benchmark", "--model", str(path), "--samplers", "ode", *WORDS)
    assert found["rows"][0]["reason"] == ""
    assert found["rows"][0]["rms"] < 1e-3  # flow and sampler see the same labels


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--samplers", "hean"], "unknown sampler"),
        (["--samplers", "ddim,heun"], "unknown sampler 'ddim,heun'"),
        (["--target", "rong"], "benchmark target"),
        (["--nfe", "0"], "nfe=0"),
        (["--num", "2"], "num=2"),
        (["--grids", "karas"], "karas"),
        (["--target", "ring", "--model", "nowhere"], "take one"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named(words, names, tmp_path, refusal):
    out = tmp_path / "out"
    assert names in refusal("benchmark", "--no-progress", "--out", str(out), *words)
    assert not out.exists()
