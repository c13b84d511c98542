"""The start of the command: what needs no torch answers without it, and no flag is asked twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sde_score.cli import main
from sde_score.cli.verbs import VERBS, listed, load
from sde_score.training import TrainConfig, load_config

REPO = Path(__file__).parents[2]
LIGHT = """
import json, sys
from sde_score.cli import main
status = [main([word]) for word in ("--help", "--version", "trian", "optimize_grit")]
print(json.dumps([status, sorted({"torch", "numpy", "tyro", "rich", "scipy"} & {*sys.modules})]))
"""


def python(code, *words):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)


def test_help_versions_and_typos_import_nothing_heavy():
    done = python(LIGHT)
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0, 2, 2], []]
    assert "did you mean 'optimise-grid'?" in done.stderr
    assert done.stdout.startswith("usage: sde-score COMMAND")


def test_each_command_has_its_class_and_one_line():
    for name, (kind, purpose) in VERBS.items():
        assert load(name).__name__ == kind
        assert len(purpose) <= 63, name
        assert not purpose.endswith(".")


@pytest.mark.parametrize(
    ("said", "meant"),
    [("Train", "train"), ("optimize_grid", "optimise-grid"), ("optimisegrid", "optimise-grid")],
)
def test_spellings_are_forgiven(said, meant):
    assert listed(said) == meant


def test_nothing_like_a_command_gets_no_guess(refusal):
    said = refusal("xyz")
    assert "did you mean" not in said
    assert "accepted: demo, train" in said


COMPLETE = """
. {script}
complete_words() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sde_score; echo "${{COMPREPLY[*]}}"
}}
complete_words sde-score opt
complete_words sde-score sample --guid
complete_words sde-score train --out x
complete_words sde-score samplers --
"""


def test_bash_completes_commands_and_flags(capsys, tmp_path):
    assert main(["completion"]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    command = ["bash", "-c", COMPLETE.format(script=script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "optimise-grid",
        "--guidance",
        "",
        "--import --json --no-json",
    ]
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out


def test_a_run_goes_on_by_its_directory_alone(tmp_path, capsys, refusal):
    out = str(tmp_path / "run")
    first = ["--data", "ring(n=60)", "--sde", "ve(sigma_max=3.0)", "--backbone", "mlp(width=4)"]
    first += ["--batch-size", "8", "--steps", "2", "--clip", "0.5", "--no-progress"]
    assert main(["train", "--out", out, *first]) == 0
    before = load_config(tmp_path / "run" / "config.yaml")
    for flag in (["--out", out], [f"--out={out}"]):
        steps = "4" if len(flag) == 2 else "6"
        assert main(["train", *flag, "--steps", steps, "--no-progress"]) == 0
        after = load_config(tmp_path / "run" / "config.yaml")
        assert after.steps == int(steps)
        assert TrainConfig(**{**vars(after), "steps": 2}) == before
    capsys.readouterr()
    said = refusal("train", "--out", out, "--sde", "vp", "--no-progress")
    assert "sde is 'vp(" in said
    (tmp_path / "run" / "config.yaml").write_text("steps: [")
    assert "config.yaml cannot be read" in refusal("train", "--out", out, "--no-progress")
