"""`sde-score demo`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sde_score.cli.options import Command, Device, pick_device
from sde_score.cli.output import say, show, show_record
from sde_score.report import evaluation_table
from sde_score.report.demo import CONFIG, demo


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Train on the bundled handwritten digits, sample by every family, measure, write a page.

    About three minutes on two cores.
    """

    out: Path = Path("runs/demo")
    """Run directory; an interrupted demo continues."""

    seed: int = 0
    """Random seed."""

    device: Device = "auto"
    """Where to compute."""

    progress: bool = True
    """Show progress bars."""

    def run(self) -> None:
        """Run the demo; print its table and the path of its page."""
        config = replace(CONFIG, seed=self.seed, device=self.device)
        device = pick_device(self.device)
        page, evaluation, bits = demo(
            self.out, config=config, device=device, progress=self.progress
        )
        if self.json:
            record = {"bits_per_dim": bits.mean, "standard_error": bits.standard_error}
            show_record({"page": str(page), **record, **evaluation.record()})
            return
        show(evaluation_table(evaluation))
        say(f"held-out likelihood: {bits.mean:.3f} ± {bits.standard_error:.3f} bits/dim")
        say(f"page: {page}")
