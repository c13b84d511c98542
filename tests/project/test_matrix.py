"""The version matrix: noxfile, workflow and what pyproject promises name the same versions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
PAIRS = next(
    ast.literal_eval(node.value)
    for node in NOXFILE.body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAIRS"
)
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_workflow_runs_the_pairs_of_the_noxfile():
    path = ROOT / ".github" / "workflows" / "ci.yml"
    if not path.exists():
        pytest.skip("not a checkout: workflows do not travel with the source distribution")
    job = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]["tests"]
    named = {(row["python"], row["session"]) for row in job["strategy"]["matrix"]["include"]}
    assert named == {(python, f"tests({python}-torch-{torch})") for python, torch in PAIRS}


def test_the_matrix_holds_the_promised_range():
    pythons, torches = zip(*PAIRS, strict=True)
    assert sorted(set(pythons)) == re.findall(r"Python :: (3\.\d+)", PYPROJECT)
    assert re.search(r'requires-python = ">=(3\.\d+)"', PYPROJECT)[1] == pythons[0]
    assert re.search(r'"torch>=([\d.]+)"', PYPROJECT)[1] == torches[0]
