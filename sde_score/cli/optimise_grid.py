"""`sde-score optimise-grid`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from sde_score._core.checks import require_count
from sde_score._core.memory import require_memory
from sde_score.cli.options import RunCommand, require_output, saved
from sde_score.cli.output import say, show_record, show_table
from sde_score.samplers.tuning.optimise_grid import FoundGrid, optimise_grid


@dataclass(frozen=True, kw_only=True)
class OptimiseGrid(RunCommand):
    """Find the time grid on which a sampler comes nearest to the exact flow of a trained run.

    The error at the end, against a fine solution from the same noise, is lowered by gradient
    through all steps with the network frozen. It is reported on the noise that the grid was fitted
    to and on fresh noise, before and after. The grid belongs to its sampler and number of steps.

    For example:
        sde-score optimise-grid runs/digits --nfe 10 --out grid.json
        sde-score optimise-grid runs/digits --sampler dpmpp-2m --nfe 8 --num 64 --out grid.json
        sde-score sample runs/digits --grid grid.json --out samples.png
    """

    out: Path = Path("grid.json")
    """File to write, .json."""

    sampler: str = "adams"
    """A deterministic sampler with steps of its own, such as adams, heun or "dpmpp-3m"; see
    sde-score samplers."""

    nfe: int = 10
    """Network evaluations that one sample may cost."""

    num: int = 128
    """Starts to fit to."""

    iterations: int = 60
    """Steps of the search."""

    method: str = "auto"
    """Method: gradient, search (no gradients, one step size at a time), or auto."""

    takes_other = False

    def run(self) -> None:
        """Search, write, print the errors."""
        require_output(self.out, [".json"])
        run = self.open()
        require_count(num=self.num)
        require_memory(30 * self.num * prod(run.event_shape), f"num={self.num}")
        classes = run.num_classes
        device = run.device
        starts = torch.arange(2 * self.num + self.num // 2, device=device)
        began = time.perf_counter()
        found = optimise_grid(
            run.model,
            self.sampler,
            self.nfe,
            run.event_shape,
            num=self.num,
            fresh=self.num,
            seed=self.seed,
            iterations=self.iterations,
            method=self.method,
            condition=starts % classes if classes else None,
            batch_size=self.batch_size,
            target=str(self.path),
            progress=self.progress,
        )
        self._report(found, time.perf_counter() - began)
        saved(self.out, found.save)

    def _report(self, found: FoundGrid, seconds: float) -> None:
        if self.json:
            record = {"out": str(self.out), "sampler": found.spec, "nfe": found.nfe}
            levels = {"ratios": list(found.grid.ratios), "method": found.method}
            errors = dict(found.file().errors)
            show_record({**record, **levels, "errors": errors, "seconds": seconds})
            return
        rows = [
            [f"{noise} noise, {which}", f"{errors.rms:.4g}", f"{errors.median:.4g}"]
            for (noise, which), errors in found.errors.items()
        ]
        title = f"{found.spec}, {found.nfe} NFE: error at the end"
        show_table(["", "root mean square", "median"], rows, title)
        say(f"{self.out}: {len(found.grid.ratios)} times by {found.method}, {seconds:.1f} s")
