"""`sde-score objectives`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from sde_score import objectives
from sde_score.cli.options import Command
from sde_score.cli.output import show_record, show_table


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
        columns = ["name", "needs", "costs", "converges to", "arguments", "paper"]
        show_table(columns, [[record[key] for key in columns] for record in records])


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
