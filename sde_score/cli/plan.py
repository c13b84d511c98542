"""`sde-score plan`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from sde_score.cli.options import Command
from sde_score.cli.output import show, show_record
from sde_score.evaluation import GPUS, Cluster, Estimate, TrainingCost, estimates, training_cost
from sde_score.report import gpu_table, step_table
from sde_score.training import TrainConfig, load_config


@dataclass(frozen=True, kw_only=True)
class Plan(Command):
    """Say what a training needs before it is begun: FLOPs, memory, time and cost, here and on GPUs.

    A few small steps are taken here, and nothing is written. The batch is that of a step over all
    GPUs. With a run directory or a config.yaml, other flags change what it says.

    For example:
        sde-score plan --data digits --steps 3000
        sde-score plan runs/digits --gpu a100 --price 2
        sde-score plan --data photos/ --backbone dit --batch-size 1024 --gpu h100 --precision bf16
        sde-score plan config.yaml --gpu "custom(half=4e14, memory=64e9, ...)" --json
    """

    source: tyro.conf.Positional[Path | None] = None
    """Run directory or config.yaml; without one the flags say all, as for train."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    gpu: str = "h100"
    """Kind of GPU: h100, h200, a100, v100, l40s, rtx4090, or custom(half=..., ...)."""

    gpus: int = 1024
    """Largest number of GPUs."""

    utilisation: float = 0.3
    """Share of the peak FLOP/s that matrix products and convolutions reach, in (0, 1]."""

    per_machine: int = 8
    """GPUs of one machine."""

    network: float = 50e9
    """Bytes per second between machines, for each GPU and direction."""

    price: float = 0.0
    """Price of one GPU for an hour, for the cost."""

    seconds: float = 10.0
    """About how long to measure here."""

    progress: bool = True
    """Show a progress bar."""

    @classmethod
    def defaults(cls, words: Sequence[str]) -> Plan | None:
        """The command with the configuration of the run or file that the words name, if any.

        Raises:
            CheckpointError: if it cannot be read.
        """
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                found = tyro.cli(cls, args=list(words[1:]))
            except SystemExit:  # help, or a mistake that is said by who parses in earnest
                return None
        file = found.file
        return cls(config=load_config(file)) if file is not None and file.exists() else None

    @property
    def file(self) -> Path | None:
        """The configuration's file, if one is named."""
        is_run = self.source is not None and self.source.is_dir()
        return self.source / "config.yaml" if is_run and self.source else self.source

    def run(self) -> None:
        """Measure, then print the tables."""
        if self.file is not None:
            load_config(self.file)  # which says what is wrong with one that is not there
        gpu = GPUS.resolve(self.gpu, name="gpu")
        cluster = Cluster(gpu, self.utilisation, self.per_machine, self.network, self.price)
        cost = training_cost(self.config, self.seconds)
        found = estimates(cost, cluster, self.gpus)
        if self.json:
            show_record(_record(cost, found))
            return
        show(step_table(cost))
        show(gpu_table(found, cost, self.gpu, cluster))


def _record(cost: TrainingCost, found: list[Estimate]) -> dict[str, Any]:
    micro, (forward, backward) = cost.micro_batch, cost.flops
    return {
        "parameters": cost.parameters,
        "flops_per_example": {"forward": forward, "backward": backward},
        "flops_per_step": cost.step_flops(),
        "memory": {**dataclasses.asdict(cost.state), "activations": cost.activations(micro)},
        "bytes_per_example": cost.example,
        "batch_size": cost.config.batch_size,
        "steps": cost.config.steps,
        "here": {
            "device": cost.device,
            "precision": cost.config.precision,
            "seconds_per_step": cost.step_seconds(),
            "cpu_seconds_per_step": cost.step_seconds(cpu=True),
            "seconds": cost.config.steps * cost.step_seconds(),
            "peak_memory": cost.peak(micro),
        },
        "precision": cost.precision,
        "estimates": [dataclasses.asdict(one) for one in found],
    }
