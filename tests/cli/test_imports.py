"""`--import MODULE` brings in what users write, and nothing else does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sde_score.cli import main

REPO = Path(__file__).parents[2]

MINE = '''
"""Things of a user's."""
from sde_score import evaluation, samplers
from sde_score.models import GaussianMixture


class Mine(samplers.DDIM):
    """Nothing new."""


samplers.SAMPLERS.register("mine", Mine)
evaluation.register("gap", lambda x, y: float((x.mean() - y.mean()).abs()))
evaluation.register_target("pair", lambda sde: GaussianMixture([[-1.0], [1.0]], 0.1, sde))
'''


def command(*words, cwd, **environment):
    """Run the command in a process of its own: registries and imports are those of one process."""
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "sde_score", *words],
        capture_output=True, text=True, cwd=cwd, env=env, timeout=120,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_things.py").write_text(MINE)
    return tmp_path


def test_samplers_distances_and_targets_of_yours_are_measured_like_ours(folder, run_path):
    words = ["--samplers", "mine(steps=3)", "ddim(steps=3)", "--distances", "gap", "--num", "8"]
    done = command(
        "evaluate", str(run_path), *words, "--no-progress", "--json", "--import", "my_things",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["names"] == ["gap"]
    mine, ours = found["rows"]
    assert (mine["sampler"], mine["distances"]) == ("mine(steps=3)", ours["distances"])
    words = ["--target", "pair", "--samplers", "mine", "--nfe", "3", "--num", "8", "--json"]
    done = command("benchmark", *words, "--no-progress", "--import=my_things", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"][0]["reason"] == ""
    done = command("samplers", "--import", "my_things", "--json", cwd=folder)
    assert "mine" in {each["name"] for each in json.loads(done.stdout)["samplers"]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--import", "my_other"], "No module named 'my_other'"),
        (["--import", "my_things.py"], "must be the name of a module"),
        (["--import", "../my_things"], "must be the name of a module"),
    ],
)
def test_modules_that_cannot_be_imported_are_named(words, says, refusal, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert says in refusal("samplers", *words)


def test_no_configuration_imports_anything(run_path, tmp_path, monkeypatch, capfd):
    """Module names in a run's files are text like any other."""
    import shutil

    import yaml

    (tmp_path / "evil.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(run_path, tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for changed in (
        {"imports": ["evil"]},
        {"import": "evil"},
        {"sde": "evil.SDE()"},
        {"backbone": "evil:network"},
        {"objective": "__import__('evil')"},
        {"data": "evil.data(n=__import__('evil'))"},
    ):
        (run / "config.yaml").write_text(yaml.safe_dump({**config, **changed}))
        for words in (["sample", "run", "--num", "2"], ["evaluate", "run", "--num", "8"]):
            assert main([*words, "--no-progress"]) in (0, 2)
            assert len(capfd.readouterr().err.splitlines()) <= 1
    assert "evil" not in sys.modules
