"""`sde-score samplers`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sde_score import samplers
from sde_score.cli.options import Command
from sde_score.cli.output import show_lines, show_record

_LINE = "{:<20}{:<20}{:>5}  {:>8}  {:<5}  {}"
_HEADER = _LINE.format("name", "family", "order", "NFE/step", "noise", "good at NFE")


@dataclass(frozen=True, kw_only=True)
class Samplers(Command):
    """List every sampler: family, order of convergence, cost per step, good budgets, paper.

    Those to try first come first. All but the last run on every SDE and on every model: trained
    networks and exact ones; the last takes few steps of flow maps. With --json their arguments,
    defaults and other names too.
    """

    def run(self) -> None:
        """Print the list."""
        listed = [samplers.describe(name) for name in samplers.available()]
        few = [samplers.describe(name) for name in samplers.FOR_FLOW_MAPS]
        if self.json:
            named = {"samplers": listed, "samplers of flow maps": few}
            show_record({key: [asdict(each) for each in each_of] for key, each_of in named.items()})
            return
        first = [each for each in listed if each.first_tier]
        others = [each for each in listed if not each.first_tier]
        lines = ["Try these first", *_table(first), "", "All others", *_table(others)]
        show_lines([*lines, "", "For flow maps", *_table(few)])


def _table(listed: Sequence[samplers.Description]) -> list[str]:
    """Two lines for each sampler: its facts in columns and its paper."""
    lines = [_HEADER]
    for each in listed:
        facts = (each.family, each.order, each.nfe_per_step, each.noise, each.good_at)
        lines.append(_LINE.format(each.name, *facts).rstrip())
        names = f"; also {', '.join(each.aliases)}" if each.aliases else ""
        if each.paper or names:
            lines.append(f"    {each.paper}{names}")
    return lines
