"""`sde-score distill`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro

from sde_score._core.registry import parse_spec
from sde_score.cli.options import Command
from sde_score.cli.output import say, show_record
from sde_score.cli.train import changes_of
from sde_score.objectives import OBJECTIVES
from sde_score.training import distill


@dataclass(frozen=True, kw_only=True)
class Distill(Command):
    """Train a flow map from a run, for samples in one, two or four evaluations.

    The run is teacher and start; data, network and scaling are its own. What is written is a run as
    any other. The same command again continues what was stopped, to the same bits.

    For example:
        sde-score distill runs/digits --steps 4000 --out runs/few
        sde-score distill runs/digits --objective mean-flow --change learning_rate=3e-4 ema=0.9999
        sde-score distill runs/images --objective consistency --from-data --out runs/few
        sde-score sample runs/few --out samples.png
    """

    path: tyro.conf.Positional[Path]
    """Run directory of the teacher."""

    objective: str = "consistency"
    """Objective for flow maps: consistency, semigroup, mean-flow, lagrangian, scm, reflow, with
    arguments such as "mean-flow(share=0.5)"."""

    steps: int = 3000
    """Optimizer steps in all."""

    out: Path | None = None
    """Run directory to write; that of the teacher with -consistency, by the objective, if not
    given."""

    from_data: bool = False
    """Learn the flow from the data; the run gives the first weights alone."""

    data: str | None = None
    """Data of the run, where they have moved since, or for a network that was trained elsewhere."""

    change: tuple[str, ...] = ()
    """Other fields of the configuration, such as learning_rate=3e-4 batch_size=256; see sde-score
    train."""

    resume: bool = True
    """Continue a run found in the directory; otherwise refuse to touch it."""

    progress: bool = True
    """Show a progress bar."""

    shares = True

    def run(self) -> None:
        """Train, then print the commands for what was written."""
        name = OBJECTIVES.listed(parse_spec(self.objective)[0])
        run = distill(
            self.path,
            self.out or self.path.with_name(f"{self.path.absolute().name}-{name}"),
            self.objective,
            from_data=self.from_data,
            data=self.data,
            resume=self.resume,
            progress=self.progress,
            **{"steps": self.steps, **changes_of(self.change)},
        )
        last = (run.metrics or [{}])[-1]
        if self.json:
            show_record({"run": str(run.path), "teacher": run.config.teacher, **last})
            return
        say(
            f"{run.path}: {run.step} steps"
            + (f", loss {last['loss']:.4g}\n" if last else "\n")
            + f"next: sde-score sample {shlex.quote(str(run.path))} --out samples.png, "
            f"by {run.sampler}"
        )
