"""`sde-score demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sde_score.cli.output import say, show_table
from sde_score.report import table
from sde_score.report.demo import demo


@dataclass(frozen=True)
class Demo:
    """Train on the bundled handwritten digits, sample by every family, measure, write a page.

    About three minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Run directory."""

    progress: bool = True
    """Show progress bars."""

    def run(self) -> None:
        """Run the demo, print its table and where the page is."""
        page, rows, bits = demo(self.out, progress=self.progress)
        shown = table(rows)
        show_table(shown.header, shown.rows, shown.caption)
        say(f"held-out likelihood: {bits.mean:.3f} ± {bits.standard_error:.3f} bits/dim")
        say(f"page: {page}")
