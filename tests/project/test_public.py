"""The public surface: every room is an attribute, and what is typed first stands on top."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sde_score

PACKAGE = Path(sde_score.__file__).parent
PRIVATE = {"cli", "__init__", "__main__"}
ROOMS = sorted(
    name
    for path in PACKAGE.iterdir()
    if (name := path.stem) not in PRIVATE and not name.startswith("_")
    if path.suffix == ".py" or (path / "__init__.py").exists()
)


def typed_names():
    """What the block for type checkers imports: name -> room it comes from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    return {
        alias.asname or alias.name: f"{line.module.removeprefix('sde_score.')}.{alias.name}"
        for line in block.body
        for alias in line.names
    }


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_an_attribute_and_in_tab_completion(room):
    assert getattr(sde_score, room) is importlib.import_module(f"sde_score.{room}")
    assert room in dir(sde_score)


@pytest.mark.parametrize("name", sde_score.__all__)
def test_every_name_on_top_is_the_one_of_its_room(name):
    room, attribute = sde_score._NAMES[name].split(".")
    assert getattr(sde_score, name) is getattr(
        importlib.import_module(f"sde_score.{room}"), attribute
    )
    assert name in dir(sde_score)


def test_lists_of_the_top_level_agree():
    assert typed_names() == sde_score._NAMES
    assert sorted(sde_score._NAMES) == sorted(sde_score.__all__)
    assert sorted(sde_score._ROOMS) == ROOMS


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sde_score' has no attribute 'nothing'"):
        _ = sde_score.nothing


def test_rooms_are_loaded_when_they_are_used():
    script = "import sys, sde_score; print(any(m.startswith('sde_score.s') for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
