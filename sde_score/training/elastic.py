"""Elastic runs: the batch of a run cut anew for another number of processes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sde_score._core.progress import say
from sde_score.training.config import TrainConfig, load_config
from sde_score.training.state import TrainState


def shared(config: TrainConfig, state: TrainState | None, processes: int, out: Path) -> TrainConfig:
    """The configuration with the share of one process in the batch of the run.

    A run that is continued by another number of processes keeps the examples of its steps and their
    order. Parts of a batch do not grow, so that memory is enough wherever it was.

    Args:
        config: of the run, whose `batch_size` is that of each process.
        state: of the checkpoint that is continued, None for a new run.
        processes: number of processes.
        out: run directory.

    Raises:
        ValueError: if the processes cannot share the batch evenly.
    """
    size, path = config.batch_size, out / "config.yaml"
    if state is None or size * processes == state.batch or not path.exists():
        return config
    if load_config(path).batch_size != size:  # another batch was asked for, which is refused
        return config
    whole, before = state.batch, state.batch // size
    if whole % processes:
        fitting = [str(n) for n in range(1, whole + 1) if whole % n == 0 and n <= 2 * before]
        raise ValueError(
            f"the {whole} examples of each step of the run in {out} cannot be shared evenly by "
            f"{processes} processes: start {', '.join(fitting[:-1])} or {fitting[-1]} processes"
        )
    size = whole // processes
    largest = config.batch_size // config.accumulate
    parts = next(n for n in range(1, size + 1) if size % n == 0 and size // n <= largest)
    say(
        [
            f"processes: {processes}, were {before}; batch_size={size} and accumulate={parts} keep "
            f"the {whole} examples of each step"
        ]
    )
    return dataclasses.replace(config, batch_size=size, accumulate=parts)
