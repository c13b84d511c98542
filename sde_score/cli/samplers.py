"""`sde-score samplers`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sde_score import samplers
from sde_score.cli.options import Command
from sde_score.cli.output import show_record, show_table


@dataclass(frozen=True, kw_only=True)
class Samplers(Command):
    """List every sampler: family, order of convergence, cost per step, good budgets, paper.

    All of them run on every SDE and on every model: trained networks and exact ones. With --json
    their arguments and defaults too.
    """

    def run(self) -> None:
        """Print the list."""
        records = [_describe(name) for name in samplers.available()]
        if self.json:
            show_record({"samplers": records})
            return
        header = ["name", "family", "order", "NFE per step", "noise", "good at NFE", "paper"]
        keys = ("name", "family", "order", "evaluations", "noise", "nfe", "paper")
        show_table(header, [[record[key] for key in keys] for record in records])


def _describe(name: str) -> dict[str, str]:
    sampler = samplers.create(name)
    fields = [f.name for f in dataclasses.fields(sampler) if f.repr]
    return {
        "name": name,
        "family": samplers.GUIDE[name].family,
        "order": str(sampler.convergence_order),
        "evaluations": sampler.evaluations,
        "noise": "drawn" if sampler.stochastic else "none",
        "nfe": samplers.GUIDE[name].nfe,
        "arguments": ", ".join(f"{field}={getattr(sampler, field)!r}" for field in fields),
        "paper": sampler.reference,
    }
