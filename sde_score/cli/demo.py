"""`sde-score demo`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sde_score.cli.options import Device, pick_device
from sde_score.cli.output import say, show_record, show_table
from sde_score.report import table
from sde_score.report.demo import CONFIG, demo


@dataclass(frozen=True)
class Demo:
    """Train on the bundled handwritten digits, sample by every family, measure, write a page.

    About three minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Run directory; a demo that was stopped continues."""

    seed: int = 0
    """Names all randomness."""

    device: Device = "auto"
    """Where to compute."""

    progress: bool = True
    """Show progress bars."""

    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Run the demo, print its table and where the page is."""
        config = replace(CONFIG, seed=self.seed, device=self.device)
        device = pick_device(self.device)
        page, rows, bits = demo(self.out, config=config, device=device, progress=self.progress)
        if self.json:
            record = {"bits_per_dim": bits.mean, "standard_error": bits.standard_error}
            show_record({"page": str(page), **record, "rows": [row.record() for row in rows]})
            return
        shown = table(rows)
        show_table(shown.header, shown.rows, shown.caption)
        say(f"held-out likelihood: {bits.mean:.3f} ± {bits.standard_error:.3f} bits/dim")
        say(f"page: {page}")
