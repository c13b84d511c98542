"""`sde-score tune`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from sde_score._core.checks import require_count
from sde_score._core.memory import require_memory
from sde_score.cli.options import RunCommand, require_output, saved, state_of, tuned_path
from sde_score.cli.output import say, show_record, show_table
from sde_score.samplers.tuning.tune import Tuned, starts_to_fit, tune

_SHOWN = 10  # samplers of the race


@dataclass(frozen=True, kw_only=True)
class Tune(RunCommand):
    """Find the sampler that suits a trained run at a number of network evaluations.

    Deterministic samplers race from the same noise against a fine solution, by successive halving,
    then those near the best; the coefficients and the times of the last few are fitted to the
    network. The loss is the geometric mean of the root mean square and the median of the errors;
    both are reported on fresh noise.

    For example:
        sde-score tune runs/digits --nfe 10
        sde-score sample runs/digits --nfe 10 --out samples.png
        sde-score tune runs/digits --nfe 20 --candidates adams-time unipc --out mine.json
    """

    nfe: int = 10
    """Network evaluations that one sample may cost."""

    out: Path | None = None
    """File to write, .json; tuned/nfe-10.json in the run, by the number, if not given."""

    candidates: tuple[str, ...] = ()
    """Deterministic samplers that race; all with a name, and those near the best, if not given."""

    num: int | None = None
    """Starts to race from and to fit to; 64 to 512, by the evaluations and the size of a sample, if
    not given."""

    iterations: int = 60
    """Steps of the fit, at most."""

    seconds: float = 120.0
    """Time for all but the errors on fresh noise, after which the best so far is taken; the result
    then depends on the machine."""

    takes_other = False

    def run(self) -> None:
        """Race, write, print the errors."""
        require_count(nfe=self.nfe)
        if self.num is not None:
            require_count(minimum=4, num=self.num)
        out = self.out or tuned_path(self.path, self.nfe)
        require_output(out, [".json"])
        run = self.open()
        num = self.num or starts_to_fit(run.model, self.nfe, run.event_shape)
        require_memory(30 * num * prod(run.event_shape), f"num={num}")
        fresh = 2 * num
        starts = torch.arange(num + num // 2 + fresh, device=run.device)
        began = time.perf_counter()
        found = tune(
            run.model,
            self.nfe,
            run.event_shape,
            candidates=self.candidates or None,
            num=num,
            fresh=fresh,
            seed=self.seed,
            iterations=self.iterations,
            seconds=self.seconds,
            condition=starts % run.num_classes if run.num_classes else None,
            batch_size=self.batch_size,
            target=f"{self.path}, {state_of(run)}",
            progress=self.progress,
        )
        saved(out, found.save)
        self._report(found, out, time.perf_counter() - began)

    def _report(self, found: Tuned, out: Path, seconds: float) -> None:
        if self.json:
            record = {"out": str(out), "sampler": found.spec, "nfe": found.nfe}
            levels = {"ratios": list(found.ratios), "complete": found.complete}
            errors = dict(found.file().errors)
            show_record({**record, **levels, "errors": errors, "seconds": seconds})
            return
        rows = [
            [each.text, str(each.starts), f"{each.errors.rms:.4g}", f"{each.errors.median:.4g}"]
            for each in found.race[:_SHOWN]
        ]
        title = f"the best of {len(found.race)} samplers: error at the end"
        show_table(["", "starts", "root mean square", "median"], rows, title)
        both = f"{found.errors.rms:.4g} root mean square, {found.errors.median:.4g} median"
        begun = f", begun at {found.begun}" if found.begun else ""
        say(f"{out}: {found.spec}{begun}, {found.nfe} NFE")
        say(f"on fresh noise {both}; {seconds:.1f} s")
        if not found.complete:
            say(f"hint: stopped at --seconds {self.seconds:g}; more time may find a better one")
