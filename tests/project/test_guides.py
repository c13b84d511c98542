"""The pictures of the guides: their scripts run, and their pages begin with what a reader needs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from PIL import Image

from sde_score import sdes

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "guides"
# What takes the time of a reader, in less of it.
SMALLER = {
    "which_sde": {
        '"digits-mixture"': '"gaussian"',
        "(10, 20, 40, 80)": "(10, 20)",
        "in COLORS.items()": "in list(COLORS.items())[::5]",
    },
    "which_objective": {
        "list(COLORS)[:7]": '["denoising", "implicit"]',
        "*list(COLORS)[7:]]": '"noise-contrastive"]',
        "width=64, depth=2": "width=16, depth=1",
        '["explicit", "denoising", "denoising-control", "hutchinson", "sliced"]': '["explicit"]',
        '("denoising", "denoising-control", "implicit", "hutchinson", "sliced")': (
            '("denoising", "implicit")'
        ),
        "model, 0), 1.0)": "model, 0), 0.1)",
        "(0.03, 0.1, 0.3, 1.0)": "(0.1, 1.0)",
    },
    "which_likelihood": {
        '"digits-mixture"': '"gaussian"',
        "(1e-2, 1e-3, 1e-4)": "(1e-3,)",
        "(1e-2, 1e-3, 1e-4, 1e-5)": "(1e-5,)",
        "(8, 16, 32)": "(32,)",
        "(1, 4, 16, 64)": "(4,)",
        "(10, 30, 100, 300, 1000)": "(10, 100)",
        "(5, 10, 20, 40, 80)": "(10,)",
        '"reverse-ais": drawing.ORANGE, ': "",
    },
}
NAMES = list(SMALLER)


@pytest.fixture
def run_script(monkeypatch, tmp_path):
    """Runs a script in this process, with less to do; settings are as before afterwards."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name, *options):
        text = (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
        for large, less in SMALLER.get(name, {}).items():
            assert large in text
            text = text.replace(large, less)
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", [name, *options])
        return runpy.run_path(str(tmp_path / f"{name}.py"), run_name="__main__")

    with matplotlib.rc_context(), torch.random.fork_rng():
        yield run
    torch.set_num_threads(threads)
    sys.modules.pop("drawing", None)


def test_every_script_is_tried():
    """Beside it stands the style that all share."""
    found = {path.stem for path in SCRIPTS.glob("*.py")}
    assert found == {*NAMES, "drawing"}


@pytest.mark.parametrize("name", NAMES)
def test_guide_begins_with_its_table_and_shows_its_picture(name):
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 120
    assert lines[0].startswith("# Which ")
    assert lines[2].startswith("| ")
    assert f"(guides/{name}.png)" in text
    assert f"`python examples/guides/{name}.py` · [script](../examples/guides/{name}.py)" in text
    path = ROOT / "docs" / "guides" / f"{name}.png"
    assert path.stat().st_size < 150_000
    with Image.open(path) as image:
        assert image.width == 1200


def test_the_gap_of_the_prior_and_the_clocks_are_drawn(run_script, capsys):
    """The gap is the divergence of two normal distributions; `auto` is alike on all SDEs."""
    found = run_script("which_sde", "--starts", "2")
    sde, std = sdes.create("ve"), torch.tensor(3.0, dtype=torch.float64)
    end = torch.distributions.Normal(0.0, (9.0 + 50.0**2) ** 0.5)
    wanted = torch.distributions.kl_divergence(end, torch.distributions.Normal(0.0, 50.0))
    assert float(found["prior_gap"](sde, std)) == pytest.approx(float(wanted), rel=1e-3)
    rows = capsys.readouterr().out.splitlines()[1:-1]
    assert [row.split()[0] for row in rows] == ["ve", "rectified"]
    at_ten = [re.findall(r"10: \S+ ± \S+ (\S+)", row)[0] for row in rows]
    assert max(map(float, at_ten)) < 1.2 * min(map(float, at_ten))


def test_likelihoods_are_held_against_the_truth(run_script, capsys):
    """The flow by exact divergences and its few steps are right, chains of few layers too long."""
    run_script("which_likelihood", "--examples", "64", "--chains", "64")
    rows = [re.split(r" {2,}", row) for row in capsys.readouterr().out.splitlines()]
    rms = {row[0]: float(row[2]) for row in rows if row[0].endswith(")")}
    assert rms["flow(divergence='exact', rtol=1e-05, atol=1e-05)"] < 6e-3
    assert rms["few-steps(steps=32, divergence='exact', tolerance=100)"] < 1e-2
    means = [float(row[3].split()[0]) for row in rows if row[0].startswith("elbo")]
    assert means[0] > 5 * abs(means[1])


def test_objectives_are_held_against_the_score(run_script, capsys):
    """The error of no score is 1, that of the score 0; noise decides what a gradient is worth."""
    found = run_script("which_objective", "--seconds", "0.05", "--draws", "20", "--seeds", "2")
    rows = [line.split(",") for line in Path("which_objective.csv").read_text().splitlines()]
    assert len({(row[0], row[1]) for row in rows}) == 2 + 3 + 1 + 2
    worth = {(row[1], row[2]): float(row[3]) for row in rows if row[0] == "3"}
    assert 4 * worth["denoising", "1"] < abs(worth["denoising", "0.1"])
    truth = found["TARGET"].diffused(sdes.create("ve"))
    t = truth.sde.t_min
    assert found["error"](truth, truth, t) < 1e-9
    silent = SimpleNamespace(sde=truth.sde, score=lambda x, t: 0 * x)
    assert found["error"](silent, truth, t) == pytest.approx(1)
    Path("which_objective.csv").write_text("0,implicit,5,0.1,0.01\n" * 2)
    run_script("which_objective", "--read", "which_objective.csv")
    assert Path("which_objective.png").stat().st_size < 100_000
