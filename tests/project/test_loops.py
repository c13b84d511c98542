"""Every loop ends: a count bounds it, or it takes from what shrinks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SOURCES = sorted((REPO / "sde_score").rglob("*.py"))
ENDLESS = {"itertools.count", "itertools.cycle", "itertools.repeat"}
SHRINKS = {"pop", "popleft", "read", "readline"}


def called(node: ast.AST) -> str:
    """The last name of what a call calls."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def shrinks(nodes: list[ast.AST]) -> bool:
    """Whether something is popped or read from a file."""
    calls = [each for node in nodes for each in ast.walk(node) if isinstance(each, ast.Call)]
    return any(called(call) in SHRINKS for call in calls)


def looked_at(node: ast.While) -> set[str]:
    """What a loop of `while` looks at before each round."""
    return {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}


def popped(node: ast.While) -> set[str]:
    """What its rounds take from."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    takes = [call.func.value for call in calls if called(call) in SHRINKS]
    return {each.id for each in takes if isinstance(each, ast.Name)}


def unbounded(tree: ast.AST) -> list[str]:
    """Loops that nothing is seen to end, by line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.While) and not looked_at(node) & popped(node):
            found.append(f"line {node.lineno}: while {ast.unparse(node.test)}")
        elif isinstance(node, ast.Call) and called(node) == "iter" and len(node.args) == 2:
            found += [] if shrinks(node.args) else [f"line {node.lineno}: {ast.unparse(node)}"]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ENDLESS:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module == "itertools":
            names = {f"itertools.{alias.name}" for alias in node.names} & ENDLESS
            found += [f"line {node.lineno}: {name}" for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPO)))
def test_every_loop_has_a_bound(path):
    """`for _ in range(most)` with an error behind it, a stack that is emptied, a file that is
    read."""
    assert unbounded(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "ends"),
    [
        ("while True: f()", False),
        ("while high - low > 1e-9: low, high = halved(low, high)", False),
        ("while x < 1: x += step", False),
        ("while stack: stack.append(stack.pop())", True),
        ("while groups and groups[-1] < 1: groups.pop()", True),
        ("while groups: others.pop()", False),
        ("while block := file.read(9): f(block)", True),
        ("for line in iter(lambda: file.readline(9), ''): f()", True),
        ("for x in iter(f, None): g()", False),
        ("for i in itertools.count(): f()", False),
        ("from itertools import cycle, chain", False),
        ("from itertools import chain", True),
        ("text.count('a')", True),
        ("for x in iter(rows): f()", True),
    ],
)
def test_what_counts_as_a_bound(source, ends):
    assert (unbounded(ast.parse(source)) == []) == ends
