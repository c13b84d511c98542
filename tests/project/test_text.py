"""The text of the repository: no traces of where it was written, documented names, safe calls."""

import ast
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sde_score

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

REPO = Path(__file__).parents[2]
PACKAGE = REPO / "sde_score"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Letters in brackets keep this file from matching itself.
ANYWHERE = {
    "a path of one machine": r"(?<![\w./~-])/([w]ork|[r]oot|[h]ome/\w+|[o]pt/(pypi|wheels))\b",
    "a package registry": (
        r"[p]ypi\.org|[p]ythonhosted\.org|[a]naconda\.org|[d]ownload\.pytorch\.org|[i]ndex-url"
    ),
    "a word from backstage": (
        r"\b[w]orkplace\b|\b([t]his|[o]ther|[h]elper) sessions?\b|\b[i]ssue #?\d"
        r"|\b[n]ote on the issue\b|\b[t]he brief (says|asks)\b|\b[m]erge request\b"
    ),
    "a tool that wrote it": r"(?i)\b[a]nthropic\b|\b[c]hatgpt\b|\b[c]laude\b|\b[c]o-authored-by\b",
}
OUTSIDE_TESTS = {"a path of one machine": r"(?<![\w./~-])/[t]mp\b"}

UNSAFE_CALLS = {
    "torch.load",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
}


@cache
def repository_files():
    """Every text file that is tracked, or would be: paths relative to the root, and their text."""
    if not (REPO / ".git").exists():
        pytest.skip("not a git checkout: there is no list of files to read")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, capture_output=True, check=True).stdout
    files = {}
    for name in filter(None, map(os.fsdecode, listed.split(b"\0"))):
        content = (REPO / name).read_bytes() if (REPO / name).is_file() else b""
        if b"\0" not in content:
            files[name] = content.decode("utf-8")
    return files


def traces(name, text):
    """One line for every forbidden word of a file."""
    patterns = [*ANYWHERE.items(), *(() if name.startswith("tests/") else OUTSIDE_TESTS.items())]
    for what, pattern in patterns:
        for match in re.finditer(pattern, text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{name}:{line} holds {what}: {match.group()}"


def faults(tree):
    """Line and reason of every statement that the package must not contain."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            names |= {(a.asname or a.name): f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield node.lineno, "assert"
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "bare except"
        elif isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = names.get(first, first) + dot + rest
            pickles = any(
                k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords
            )
            plain = called == "torch.load" and any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
            )
            if (called in UNSAFE_CALLS and not plain) or pickles:
                yield node.lineno, f"unsafe {called}"


def undocumented(tree, name):
    """What is public in a file and has no docstring; methods are left to ruff."""
    if (not name.startswith("_") or name.startswith("__")) and not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        named = isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if named and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node.name


@cache
def pyproject():
    return tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def pins():
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    found = {}
    for requirement in wanted:
        found.setdefault(canonical(requirement.name), []).append(requirement)
    return found


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_file_tells_where_it_was_written():
    assert [line for item in repository_files().items() for line in traces(*item)] == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("sde_score/a.py", "open('/" + "work/x')", 1),
        ("tests/a.py", "x\n/" + "root/x and /" + "root", 2),
        ("README.md", "/" + "tmp/x", 1),
        ("tests/a.py", "/" + "tmp/x", 0),
        ("README.md", "--index" + "-url x", 1),
        ("README.md", "https://pypi" + ".org/simple", 1),
        ("README.md", "see issue" + " 12, as the brief" + " says", 2),
        ("a.py", "Co-authored" + "-by", 1),
        (
            "README.md",
            "network/root, a/work/b, ../shared, ODE integrator, scope='session', an issue",
            0,
        ),
    ],
)
def test_traces_are_found(name, text, found):
    assert len(list(traces(name, text))) == found


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "LICENSE"])
def test_front_page_exists(name):
    assert len((REPO / name).read_text(encoding="utf-8")) > 100


def test_every_public_name_is_documented():
    lacking = [
        f"{path.relative_to(REPO)}: {what}"
        for path in SOURCES
        for what in undocumented(ast.parse(path.read_text(encoding="utf-8")), path.name)
    ]
    assert lacking == []


def test_package_has_no_assert_bare_except_or_unsafe_load():
    found = [
        f"{path.relative_to(REPO)}:{line} {what}"
        for path in SOURCES
        for line, what in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("assert x", True),
        ("try:\n    x\nexcept:\n    y", True),
        ("try:\n    x\nexcept OSError:\n    y", False),
        ("import torch\ntorch.load(f, weights_only=True)", False),
        ("import torch\ntorch.load(f, weights_only=flag)", True),
        ("import torch as t\nt.load(f)", True),
        ("from torch import load as read\nread(f)", True),
        ("from pickle import Unpickler\nUnpickler(f)", True),
        ("import numpy as np\nnp.load(f, allow_pickle=True)", True),
        ("import numpy as np\nnp.load(f, allow_pickle=False)", False),
        ("from safetensors.torch import load\nload(f)", False),
        ("model.eval()\nast.literal_eval(x)", False),
    ],
)
def test_faults_are_found(source, found):
    assert bool(list(faults(ast.parse(source)))) is found


def test_undocumented_names_are_found():
    tree = ast.parse("def f(): ...\nclass C: ...\ndef _g(): ...\ndef h():\n    'x'")
    assert list(undocumented(tree, "a.py")) == ["the module", "f", "C"]
    assert list(undocumented(tree, "_a.py")) == ["f", "C"]
    assert list(undocumented(tree, "__init__.py")) == ["the module", "f", "C"]


def test_version_is_the_one_in_pyproject():
    assert sde_score.__version__ == pyproject()["version"]


def test_constraints_pin_one_version_each():
    for name, requirements in pins().items():
        for requirement in requirements:
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            assert "*" not in specifier.version
        for python in ("3.10", "3.11", "3.14"):
            markers = [r.marker for r in requirements]
            here = [m is None or m.evaluate({"python_version": python}) for m in markers]
            assert sum(here) == 1, f"{name} on Python {python}"


@pytest.mark.parametrize("group", ["dependencies", *pyproject()["optional-dependencies"]])
def test_pins_lie_within_the_ranges_of_pyproject(group):
    """What a newcomer installs is pinned in full; the other extras only where a pin exists."""
    extras = pyproject()["optional-dependencies"]
    texts = pyproject()["dependencies"] if group == "dependencies" else extras[group]
    for requirement in map(Requirement, texts):
        found = pins().get(canonical(requirement.name), [])
        assert found or group not in ("dependencies", "dev"), f"{requirement} has no pin"
        for pin in found:
            (specifier,) = pin.specifier
            assert requirement.specifier.contains(specifier.version, prereleases=True), str(pin)
