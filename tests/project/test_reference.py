"""Reference numbers that ship with the repository: complete, small, each with its source."""

from __future__ import annotations

import json
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
FOLDER = TESTS / "reference"
NAMES = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def test_every_number_that_a_test_asks_for_by_name_ships():
    """A test that would skip in every public clone guards nothing."""
    sources = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    asked = {name for text in sources for name in re.findall(r'\breference\("(\w+)"\)', text)}
    assert asked <= set(NAMES)
    assert len(asked) >= 14


def test_they_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 9_000_000


def test_each_says_where_it_is_from():
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        source = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["source"]
        assert source["repository"], name
        assert f"`{name}`" in page, name
