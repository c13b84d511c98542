"""Mistakes and interrupts end in one line, and mistakes of the program can be found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sde_score.cli import main

REPO = Path(__file__).parents[2]


@pytest.fixture
def raising(monkeypatch):
    """Make `sde-score samplers` raise an error."""

    def install(error):
        def run(_):
            raise error

        monkeypatch.setattr("sde_score.cli.samplers.Samplers.run", run)

    return install


@pytest.mark.parametrize(
    "error", [ValueError("a\n b"), TypeError("a b"), OSError("a b"), ImportError("a b")]
)
def test_errors_are_one_line(error, raising, refusal):
    raising(error)
    assert refusal("samplers").startswith("error: a b")


def test_only_a_type_error_says_how_to_see_where(raising, refusal):
    raising(TypeError("a"))
    assert "SDE_SCORE_TRACEBACK=1" in refusal("samplers")
    raising(ValueError("a"))
    assert "TRACEBACK" not in refusal("samplers")


def test_the_traceback_is_there_for_who_asks(raising, monkeypatch):
    monkeypatch.setenv("SDE_SCORE_TRACEBACK", "1")
    raising(TypeError("a"))
    with pytest.raises(TypeError, match="a"):
        main(["samplers"])


def test_other_errors_are_not_hidden(raising):
    raising(AttributeError("a bug"))
    with pytest.raises(AttributeError):
        main(["samplers"])


def test_unknown_commands_are_refused(refusal):
    assert "did you mean 'train'" in refusal("trian")


def test_help_lists_every_command_in_a_line_or_two(capsys, monkeypatch):
    from sde_score.cli.verbs import VERBS

    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == list(
        VERBS
    )


@pytest.mark.parametrize("verb", ["likelihood", "benchmark"])
def test_help_is_wrapped_but_for_its_examples(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("    "))


@pytest.mark.parametrize("wait", [0.15, 0.4, 0.8])
def test_an_interrupt_during_the_start_is_one_word(wait, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); from sde_score.cli import run; run()",
         "train", "--data", "ring", "--out", "never", "--steps", "100000", "--no-progress"],
        env=env, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()  # Python itself has started
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
