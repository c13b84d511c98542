"""Cost of a training step on this machine, measured by a few of them."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from sde_score._core.checks import require_positive
from sde_score._core.progress import progress_bar
from sde_score.evaluation.planning.ledger import Ledger, Operation, at_batch, total
from sde_score.evaluation.planning.memory import peak_memory, reset_peak
from sde_score.models import EnergyBased
from sde_score.training import Batches, Job, TrainConfig, Trainer, prepare
from sde_score.training.config import is_auto
from sde_score.training.half_precision import autocast, suits_bfloat16
from sde_score.training.loss import LossModule
from sde_score.training.recipe import batches_of

_FEWEST, _MOST = 5, 50  # turns of a measurement
_CLOCKS = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}


@dataclass(frozen=True)
class State:
    """Bytes that training keeps from step to step, on one device.

    Args:
        weights: of the network and the objective, with buffers.
        gradients: of what is trained.
        optimizer: what it remembers.
        averages: the running average of the weights, and those of snapshots.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int

    @property
    def total(self) -> int:
        """Sum of all."""
        return self.weights + self.gradients + self.optimizer + self.averages


@dataclass(frozen=True)
class Line:
    """A quantity that grows with the examples: `start + slope * examples`."""

    start: float
    slope: float

    def __call__(self, examples: float) -> float:
        """Its value."""
        return self.start + self.slope * examples

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """The line through two points, neither falling nor below 0 at its start."""
        (a, at_a), (b, at_b) = few, many
        slope = max((at_b - at_a) / (b - a), 0.0) if b > a else at_b / b
        start = at_b - slope * b
        return cls(start, slope) if start >= 0 else cls(0.0, at_b / b)


@dataclass(frozen=True)
class TrainingCost:
    """Cost of the steps of one training, as measured here.

    Args:
        config: of the training, resolved.
        parameters: number of trained ones.
        state: what is kept from step to step.
        forward: operations of the loss, at one and two examples.
        backward: operations of its derivatives, at one and two examples.
        update: operations of the optimizer, clipping and averaging.
        activations: most bytes alive during a step beside the state, by examples.
        example: bytes of one example as it is read.
        seconds: wall time of forward and backward pass of a micro-batch, reading included.
        update_seconds: wall time of the rest of a step.
        cpu_seconds: processor time of forward and backward pass, of all threads.
        update_cpu_seconds: processor time of the rest.
        peak: most bytes of this device or process, by examples of a micro-batch.
        device: kind of device that was measured.
        precision: in which operations and activations are counted: that of the configuration, or
            the one that training takes on a GPU where it is left open.
    """

    config: TrainConfig
    parameters: int
    state: State
    forward: tuple[list[Operation], list[Operation]]
    backward: tuple[list[Operation], list[Operation]]
    update: list[Operation]
    activations: Line
    example: float
    seconds: Line
    update_seconds: float
    cpu_seconds: Line
    update_cpu_seconds: float
    peak: Line
    device: str
    precision: str

    @property
    def micro_batch(self) -> int:
        """Examples of one forward pass."""
        return self.config.batch_size // self.config.accumulate

    @property
    def flops(self) -> tuple[float, float]:
        """FLOPs of forward and backward pass for each further example."""
        return tuple(  # type: ignore[return-value]
            total(two).flops - total(one).flops for one, two in (self.forward, self.backward)
        )

    def step_flops(self) -> float:
        """FLOPs of a step."""
        pairs = (self.forward, self.backward)
        return self.config.accumulate * sum(
            total(at_batch(*pair, self.micro_batch)).flops for pair in pairs
        )

    def step_seconds(self, cpu: bool = False) -> float:
        """Time of a step here; of the processor, summed over threads, if `cpu`."""
        line = self.cpu_seconds if cpu else self.seconds
        rest = self.update_cpu_seconds if cpu else self.update_seconds
        return self.config.accumulate * line(self.micro_batch) + rest


def training_cost(config: TrainConfig, seconds: float = 10.0) -> TrainingCost:
    """Measure the training steps of a configuration by a few small ones.

    Operations are counted at one and two examples. Time and memory are measured at two batch sizes
    up to the micro-batch, as large as the time allows, and lie on a line through them.

    Args:
        config: as for `train`; nothing is written beside a temporary folder.
        seconds: about how long the steps take that are measured, > 0; one of one example is taken
            in any case.

    Raises:
        ValueError: for a configuration that `train` would refuse.
        DataError: if the data cannot be loaded.
    """
    require_positive(seconds=seconds)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError("a training is planned by one process: start it without torchrun")
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        job = prepare(
            dataclasses.replace(config, compile=False, sample_every=0, excess=False),
            Path(folder) / "run",
        )
        precision = config.precision
        if is_auto(precision):
            twice = job.objective.second_derivatives or isinstance(job.model, EnergyBased)
            suits = suits_bfloat16(job.objective, job.model, twice)
            precision = "bf16" if suits else "float32"
        with progress_bar(total=5, name="measure", unit="part", delay=0) as bar:
            return _measured(job, seconds, precision, bar)


def _measured(job: Job, seconds: float, precision: str, bar: Any) -> TrainingCost:
    trainer = Trainer(job, progress=False)
    device = trainer.device
    steps = _Steps(trainer, job)
    began = time.perf_counter()
    steps.both(1)  # warm-up, after which optimizer and gradients are there
    trainer.update.apply(0)
    steps.both(1)
    update, _ = _noted(lambda: trainer.update.apply(1))
    bar.update()
    loss = cast(LossModule, trainer.loss)
    usual, loss.autocast = loss.autocast, autocast(device.type, precision)
    (f1, b1, p1), (f2, b2, p2) = steps.noted(1), steps.noted(2)
    loss.autocast = usual
    state = _state(trainer)
    bar.update()
    micro = job.config.batch_size // job.config.accumulate
    left = max(seconds - (time.perf_counter() - began), seconds / 2)
    many = 1
    for _ in range(2):  # a larger batch is cheaper by the example: look again
        # Where other programs share the processor, its time is what a step takes.
        each = min(_timed(partial(steps.both, many)).values()) / many
        many = max(many, min(micro, int(left / (2 * _FEWEST * max(each, 1e-9)))))
    few = max(1, many // 2)
    bar.update()
    peaks = []
    for batch in (few, many):
        reset_peak(device)
        steps.both(batch)
        trainer.update.apply(2)
        peaks.append(peak_memory(device))
    bar.update()
    times, rest = _turns(steps, (few, many), left)
    lines = {n: Line.through((few, times[few][n]), (many, times[many][n])) for n in _CLOCKS}
    bar.update()
    raw = job.examples.raw(torch.arange(1))
    return TrainingCost(
        job.config,
        sum(p.numel() for p in trainer.update.parameters.values()),
        state, (f1, f2), (b1, b2), update, Line.through((1, p1), (2, p2)), float(raw.nbytes),
        lines["seconds"], rest["seconds"], lines["cpu_seconds"], rest["cpu_seconds"],
        Line.through((few, peaks[0]), (many, peaks[1])), device.type, precision,
    )  # fmt: skip


class _Steps:
    """Parts of a training step at any batch size."""

    def __init__(self, trainer: Trainer, job: Job) -> None:
        self.trainer, self.job = trainer, job
        self.weights = list(trainer.update.parameters.values())
        self._batches: dict[int, Batches] = {}

    def both(self, batch: int) -> None:
        for backward in self._parts(batch):
            backward()

    def noted(self, batch: int) -> tuple[list[Operation], list[Operation], int]:
        """Operations forward and backward, and most bytes alive beside the state."""
        self.both(batch)  # so that gradients are there
        with Ledger() as ledger:
            (backward,) = self._parts(batch)
            forward = len(ledger.operations)
            backward()
            del backward
        return ledger.operations[:forward], ledger.operations[forward:], ledger.peak

    def _batches_of(self, batch: int) -> Batches:
        if batch not in self._batches:
            config = dataclasses.replace(self.job.config, batch_size=batch, accumulate=1)
            job = dataclasses.replace(self.job, config=config)
            self._batches[batch] = batches_of(job, 0, 1, self.trainer.device)
        return self._batches[batch]

    def _parts(self, batch: int) -> Iterator[Callable[[], None]]:
        with self.trainer.noise.step(0):
            for part in self._batches_of(batch).step(0):
                loss = self.trainer.update.scaled(self.trainer.loss(*part))
                yield lambda loss=loss: loss.backward(inputs=self.weights)  # type: ignore[misc]


def _noted(what: Callable[[], object]) -> tuple[list[Operation], int]:
    with Ledger() as ledger:
        what()
    return ledger.operations, ledger.peak


def _turns(
    steps: _Steps, batches: tuple[int, int], left: float
) -> tuple[dict[int, dict[str, float]], dict[str, float]]:
    """Median times of both passes at each batch size, which take turns, and of the update."""
    passes: dict[int, list[dict[str, float]]] = {batch: [] for batch in batches}
    updates: list[dict[str, float]] = []
    began = time.perf_counter()
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - began > left:
            break
        for batch in passes:
            passes[batch].append(_timed(partial(steps.both, batch)))
            updates.append(_timed(partial(steps.trainer.update.apply, 2)))
    return {batch: _medians(found) for batch, found in passes.items()}, _medians(updates)


def _timed(what: Callable[[], object]) -> dict[str, float]:
    """Time by each clock."""
    before = {name: clock() for name, clock in _CLOCKS.items()}
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {name: clock() - before[name] for name, clock in _CLOCKS.items()}


def _medians(times: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in times) for name in _CLOCKS}


def _state(trainer: Trainer) -> State:
    update = trainer.update
    trained = sum(p.nbytes for p in update.parameters.values())
    whole = [*trainer.loss.parameters(), *trainer.loss.buffers()]
    own = sum(value.nbytes for value in update.optimizer.state().values())
    return State(
        weights=sum(tensor.nbytes for tensor in whole),
        gradients=trained,
        optimizer=own,
        averages=sum(s.nbytes for s in update.ema.shadow)
        + sum(value.nbytes for value in update.state().values())
        - own,
    )
