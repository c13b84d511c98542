"""The list of slow tests names tests that exist, once each."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_slow_tests_are_tests():
    names = (TESTS / "slow.txt").read_text(encoding="utf-8").split()
    texts = [path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py")]
    defined = {name for text in texts for name in re.findall(r"^def (\w+)\(", text, flags=re.M)}
    assert names == sorted(set(names))
    assert sorted(set(names) - defined) == []
