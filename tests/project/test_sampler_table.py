"""The README's table of samplers says what the samplers say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

from sde_score import samplers

README = Path(__file__).parents[2] / "README.md"


def row(name):
    """The line of the table for a sampler."""
    sampler, advice = samplers.create(name), samplers.GUIDE[name]
    paper, link = re.match(r"(.*?\d{4})\D.*?(https://[^\s,;]+)", sampler.reference).groups()
    noise = "drawn" if sampler.stochastic else "none"
    return (
        f"| `{name}` | {advice.family} | {sampler.convergence_order} | {sampler.evaluations} | "
        f"{noise} | {advice.nfe} | [{paper}]({link}) |"
    )


def test_readme_has_the_line_of_every_sampler():
    """On a difference, these are the lines to put there."""
    lines = [row(name) for name in samplers.available()]
    text = README.read_text()
    assert [line for line in lines if line not in text] == []
