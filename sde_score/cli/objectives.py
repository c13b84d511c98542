"""`sde-score objectives`."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass

from sde_score import objectives
from sde_score.cli.options import Command
from sde_score.cli.output import show_lines, show_record

_LINE = "{:<26}{:<9}{}"
_HEADER = _LINE.format("name", "needs", "costs")


@dataclass(frozen=True, kw_only=True)
class Objectives(Command):
    """List every objective with its needs, its cost and its limit.

    Costs are passes through the network per example: F forward, B backward, D backward through a
    backward pass. Every energy has a score, so what needs a score takes an energy as well.
    """

    def run(self) -> None:
        """Print the list."""
        records = [_describe(name) for name in objectives.available()]
        if self.json:
            show_record({"objectives": records})
            return
        show_lines([_HEADER, *(line for record in records for line in _lines(record))])


def _lines(record: dict[str, str]) -> list[str]:
    """An objective in columns; below it the limit of its score, its arguments and its paper."""
    first = _LINE.format(record["name"], record["needs"], record["costs"]).rstrip()
    texts = (f"converges to {record['converges to']}", record["arguments"])
    below = [line for text in texts for line in textwrap.wrap(text, 76)]
    return [first, *(f"    {line}" for line in [*below, record["paper"]])]


def _describe(name: str) -> dict[str, str]:
    constructor = objectives.OBJECTIVES[name]
    parameters = inspect.signature(constructor).parameters.values()
    # A distribution that must be named stands here for any other.
    required = {p.name: "mixture" for p in parameters if p.default is p.empty}
    objective = constructor(**required)
    return {
        "name": name,
        "needs": objective.needs,
        "costs": objective.cost,
        "converges to": objective.converges_to,
        "arguments": ", ".join(
            p.name if p.name in required else f"{p.name}={p.default!r}" for p in parameters
        ),
        "paper": objective.reference,
    }
