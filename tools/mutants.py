"""Break each changed line of the package and see whether the tests of its file notice.

    python tools/mutants.py [SINCE] [--limit N]

SINCE is a commit (default HEAD: what is not committed yet). Each operator, comparison, sign and
number on a changed line of `sde_score/` is replaced in a copy of the checkout, one at a time, and
the tests that mirror the file run on the copy. A survivor is a wrong line that no test catches, or
an equivalent one. The exit status is the number of survivors.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAIRS = "Add Sub,Mult Div,Pow Mult,Mod Mult,And Or,Lt LtE,Gt GtE,Eq NotEq,Is IsNot,In NotIn"
NODES = [[getattr(ast, name) for name in pair.split()] for pair in PAIRS.split(",")]
SWAPS = {new: old for old, new in NODES} | dict(NODES)


def changed_lines(since):
    """Lines of each file of the package that differ from a commit."""
    command = ["git", "diff", "--unified=0", "--no-ext-diff", since, "--", "sde_score/*.py"]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found, name = {}, ""
    for line in diff.splitlines():
        if line.startswith("+++ "):
            name = line[6:]
        elif hunk := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            first = int(hunk[1])
            found.setdefault(name, set()).update(range(first, first + int(hunk[2] or 1)))
    return {name: lines for name, lines in found.items() if (ROOT / name).is_file()}


def broken(node):
    """The node with one thing wrong, or None where nothing of the kind is in it."""
    new = copy.deepcopy(node)
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
        new.op = SWAPS[type(node.op)]() if type(node.op) in SWAPS else None
        return new if new.op else None
    if isinstance(node, ast.Compare):
        new.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):
        return new.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        new.value = not node.value if isinstance(node.value, bool) else node.value + 1
    else:
        return None
    return new


def mutants(text, lines):
    """(line, before, after, text of the file) for everything that can be broken on the lines."""
    raw, starts = text.encode(), [0]
    for row in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(row.encode()))
    for node in ast.walk(ast.parse(text)):
        if getattr(node, "lineno", 0) in lines and (other := broken(node)):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            new = ast.unparse(other)
            new = new if isinstance(other, ast.AugAssign) else f"({new})"
            whole = raw[:begin] + new.encode() + raw[end:]
            yield node.lineno, raw[begin:end].decode(), new, whole.decode()


def tests_of(name):
    """The test file that mirrors a file, else the folder that mirrors its room."""
    path = Path("tests", *Path(name).parts[1:])
    path = path.with_name(f"test_{path.stem.lstrip('_')}.py")
    while not (ROOT / path).exists():
        path = path.parent
    return str(path)


def fails(home, tests, seconds=None):
    """Whether the tests on the copy of the checkout fail, or do not end."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests]
    environment = {**os.environ, "PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    options = {"cwd": home, "env": environment, "capture_output": True, "timeout": seconds}
    try:
        return subprocess.run(command, **options).returncode
    except subprocess.TimeoutExpired:
        return True


def main():
    """Try every mutant; print what survives."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("since", nargs="?", default="HEAD")
    options.add_argument("--limit", type=int, default=1000, help="mutants of a file, at most")
    chosen, caught = options.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        home, skip = Path(folder, "checkout"), [".git", ".venv", ".nox", "runs", "__pycache__"]
        shutil.copytree(ROOT, home, ignore=shutil.ignore_patterns(*skip))
        for name, lines in changed_lines(chosen.since).items():
            text, tests, start = (ROOT / name).read_text(), tests_of(name), time.monotonic()
            if fails(home, tests):
                sys.exit(f"{tests} fails before anything is broken")
            seconds = 10 + 3 * (time.monotonic() - start)
            for line, before, after, mutated in list(mutants(text, lines))[: chosen.limit]:
                (home / name).write_text(mutated)
                caught.append(bool(fails(home, tests, seconds)))
                verdict = "caught  " if caught[-1] else "SURVIVED"
                print(f"{verdict} {name}:{line}  {before}  ->  {after}", flush=True)
            (home / name).write_text(text)
    print(f"{len(caught)} mutants, {caught.count(False)} survived")
    sys.exit(min(caught.count(False), 99))


if __name__ == "__main__":
    main()
