"""Formulas of docstrings, which Python's help shows well, in the form that Markdown takes."""

from __future__ import annotations

import re
from typing import Any

import griffe

_BLOCK = re.compile(r"^(?P<indent> *)\.\. math::(?P<body>.*(?:\n(?!\s*\n)(?P=indent) .*)*)", re.M)


class Formulas(griffe.Extension):
    """Turn `.. math::` blocks and `:math:` roles into dollar signs, before pages are rendered."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = in_dollars(obj.docstring.value)


def in_dollars(text: str) -> str:
    """A docstring with its formulas between dollar signs."""

    def block(match: re.Match[str]) -> str:
        formula = " ".join(match["body"].split())
        return f"\n{match['indent']}$$\n{match['indent']}{formula}\n{match['indent']}$$\n"

    return re.sub(r":math:`([^`]*)`", r"$\1$", _BLOCK.sub(block, text))
