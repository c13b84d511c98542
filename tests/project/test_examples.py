"""The examples run, end with what they promise, and are short."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
RUNS = {
    "own_loop": (["--steps", "5"], "the data's is 1.4"),
    "train_tensor": (["--steps", "3", "--out", "run"], "bits/dim"),
    "class_conditional": (["--steps", "3", "--out", "run"], "class 7"),
    "own_network": (["--steps", "3", "--out", "run"], "step 3"),
    "fine_tune": (["--steps", "3", "--out", "run"], "9 steps of moons, 3 of spirals"),
    "from_noise": (["--count", "50"], "within 0.1 of the text"),
    "swap_samplers": (["--count", "20", "--nfe", "10"], "truth against truth"),
    "energy_classifier": (["--steps", "2"], "uniform noise"),
    "log_likelihood": ([], "ideal denoiser"),
    "ncsn_vs_sde": (["--count", "20"], "500 evaluations"),
    "known_posterior": (["--steps", "3", "--out", "run"], "exact posterior"),
    "epidemic": (["--steps", "3", "--out", "run"], "truth: [0.5, 0.1]"),
}
# What takes the time of a reader, in less of it.
SMALLER = {
    "known_posterior": {"20_000": "100", "1000, p": "20, p", "steps=40": "steps=2"},
    "epidemic": {
        "10_000": "100",
        "starts=16": "starts=2",
        "found.sample(300)": "found.sample(9)",
        "(run, 300)": "(run, 3, 9)",
    },
    "from_noise": {"1200": "200", "dpi=110": "dpi=40"},
    "log_likelihood": {"log_prob(mixture, x)": "log_prob(mixture, x, rtol=1e-2, atol=1e-2)"},
    "swap_samplers": {"in samplers.available()": "in samplers.available()[::6]"},
    "train_tensor": {"torch.arange(32)": "torch.arange(2)", "(64, *run": "(9, *run"},
}


def test_each_is_here():
    assert sorted(RUNS) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", RUNS)
def test_example_runs(name, monkeypatch, tmp_path, capsys):
    arguments, says = RUNS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    for large, less in SMALLER.get(name, {}).items():
        assert large in text
        text = text.replace(large, less)
    copy = tmp_path / f"{name}.py"
    copy.write_text(text, encoding="utf-8")
    with torch.random.fork_rng():
        runpy.run_path(str(copy), run_name="__main__")
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("name", RUNS)
def test_example_is_short_and_says_how_to_run_it(name):
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 42
    assert f"python examples/{name}.py" in ast.get_docstring(ast.parse(text))
