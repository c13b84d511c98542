"""`sde-score train`."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from sde_score.cli.options import Command
from sde_score.cli.output import say, show_record
from sde_score.training import TrainConfig, load_config, train
from sde_score.training.presets import preset


@dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a score or an energy and write a run directory.

    The same command again continues what was stopped, to the same bits; what is left out beside
    --out is as the run has it. On several processes: torchrun --nproc_per_node 2 -m -- sde_score
    train ..., with --shard for networks that one GPU cannot hold.

    For example:
        sde-score train --data digits --sde vp --steps 3000 --out runs/digits
        sde-score train --data images/ --sde "ve(sigma_max=30)" --precision bf16 --out runs/images
        sde-score train --data table.csv --prediction velocity --sde rectified --out runs/table
        sde-score train --data ring --objective hutchinson --model energy --out runs/energy
        sde-score train --data moons --objective "contrastive-divergence(k=10)" --out runs/cd
        sde-score train --data new/ --init-from runs/images --learning-rate 1e-4 --out runs/new
        sde-score train --preset edm --data cifar10.parquet --steps 50000 --out runs/edm
        sde-score train --out runs/digits --steps 6000
        sde-score train --out runs/digits --continue-with learning_rate=1e-4
        sde-score train --out runs/digits --log tensorboard --sample-every 500
    """

    out: Path
    """Run directory; made if it is not there, continued if it holds this run."""

    preset: str | None = None
    """Published or proven configuration by name, such as edm, song-vp, ddpm, mnist-fast or tables;
    flags that are given besides override it."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    log: tuple[str, ...] = ()
    """Trackers that get measurements and samples besides metrics.jsonl: tensorboard, wandb,
    trackio, mlflow or others that accelerate knows."""

    continue_with: tuple[str, ...] = ()
    """Changes to a run on its way, such as learning_rate=1e-4 clip=0.5; of learning_rate,
    schedule, warmup, clip, ema, weight_decay and precision."""

    resume: bool = True
    """Continue a run found in the directory; otherwise refuse to touch it."""

    progress: bool = True
    """Show a progress bar, and what was chosen where the configuration leaves it open."""

    @classmethod
    def defaults(cls, words: Sequence[str]) -> Train | None:
        """The command with the fields of the preset that the words name, or of the run that is in
        their directory; None without either.

        Raises:
            ValueError: for an unknown preset.
            CheckpointError: if the run's configuration is damaged.
        """
        if name := _last(words, "--preset"):
            return cls(out=tyro.MISSING, preset=name, config=preset(name).config())
        file = Path(_last(words, "--out") or "") / "config.yaml"
        return cls(out=tyro.MISSING, config=load_config(file)) if file.is_file() else None

    shares = True

    def run(self) -> None:
        """Train, then print the commands for what was written."""
        from sde_score.report.training_samples import write_samples

        if self.preset is not None and self.progress:
            say(str(preset(self.preset)))
        run = train(
            self.config,
            self.out,
            resume=self.resume,
            continue_with=changes_of(self.continue_with),
            progress=self.progress,
            on_samples=write_samples,
            log=self.log,
        )
        last = (run.metrics or [{}])[-1]  # of no measurement, where the file was lost
        if self.json:
            show_record({"run": str(run.path), "parameters": _count(run.model), **last})
            return
        say(
            f"{run.path}: {run.step} steps, "
            + (f"loss {last['loss']:.4f}, " if last else "")
            + f"{_count(run.model):,} parameters\n"
            f"next: sde-score sample {shlex.quote(str(run.path))} --out samples.png"
        )


def _last(words: Sequence[str], flag: str) -> str | None:
    """The value of a flag in the words, as `--flag value` or `--flag=value`; None if not there."""
    joined = [word.split("=", 1)[1] for word in words if word.startswith(f"{flag}=")]
    apart = [value for word, value in pairwise(words) if word == flag]
    return [None, *joined, *apart][-1]


def changes_of(words: Sequence[str]) -> dict[str, Any]:
    """Values by name, of words such as `clip=0.5`."""
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign:
            raise ValueError(f"{word!r} must be name=value, such as clip=0.5")
        try:
            found[name.replace("-", "_")] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.replace("-", "_")] = value
    return found


def _count(model: object) -> int:
    return sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
