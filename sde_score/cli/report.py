"""`sde-score report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from sde_score._core.files import require_writable
from sde_score.cli.options import Command, Device, pick_device
from sde_score.cli.output import say, show_record
from sde_score.report import write_report, write_side_by_side
from sde_score.training import load_run


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write the page of a run, or one page about several.

    Of one run it is its report.html: training, samples, how to repeat it, and what evaluate,
    likelihood, posterior and compare have put there before. Several runs are put side by side: what
    differs in their configurations, training, samples from the same seeds, and what evaluate and
    likelihood have measured with --report.

    For example:
        sde-score report runs/digits
        sde-score report runs/a runs/b runs/c --out runs/abc.html
    """

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""

    out: Path | None = None
    """HTML file of several runs; report.html if not given."""

    data: str | None = None
    """Data to show, where those of the runs have moved or a network was trained elsewhere."""

    device: Device = "auto"
    """Where to draw samples."""

    def run(self) -> None:
        """Open the runs, draw, write."""
        if not self.paths:
            raise ValueError("paths is empty: name at least one run directory")
        single = len(self.paths) == 1
        if single and self.out is not None:
            raise ValueError(f"out={self.out} is for several runs: one run has its own report.html")
        out = self.paths[0] / "report.html" if single else self.out or Path("report.html")
        if out.suffix != ".html":
            raise ValueError(f"out={out} must end with .html")
        require_writable(out, "out")
        runs = [load_run(path, data=self.data) for path in self.paths]
        for run in runs:
            run.model.to(pick_device(self.device))
        page = write_report(runs[0]) if single else write_side_by_side(runs, out)
        if self.json:
            show_record({"runs": [str(path) for path in self.paths], "page": str(page)})
        else:
            say(f"page: {page}")
