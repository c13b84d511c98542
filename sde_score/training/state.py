"""Progress of a run: the content of `state.json`, beside the tensors of a checkpoint."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sde_score._core import __version__
from sde_score._core.checks import require_count, require_positive
from sde_score._core.conditions import ConditionShape, require_condition_shape
from sde_score._core.records import Record
from sde_score.data import DataSet, Scaling
from sde_score.scaling import ConditionScaling, same_scalings


@dataclass(frozen=True)
class DataFacts(Record):
    """Facts of the training data that a model is used with.

    Args:
        name: of the data set.
        count: number of training examples.
        event_shape: shape of one example.
        num_classes: number of classes, 0 without labels.
        scaling: the map between raw terms and model range.
        condition_shape: of one condition, or a dictionary from names to shapes and numbers of
            classes; empty without.
        condition_scaling: the map between raw conditions and model range, or one for each name.
    """

    name: str
    count: int
    event_shape: tuple[int, ...]
    num_classes: int
    scaling: Scaling
    condition_shape: ConditionShape = ()
    condition_scaling: ConditionScaling = field(default_factory=Scaling)

    def __post_init__(self) -> None:
        require_count(count=self.count)
        require_count(0, num_classes=self.num_classes)
        require_condition_shape(self.condition_shape)
        for index, size in enumerate(self.event_shape):
            require_count(**{f"event_shape[{index}]": size})

    def __str__(self) -> str:
        return f"{self.count} examples {self.event_shape} of {self.name!r}, {self.scaling}"

    def agrees(self, other: DataFacts) -> bool:
        """Whether these may be the same data, up to rounding in what was measured on them."""
        theirs = other.scaling, other.condition_scaling
        return (
            replace(self, scaling=theirs[0], condition_scaling=theirs[1]) == other
            and self.scaling.is_close(other.scaling)
            and same_scalings(self.condition_scaling, other.condition_scaling)
        )

    @classmethod
    def of(cls, dataset: DataSet) -> DataFacts:
        """The facts of a data set."""
        return cls(
            dataset.name,
            len(dataset),
            tuple(dataset.event_shape),
            dataset.num_classes,
            dataset.scaling,
            dataset.condition_shape,
            dataset.condition_scaling,
        )


@dataclass(frozen=True)
class TrainState(Record):
    """Progress of a run after a step.

    The position in the data is `step * batch`, and every random number is a function of the seed
    and the step: neither needs a state of its own, but for streams.

    Args:
        step: optimizer steps taken, at least 1.
        batch: examples per step over all processes.
        data: facts of the data.
        seconds: training time so far.
        loss_sum: losses since the last line of metrics, summed.
        grad_norm_sum: gradient norms since the last line of metrics, summed.
        window: number of steps in these sums.
        skipped: of these, steps left out because their gradients overflowed.
        loss_scale: of the next step, with fp16.
        clean_steps: steps since the scale was last changed.
        all_noise_levels: whether the objective trains every noise level, or data without noise
            alone; None in version 0.1.0, where it follows from the configuration.
        skipped_examples: examples since the last line of metrics that could not be read, averaged
            over processes.
        stream: where the reading of a stream is; None for other data.
        versions: of the software that wrote the checkpoint.
    """

    step: int
    batch: int
    data: DataFacts
    seconds: float = 0.0
    loss_sum: float = 0.0
    grad_norm_sum: float = 0.0
    window: int = 0
    skipped: int = 0
    loss_scale: float | None = None
    clean_steps: int = 0
    all_noise_levels: bool | None = None
    skipped_examples: float = 0.0
    stream: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=lambda: current_versions())

    def __post_init__(self) -> None:
        require_count(step=self.step, batch=self.batch)
        require_count(0, window=self.window, skipped=self.skipped, clean_steps=self.clean_steps)
        if self.loss_scale is not None:
            require_positive(loss_scale=self.loss_scale)


def require_continuation(
    state: TrainState, steps: int, batch_size: int, batch: int, data: DataFacts, out: Path
) -> None:
    """Refuse to continue a run with another batch, other data, or fewer steps than were taken.

    Args:
        state: of the checkpoint.
        steps: optimizer steps that are asked for.
        batch_size: examples per process and step.
        batch: examples per step over all processes.
        data: facts of the data at hand.
        out: run directory, for the message.

    Raises:
        ValueError: saying what differs.
    """
    if state.batch != batch:
        raise ValueError(
            f"batch_size={batch_size} makes {batch} examples a step over all processes, but the "
            f"run in {out} was begun with {state.batch}: choose batch_size x processes to match"
        )
    if not state.data.agrees(data):
        raise ValueError(
            f"the data have changed since the run in {out} was begun: they are {data}, they were "
            f"{state.data}"
        )
    if steps < state.step:
        raise ValueError(
            f"steps={steps} is less than the {state.step} taken by the run in {out}: "
            "give at least as many, or another folder"
        )


def current_versions() -> dict[str, str]:
    """Versions that the bits of a run depend on."""
    return {
        "sde_score": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
