"""What an import costs: `import sde_score` pulls in torch and numpy, and nothing beyond them."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "sde_score"

HEAVY = {
    "PIL",
    "accelerate",
    "einops",
    "huggingface_hub",
    "matplotlib",
    "pandas",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "torchdiffeq",
    "tyro",
    "yaml",
}
# Top-level packages outside the standard library that `import sde_score` adds to `import torch`.
ADDED_OVER_TORCH: set[str] = set()

PROBE = """
import importlib, json, sys
import numpy, torch
before = set(sys.modules)
for name in json.loads(sys.argv[1]):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        getattr(module, public)
added = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before}
print(json.dumps(added))
"""


@cache
def added_by(*names):
    """Modules, with their files, that importing `names` adds to a fresh interpreter with torch."""
    command = [sys.executable, "-c", PROBE, json.dumps(names)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPO.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def third_party(added):
    tops = {name.partition(".")[0] for name in added}
    return tops - set(sys.stdlib_module_names) - {"sde_score", "torch", "numpy"}


def importable(path):
    """Dotted name of a file of the package."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_import_adds_nothing_to_torch():
    added = added_by("sde_score")
    assert third_party(added) & HEAVY == set()
    assert third_party(added) == ADDED_OVER_TORCH


def test_import_loads_this_checkout_and_no_test_or_script_of_it():
    """All modules of ours stem from sde_score, and the files are the ones under test."""
    ours = {
        name: file
        for name, file in added_by("sde_score").items()
        if name.partition(".")[0] == "sde_score" or str(file).startswith(str(REPO / "tests"))
    }
    assert "sde_score" in ours
    for name, file in ours.items():
        assert name.partition(".")[0] == "sde_score"
        assert Path(file).is_relative_to(PACKAGE), f"{name} came from {file}"


def test_every_file_imports_with_torch_alone_and_exports_what_it_promises():
    """Heavy parts wait inside the functions that use them; the command line may have its own.

    Every name in an `__all__` is looked up too, so that `from sde_score.room import *` works.
    """
    files = sorted(PACKAGE.rglob("*.py"))
    names = [importable(path) for path in files if path.stem != "__main__"]
    added = added_by(*(name for name in names if not name.startswith("sde_score.cli")))
    assert third_party(added) == ADDED_OVER_TORCH
