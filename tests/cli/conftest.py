"""One tiny trained run for all tests of the command."""

from __future__ import annotations

import json

import pytest

from sde_score.cli import main

TRAIN = ["--steps", "12", "--batch-size", "16", "--backbone", "mlp(width=32, depth=1)"]


@pytest.fixture(scope="session")
def run_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--out", str(path), *TRAIN, "--no-progress", "--held-out", "0.2"]) == 0
    return path


@pytest.fixture
def record(capsys):
    """Run a command that must succeed and return its JSON."""

    def run(*words: str):
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refusal(capsys):
    """Run a command that must be refused and return what it says."""

    def run(*words: str) -> str:
        assert main(list(words)) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert len(said.strip().splitlines()) == 1
        return said

    return run
