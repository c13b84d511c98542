"""The training loop: from the objects of a run to its directory.

A run is a function of its configuration. The examples and random numbers of step k follow from k
alone, so that a run that was killed and resumed has the bits of one that was not (on the same
machine, with the same number of threads), and one cut over processes or micro-batches has the same
numbers up to rounding.
"""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.conditions import Condition, mapped, rows_of
from sde_score._core.modules import evaluating
from sde_score._core.progress import progress_bar, say
from sde_score.models import EnergyBased, FlowMap, ScoreModel, check_differentiable
from sde_score.random import mix
from sde_score.training import rng_streams as streams
from sde_score.training.build import TrainedModel, in_float32
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.config import save_config
from sde_score.training.data_record import NAME
from sde_score.training.distributed import (
    Vote,
    accelerator_for,
    as_one_line,
    ending,
    heard_of,
    wrap,
)
from sde_score.training.divergence import DivergenceCheck
from sde_score.training.elastic import shared
from sde_score.training.errors import TrainingError, TrainingInterrupted
from sde_score.training.excess import ExcessLoss
from sde_score.training.half_precision import LossScaler, autocast
from sde_score.training.lock import only_trainer
from sde_score.training.loss import LossModule
from sde_score.training.meter import Meter
from sde_score.training.metrics import Metrics
from sde_score.training.network_noise import NetworkNoise
from sde_score.training.objective_state import ObjectiveState
from sde_score.training.optimizer import Update
from sde_score.training.optimizers import OPTIMIZERS
from sde_score.training.prepare import Job
from sde_score.training.reading import skipped_words
from sde_score.training.recipe import batches_of
from sde_score.training.run import Run, load_run
from sde_score.training.run_tensors import RunTensors
from sde_score.training.schedules import SCHEDULES
from sde_score.training.sharding import Shards, blocks_of, require_rows
from sde_score.training.signals import StopRequest
from sde_score.training.snapshots import FOLDER, PowerAverages, Snapshots
from sde_score.training.state import DataFacts, TrainState, require_continuation
from sde_score.training.teacher import place_teacher
from sde_score.training.watch import Watch

OnSamples = Callable[[Run, Path], None]
"""Called with the run so far (averaged weights, evaluation mode) and the picture to write."""

OnMetrics = Callable[[int, dict[str, Any]], None]
"""Called with the step and each line of `metrics.jsonl`."""


class Trainer:
    """A run in progress. Most callers want `train`, which makes one and runs it.

    Args:
        job: what to train, made by `prepare`.
        progress: show a progress bar on the main process.
        on_samples: writes a grid of samples every `config.sample_every` steps.
        on_metrics: called on the main process for each line of `metrics.jsonl`.

    Raises:
        ValueError: if the run cannot be continued so, or an argument does not fit.
        CheckpointError: if the newest checkpoint is damaged.
    """

    @in_float32()
    def __init__(
        self,
        job: Job,
        *,
        progress: bool = True,
        on_samples: OnSamples | None = None,
        on_metrics: OnMetrics | None = None,
    ) -> None:
        self.job, self.out, self.config = job, job.out, job.config
        if self.config.sample_every and on_samples is None:
            raise ValueError("sample_every needs on_samples, the function that writes the samples")
        self.progress, self.on_samples, self.on_metrics = progress, on_samples, on_metrics
        self.checkpoints = Checkpoints(self.out / "checkpoints")
        self.metrics = Metrics(self.out / "metrics.jsonl")
        self.snapshots = Snapshots(self.out / FOLDER)
        self.accelerator = accelerator_for(self.config.device)
        self.device: torch.device = self.accelerator.device
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.vote = Vote(rank, processes)
        self.model, self.objective = job.model, place_teacher(job.objective, self.device)
        self.facts = DataFacts.of(job.examples)
        size = math.prod(self.facts.event_shape)
        self.check = DivergenceCheck(self.config, self.objective, size)
        self.noise = NetworkNoise(self.device, self.config.compile)
        with only_trainer(self.out), as_one_line(rank, processes, self.checkpoints):
            job.require_own()
            newest = self.checkpoints.newest()
            state = None if newest is None else self.checkpoints.state(newest)
            self.share = shared(self.config, state, processes, self.out)
            cut = dataclasses.replace(job, config=self.share)
            self.batches = batches_of(cut, rank, processes, self.device)
            self.excess = ExcessLoss(job, self.batches) if self.config.excess else None
            self._wrap()
            self._restore(state)

    def _wrap(self) -> None:
        config, optimizer = self.config, OPTIMIZERS.resolve(self.job.settled.optimizer)
        precision = autocast(self.device.type, config.precision)
        loss = LossModule(self.model, self.objective, precision).train()
        self.shards: Shards | None = None
        if config.shard and self.accelerator.num_processes > 1:
            require_rows(optimizer)
            blocks = self._blocks()
            self._check_derivatives(torch.device("cpu"))
            self._compile()
            self.shards = Shards(loss, self.model, self.device, blocks)
            self.loss: nn.Module = loss
        else:
            self._compile()
            unused = not isinstance(self.model, ScoreModel)
            self.loss = wrap(self.accelerator, loss, unused=unused)
            self._check_derivatives(self.device)
        self.remembered = ObjectiveState(self.objective)
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        parameters = {**trained, **self.remembered.parameters}
        if self.shards is not None:
            parameters = self.shards.local(parameters)
        # Objectives that differentiate in x leave it in the graph: its own gradient is not needed.
        # Distributed training takes hold of all gradients or none.
        alone = self.accelerator.num_processes == 1
        self._backward: dict[str, Any] = {"inputs": list(parameters.values())} if alone else {}
        self.update = Update(
            parameters,
            config.learning_rate,
            config.warmup,
            config.clip,
            config.ema,
            config.weight_decay,
            optimizer,
            SCHEDULES.resolve(self.job.settled.schedule),
            PowerAverages(parameters) if config.snapshot_every else None,
            LossScaler() if config.precision == "fp16" else None,
            None if self.shards is None else self.shards.clip,
        )
        self.tensors = RunTensors(self.model, self.update, self.remembered, self.shards)

    def _compile(self) -> None:
        if self.config.compile:
            getattr(self.model, "backbone", self.model).compile()

    def _examples(self, count: int, device: torch.device) -> tuple[Tensor, Condition]:
        """A few examples of the first step."""
        part = next(self.batches.step(0))
        condition = mapped(rows_of(part.condition, slice(count)), lambda value: value.to(device))
        return part.x0[:count].nan_to_num().to(device), condition

    def _blocks(self) -> list[nn.Module]:
        """Parts of the network whose weights can come and go: none where gradients in x are taken,
        which pass through all of it twice; flow maps take forward derivatives."""
        through = self.objective.second_derivatives and not isinstance(self.model, FlowMap)
        if through or isinstance(self.model, EnergyBased):
            return []
        return blocks_of(self.model, *self._examples(2, torch.device("cpu")))

    def _check_derivatives(self, device: torch.device) -> None:
        """Refuse a network that does not have the derivatives that the objective takes of it."""
        x0, condition = self._examples(4, device)
        check_differentiable(
            self.model,
            x0,
            condition=condition,
            needs="energy" if self.objective.needs == "energy" else "score",
            second_derivatives=self.objective.second_derivatives,
        )

    def _restore(self, state: TrainState | None) -> None:
        """Take up the newest checkpoint, or start at step 0, and bring the directory in line."""
        if state is not None:
            steps, size = self.config.steps, self.share.batch_size
            require_continuation(state, steps, size, self.batches.total, self.facts, self.out)
            verify = self.shards is None or self.accelerator.is_main_process
            self.tensors.load(self.checkpoints, state, verify)
            if state.stream is not None:
                self.batches.reader.restore(state.stream)
        self.step = self.saved = 0 if state is None else state.step
        self.meter = Meter(self.accelerator, state)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._bring_in_line()

    def _bring_in_line(self) -> None:
        """Make the directory that of a run at this step."""
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / NAME).exists():
            self.job.record.write(self.out / NAME)
        save_config(self.config, self.out / "config.yaml")
        self.checkpoints.tidy(self.config.keep)
        self.metrics.rewind(self.step)
        self.snapshots.rewind(self.step)
        if self.job.start is not None:
            self.metrics.note({"step": self.step, "init_from": self.job.start.text})
        if self.job.changes:
            changes = {name: list(pair) for name, pair in self.job.changes.items()}
            self.metrics.note({"step": self.step, "continue_with": changes})

    @in_float32()
    def run(self) -> Run:
        """Train up to `config.steps` and open the result.

        Raises:
            TrainingInterrupted: after SIGINT or SIGTERM, with a checkpoint of the last step.
            TrainingError: if the loss or a weight is no longer a finite number.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.meter.start()
        with (
            only_trainer(self.out),
            as_one_line(rank, processes, self.checkpoints),
            heard_of(rank),
            Watch(rank, processes, self.vote.token(), self._ending),
            closing(self.noise),
            torch.random.fork_rng(devices),
            StopRequest() as stop,
            self._bar() as bar,
            self.batches.reading(self.step, self.config.steps),
        ):
            self.job.require_own(self.saved)
            self._sample_if_due(again=False)  # a kill may have come before the last samples
            for _ in range(self.step, self.config.steps):
                self._train_step()
                bar.update()
                self._after_step(bar)
                if self.vote.any(stop.signum is not None) and self.step < self.config.steps:
                    self._stop(stop.signum or signal.SIGTERM)
        say(skipped_words(self.metrics))
        job = self.job
        if self.shards is not None:
            job = dataclasses.replace(job, model=self.shards.blank())
        return load_run(self.out, data=job.whole, **job.objects())

    def _ending(self, what: str) -> str:
        return ending(what, self.checkpoints)

    def _bar(self) -> Any:
        shown = self.progress and self.accelerator.is_main_process
        steps = self.config.steps
        return progress_bar(total=steps, initial=self.step, shown=shown, delay=0)

    def _train_step(self) -> None:
        """Forward and backward over the micro-batches, then one update."""
        rank, parts = self.accelerator.process_index, self.share.accumulate
        if self.shards is not None:
            self.shards.before_step()
        total = torch.zeros((), device=self.device)
        with self.noise.step(mix(self.config.seed, streams.NETWORK, self.step, rank)):
            for index, part in enumerate(self.batches.step(self.step)):
                last = index == parts - 1
                alone = last or self.shards is not None  # rows are summed part by part
                with nullcontext() if alone else self.accelerator.no_sync(self.loss):
                    loss = self.loss(*part) / parts
                    self.accelerator.backward(self.update.scaled(loss), **self._backward)
                total += loss.detach()
        if self.shards is not None:
            self.shards.collect()
        skipped = self.batches.reader.take_skipped()
        self.meter.add(total, self.update.apply(self.step), skipped)
        self.remembered.finish_step()
        self.step += 1

    def _after_step(self, bar: Any) -> None:
        config, finished = self.config, self.step == self.config.steps
        first = self.accelerator.is_main_process
        if first and not (self.out / "config.yaml").exists():
            raise TrainingError(
                f"{self.out} was removed, or its config.yaml, before step {self.step}: nothing "
                "more can be saved there"
            )
        if self.step % config.log_every == 0 or finished:
            self._log(bar)
        averages, every = self.update.averages, config.snapshot_every
        together = None if self.shards is None else self.vote
        if averages and (self.step % every == 0 or finished) and (together or first):
            parts = self.tensors.in_parts(averages.state())
            self.snapshots.write(self.step, parts, together)
        if self.step % config.checkpoint_every == 0 or finished:
            self._save()
        self._sample_if_due()

    def _log(self, bar: Any) -> None:
        self.check.losses(self.meter, self.step, self.checkpoints.newest())
        line = self.meter.line(self.batches.total, self.update.scaling[0])
        rate = self.update.rate(self.step - 1)
        whole = self.shards.whole_model() if self.shards and self.excess else None
        if self.accelerator.is_main_process:
            record = {"step": self.step, "learning_rate": rate, **line}
            record |= self.batches.reader.figures()
            if self.excess is not None:
                record["excess_loss"] = self.excess.measure(self.step - 1, whole)
            self.metrics.write(record)
            if self.on_metrics is not None:
                self.on_metrics(self.step, record)
        speed = f"{line['examples_per_second']:.0f}/s"
        bar.set_postfix(loss=f"{line['loss']:.4g}", examples=speed, refresh=False)

    def _save(self) -> None:
        """Write a checkpoint, on the main process, of weights known to be finite."""
        kept = self.checkpoints.newest()
        self.check.losses(self.meter, self.step, kept)
        self.check.weights(
            [*self.update.parameters.values(), *self.update.ema.shadow],
            self.step,
            kept,
            self.vote,
        )
        totals = self.meter.totals()
        if self.shards is not None or self.accelerator.is_main_process:
            state = TrainState(
                self.step,
                self.batches.total,
                self.facts,
                self.meter.seconds,
                *totals[:2],
                self.meter.window,
                self.meter.skipped,
                *self.update.scaling,
                self.objective.all_noise_levels,
                skipped_examples=totals[2],
                stream=self.batches.reader.state(),
            )
            vote = None if self.shards is None else self.vote
            self.checkpoints.save(state, self.tensors.named(), vote)
        if self.accelerator.is_main_process:
            self.checkpoints.tidy(self.config.keep)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _sample_if_due(self, again: bool = True) -> None:
        every, picture = self.config.sample_every, self.out / "samples" / f"step-{self.step}.png"
        if not every or not self.step or self.step % every:
            return
        wanted = again or not picture.exists()
        model: TrainedModel | None = self.model
        with self.update.ema.swapped(self.update.parameters.values()):
            if self.shards is not None:
                model = self.shards.whole_model()
            if self.accelerator.is_main_process and self.on_samples and wanted and model:
                picture.parent.mkdir(exist_ok=True)
                levels = self.objective.all_noise_levels
                data = self.job.record, self.job.whole
                so_far = Run(self.out, self.config, model, self.step, self.facts, levels, *data)
                with evaluating(model):
                    self.on_samples(so_far, picture)
        self.accelerator.wait_for_everyone()

    def _stop(self, signum: int) -> None:
        if self.saved < self.step:
            self._save()
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(signum).name} after step {self.step} of "
            f"{self.config.steps}; checkpoint saved in {self.out}: run the same command again "
            "to go on",
            signum,
        )
