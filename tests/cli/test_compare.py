"""`sde-score compare` measures, prints and keeps the comparison of a run's views."""

from __future__ import annotations

import json
import shutil

import pytest

from sde_score.cli import main

FEW = ["--num", "16", "--bits-examples", "2", "--extractor", "pixels", "--no-progress"]


@pytest.fixture
def own_run(run_path, tmp_path):
    return shutil.copytree(run_path, tmp_path / "run")


def test_json_is_what_is_kept(own_run, record):
    words = ["compare", str(own_run), "--views", "ddim", "heun", "--nfe", "3", "6", *FEW]
    found = record(*words)
    assert [(row["view"], row["nfe"]) for row in found["rows"]] == [
        ("ddim", 3), ("ddim", 6), ("heun", 3), ("heun", 5)
    ]  # fmt: skip
    assert found["names"] == ["sliced-wasserstein2", "frechet[pixels]"]
    kept = json.loads((own_run / "comparison.json").read_text())
    assert {name: found[name] for name in kept} == kept
    assert "One network, all views" in (own_run / "report.html").read_text()


def test_table_names_distances_views_and_the_floor(own_run, capsys):
    words = ["compare", str(own_run), "--views", "heun", "--nfe", "3", *FEW]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "frechet[pixels]" in said.out
    assert "noise floor" in said.out
    assert "probability-flow ODE" in said.out
    assert "comparison.png" in said.err


def test_views_show_all_by_default(own_run, record):
    from sde_score.evaluation import VIEWS

    found = record(
        "compare", str(own_run), "--nfe", "3", *FEW[:2], "--bits-examples", "0", *FEW[4:]
    )
    assert {row["view"] for row in found["rows"]} == set(VIEWS)
    assert found["bits"] == {}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--views", "hean"], "annealed-langevin"),
        (["--nfe", "0"], "nfe=0"),
        (["--num", "2"], "num=2"),
        (["--bits-examples", "1"], "bits_examples=1"),
        (["--extractor", "nothing"], "unknown extractor"),
    ],
)
def test_mistakes_are_named(words, names, own_run, refusal):
    assert names in refusal("compare", str(own_run), "--no-progress", *words)
    assert not (own_run / "comparison.json").exists()


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--help"])
    assert stop.value.code == 0
    assert "undocumented" not in capsys.readouterr().out
