"""`--import MODULE` brings in what users write, and nothing else does."""

from __future__ import annotations

import json
import sys

import pytest

from sde_score.cli import main

MINE = {
    "my_sampler": '''
from sde_score import samplers


class Mine(samplers.DDIM):
    """Nothing new."""


samplers.SAMPLERS.register("mine", Mine)
''',
    "my_distance": """
from sde_score import evaluation

evaluation.register("gap", lambda x, y: float((x.mean() - y.mean()).abs()))
""",
    "my_target": """
from sde_score import evaluation
from sde_score.models import GaussianMixture

evaluation.register_target("pair", lambda sde: GaussianMixture([[-1.0], [1.0]], 0.1, sde))
""",
    "my_other": """
from sde_score import samplers

samplers.SAMPLERS.register("other", samplers.DDIM)
""",
}
"""Modules of a user's: one for each command, as a process imports a module once."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, which Python does not look into by itself."""
    for name, text in MINE.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield tmp_path
    for name in MINE:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("folder", "fresh_registries")
def test_samplers_distances_and_targets_of_yours_are_measured_like_ours(run_path, capsys):
    def command(*words):
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    found = command(
        "evaluate", str(run_path), "--samplers", "mine(steps=3)", "ddim(steps=3)",
        "--distances", "gap", "--num", "8", "--no-progress",
        "--import", "my_sampler", "--import", "my_distance",
    )  # fmt: skip
    assert found["names"] == ["gap"]
    mine, ours = found["rows"]
    assert (mine["sampler"], mine["distances"]) == ("mine(steps=3)", ours["distances"])
    words = ["--target", "pair", "--samplers", "mine", "--nfe", "3", "--num", "8"]
    found = command("benchmark", *words, "--no-progress", "--import=my_target")
    assert found["rows"][0]["reason"] == ""
    found = command("samplers", "--import", "my_other")
    assert "other" in {each["name"] for each in found["samplers"]}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--import", "my_others"], "No module named 'my_others'"),
        (["--import", "my_other.py"], "must be the name of a module"),
        (["--import", "../my_other"], "must be the name of a module"),
    ],
)
def test_modules_that_cannot_be_imported_are_named(words, says, refusal):
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
        words = ["--num", "8", "--samplers", "ddim(steps=2)", "--no-progress"]
        assert main(["evaluate", "run", *words]) in (0, 2)  # makes everything the file names
        assert len(capfd.readouterr().err.splitlines()) <= 1
    assert "evil" not in sys.modules
