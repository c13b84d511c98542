"""`sde-score samplers`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sde_score import samplers
from sde_score.cli.output import show_record, show_table


@dataclass(frozen=True)
class Samplers:
    """List every sampler: order of convergence, cost per step, what it accepts, where it is from.

    All of them run on every SDE and on every model: trained networks and exact ones.
    """

    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        """Print the list."""
        records = [_describe(name) for name in samplers.available()]
        if self.json:
            show_record({"samplers": records})
            return
        header = ["name", "order", "NFE per step", "noise", "arguments", "paper"]
        rows = [
            [r["name"], str(r["order"]), r["evaluations"], r["noise"], r["arguments"], r["paper"]]
            for r in records
        ]
        show_table(header, rows)


def _describe(name: str) -> dict[str, str]:
    sampler = samplers.create(name)
    arguments = [f"{f.name}={getattr(sampler, f.name)!r}" for f in dataclasses.fields(sampler)]
    return {
        "name": name,
        "order": str(sampler.convergence_order),
        "evaluations": sampler.evaluations,
        "noise": "drawn" if sampler.stochastic else "none",
        "arguments": ", ".join(arguments),
        "paper": sampler.reference,
    }
