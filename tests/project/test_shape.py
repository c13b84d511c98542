"""The shape of the code: short files, short functions, and no tower of classes."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "sde_score"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 70
MOST_STOREYS = 2  # below the base of a contract: a class, and one made of it


def long_functions(tree):
    """Name and length of each function beyond the limit."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES_OF_A_FUNCTION:
                yield f"{node.name} ({lines} lines)"


def our_classes():
    """Every class of the package, from the module that defines it."""
    for path in SOURCES:
        parts = path.relative_to(REPO).with_suffix("").parts
        if path.stem == "__main__" or parts[1] == "cli":
            continue
        module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
        for _, thing in inspect.getmembers(module, inspect.isclass):
            if thing.__module__ == module.__name__:
                yield thing


def storeys(cls):
    """Classes of ours between a class and the farthest base of ours, that base not counted."""
    ours = [base for base in cls.__bases__ if base.__module__.startswith("sde_score")]
    return max((1 + storeys(base) for base in ours), default=0)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MOST_LINES
    assert list(long_functions(ast.parse(text))) == []


def test_no_class_stands_high_above_its_contract():
    towers = {f"{c.__module__}.{c.__qualname__}": storeys(c) for c in our_classes()}
    assert {name: n for name, n in towers.items() if n > MOST_STOREYS} == {}


def test_limits_see_what_they_should():
    source = "def f():\n" + "    x = 1\n" * MOST_LINES_OF_A_FUNCTION
    assert list(long_functions(ast.parse(source))) == [f"f ({MOST_LINES_OF_A_FUNCTION + 1} lines)"]
    assert not list(long_functions(ast.parse(source.replace("    x = 1\n", "", 1))))
