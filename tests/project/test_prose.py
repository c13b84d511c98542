"""The words of the package: the field's nouns, and sentences that stand without their neighbors."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SOURCES = sorted((REPO / "sde_score").rglob("*.py"))
SCRIPTS = [
    path
    for folder in ("tests", "benchmarks", "examples")
    for path in sorted((REPO / folder).rglob("*.py"))
    if path != Path(__file__)
]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]

WORDS = {
    "distribution": r"\blaws?\b",
    "integer": r"\bwhole numbers?\b",
    "what is meant, said out": r"\bas there\b(?! (?:are|is)\b)|\bsee the top of this file\b",
    "random seed": r"\bnames (?:all randomness|the (?:set|subsets|draws|noise|starts|pairs))\b",
}
# A module's first line names a thing; these words open a riddle instead.
RIDDLE = re.compile(r"(?:What|How|Which|Whether|Where|Looking|When)\b")


def faults(text):
    """One line for each word that has a better one."""
    for better, pattern in WORDS.items():
        for match in re.finditer(pattern, text, flags=re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            yield f"line {line}: {match.group()!r}: better {better}"


def opening(source):
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


@pytest.mark.parametrize(
    "path", [*SOURCES, *SCRIPTS, *PAGES], ids=lambda p: str(p.relative_to(REPO))
)
def test_words_are_those_of_the_field(path):
    assert list(faults(path.read_text(encoding="utf-8"))) == []


def test_modules_open_with_a_noun():
    riddles = {
        str(path.relative_to(REPO)): line
        for path in SOURCES
        if RIDDLE.match(line := opening(path.read_text(encoding="utf-8")))
    }
    assert riddles == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the law of x", 1),
        ("Laws are", 1),
        ("a whole\nnumber", 0),
        ("must be a whole number", 1),
        ("as there, t is", 1),
        ("as many as there are", 0),
        ("seed: names the set.", 1),
        ("claws, flaws, lawful, an integer, the distribution", 0),
    ],
)
def test_faults_are_found(text, found):
    assert len(list(faults(text))) == found


def test_riddles_are_found():
    assert RIDDLE.match(opening('"""What methods share."""'))
    assert not RIDDLE.match(opening('"""Butcher tableaux.\n\nWhat they hold."""'))
