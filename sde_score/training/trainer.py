"""The training loop: from a configuration to a run directory.

A run is a function of its configuration. Step k knows its examples and its random numbers from k
alone, so that a run that was killed and resumed has the bits of one that was not (on the same
machine, with the same number of threads), and one cut over processes or micro-batches has the same
numbers up to rounding.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sde_score._core.modules import evaluating
from sde_score.data import DataSet
from sde_score.models import EnergyBased, check_differentiable
from sde_score.nn import set_second_derivatives
from sde_score.objectives import Objective
from sde_score.random import BatchSlice, mix
from sde_score.training import rng_streams as streams
from sde_score.training.batches import Batches
from sde_score.training.build import TrainedModel, build_model, build_objective, split_data
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.config import TrainConfig, save_config
from sde_score.training.distributed import Vote, accelerator_for, seed_network, wrap
from sde_score.training.errors import TrainingError, TrainingInterrupted
from sde_score.training.meter import Meter
from sde_score.training.metrics import Metrics
from sde_score.training.objective_state import ObjectiveState
from sde_score.training.optimizer import Update
from sde_score.training.resume import agreed_config, require_continuation
from sde_score.training.run import Run, load_run
from sde_score.training.signals import StopRequest
from sde_score.training.state import DataFacts, TrainState

OnSamples = Callable[[Run, Path], None]
"""Called with the run so far (averaged weights, evaluation mode) and the picture to write."""


class _Loss(nn.Module):
    """Model and objective in one forward pass, which is what distributed training can wrap."""

    def __init__(self, model: TrainedModel, objective: Objective, autocast: str | None) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.autocast = autocast

    def forward(self, x0: Tensor, condition: Tensor | None, draws: BatchSlice) -> Tensor:
        precision = (
            torch.autocast(self.autocast, torch.bfloat16) if self.autocast else nullcontext()
        )
        with precision:
            return self.objective(self.model, x0, condition, draws).mean()


class Trainer:
    """A run in progress. Most callers want `train`, which makes one and runs it.

    Args:
        config: what to train; resolved here.
        out: run directory, made if it is not there.
        resume: True continues a run found in `out`; False refuses to.
        progress: show a progress bar on the main process.
        data: the whole data set, instead of loading `config.data`.
        on_samples: writes a grid of samples every `config.sample_every` steps.

    Raises:
        ValueError: if `out` holds a run of another configuration, or an argument does not fit.
        CheckpointError: if the newest checkpoint is damaged.
        DataError: if the data cannot be loaded.
    """

    def __init__(
        self,
        config: TrainConfig,
        out: str | Path,
        *,
        resume: bool = True,
        progress: bool = True,
        data: DataSet | None = None,
        on_samples: OnSamples | None = None,
    ) -> None:
        if config.sample_every and on_samples is None:
            raise ValueError("sample_every needs on_samples, the function that writes the samples")
        self.out, self.progress, self.on_samples = Path(out), progress, on_samples
        self.checkpoints = Checkpoints(self.out / "checkpoints")
        self.metrics = Metrics(self.out / "metrics.jsonl")
        self.accelerator = accelerator_for(config.device)
        self.device: torch.device = self.accelerator.device
        examples, _ = split_data(config, data)
        self.config = agreed_config(config, examples, self.out, resume)
        self.facts = DataFacts.of(examples)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = Batches(examples, self.config, rank, processes, self.device)
        self.objective = build_objective(self.config, examples)
        self._build()
        self._check_derivatives()
        self._restore()

    def _build(self) -> None:
        config = self.config
        self.model = build_model(config, self.facts.event_shape, self.facts.num_classes)
        twice = self.objective.second_derivatives or isinstance(self.model, EnergyBased)
        set_second_derivatives(self.model, twice)
        if config.compile:
            self.model.backbone.compile()  # type: ignore[attr-defined]
        autocast = self.device.type if config.precision == "bf16" else None
        loss = _Loss(self.model, self.objective, autocast)
        self.loss = wrap(self.accelerator, loss.train(), unused=config.model == "energy")
        self.remembered = ObjectiveState(self.objective)
        parameters = {**dict(self.model.named_parameters()), **self.remembered.parameters}
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
        )

    def _check_derivatives(self) -> None:
        """Refuse a network that does not have the derivatives that the objective takes of it."""
        part = next(self.batches.step(0))
        check_differentiable(
            self.model,
            part.x0[:4],
            condition=None if part.condition is None else part.condition[:4],
            needs=self.objective.needs,
            second_derivatives=self.objective.second_derivatives,
        )

    def _restore(self) -> None:
        """Take up the newest checkpoint, or start at step 0, and bring the directory in line."""
        newest = self.checkpoints.newest()
        state = None if newest is None else self.checkpoints.state(newest)
        if state is not None:
            require_continuation(state, self.config, self.batches.total, self.facts, self.out)
            weights, step = self.model.state_dict(), state.step
            model = self.checkpoints.tensors(step, "model", weights)
            average = self.checkpoints.tensors(step, "ema", weights)
            moments = self.checkpoints.tensors(step, "optimizer", self.update.expected_state())
            self.model.load_state_dict(model)
            remembered = self.checkpoints.tensors(step, "objective", self.remembered.tensors())
            average.update(self.remembered.restore(remembered))
            self.update.restore(step, moments, average)
        self.step = self.saved = 0 if state is None else state.step
        self.meter = Meter(self.accelerator, state)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.out.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.out / "config.yaml")
            self.metrics.rewind(self.step)

    def run(self) -> Run:
        """Train up to `config.steps` and open the result.

        Raises:
            TrainingInterrupted: after SIGINT or SIGTERM, with a checkpoint of the last step.
            TrainingError: if the loss or a weight is no longer a finite number.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        vote = Vote(self.accelerator.num_processes)
        self.meter.start()
        with torch.random.fork_rng(devices), StopRequest() as stop, self._bar() as bar:
            while self.step < self.config.steps:
                self._train_step()
                bar.update()
                self._after_step(bar)
                if vote.any(stop.signum is not None) and self.step < self.config.steps:
                    self._stop(stop.signum or signal.SIGTERM)
        return load_run(self.out)

    def _bar(self) -> Any:
        from tqdm.auto import tqdm

        shown = self.progress and self.accelerator.is_main_process
        total = self.config.steps
        return tqdm(total=total, initial=self.step, unit="step", disable=not shown)

    def _train_step(self) -> None:
        """Forward and backward over the micro-batches, then one update."""
        rank, parts = self.accelerator.process_index, self.config.accumulate
        seed_network(mix(self.config.seed, streams.NETWORK, self.step, rank), self.device)
        total = torch.zeros((), device=self.device)
        for index, part in enumerate(self.batches.step(self.step)):
            last = index == parts - 1
            with nullcontext() if last else self.accelerator.no_sync(self.loss):
                loss = self.loss(*part) / parts
                self.accelerator.backward(loss, **self._backward)
            total += loss.detach()
        self.meter.add(total, self.update.apply(self.step))
        self.remembered.finish_step()
        self.step += 1

    def _after_step(self, bar: Any) -> None:
        config, finished = self.config, self.step == self.config.steps
        if self.step % config.log_every == 0 or finished:
            self._log(bar)
        if self.step % config.checkpoint_every == 0 or finished:
            self._save()
        if config.sample_every and self.step % config.sample_every == 0:
            self._sample()

    def _log(self, bar: Any) -> None:
        self._require_finite_losses()
        line = self.meter.line(self.batches.total)
        rate = self.update.rate(self.step - 1)
        if self.accelerator.is_main_process:
            self.metrics.write({"step": self.step, "learning_rate": rate, **line})
        speed = f"{line['examples_per_second']:.0f}/s"
        bar.set_postfix(loss=f"{line['loss']:.4g}", examples=speed, refresh=False)

    def _save(self) -> None:
        """Write a checkpoint, on the main process, of weights known to be finite."""
        self._require_finite_losses()
        self._require_finite_weights()
        totals = self.meter.totals()
        if self.accelerator.is_main_process:
            batch, seconds, window = self.batches.total, self.meter.seconds, self.meter.window
            state = TrainState(self.step, batch, self.facts, seconds, *totals, window)
            weights = self.model.state_dict()
            average = dict(zip(self.update.parameters, self.update.ema.shadow, strict=True))
            tensors = {
                "model": weights,
                "ema": {name: average.get(name, value) for name, value in weights.items()},
                "optimizer": self.update.state(),
                "objective": self.remembered.tensors(average),
            }
            self.checkpoints.save(state, tensors)
            self.checkpoints.tidy(self.config.keep)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _sample(self) -> None:
        if self.accelerator.is_main_process and self.on_samples is not None:
            folder = self.out / "samples"
            folder.mkdir(exist_ok=True)
            averaged = self.update.ema.swapped(self.update.parameters.values())
            with averaged, evaluating(self.model):
                so_far = Run(self.out, self.config, self.model, self.step, self.facts)
                self.on_samples(so_far, folder / f"step-{self.step}.png")
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

    def _require_finite_losses(self) -> None:
        where = f"in steps {self.step - self.meter.window + 1} to {self.step}"
        if not self.meter.is_finite():
            self._diverged(f"the loss or its gradient {where} is not a finite number")
        if not self.meter.window or math.isinf(self.objective.divergence_limit):
            return
        mean, gradient = (total / self.meter.window for total in self.meter.totals())
        limit = self.objective.divergence_limit * math.prod(self.facts.event_shape)
        if abs(mean) > limit:
            self._diverged(
                f"the mean loss {where}, {mean:.4g}, is beyond {limit:g}: the energies of the data "
                "and of the chains have run apart"
            )
        if gradient == 0:
            self._diverged(f"no chain moved {where}: every step was rejected")

    def _require_finite_weights(self) -> None:
        tensors = [*self.update.parameters.values(), *self.update.ema.shadow]
        largest = torch.stack(torch._foreach_norm(tensors, math.inf))
        if not bool(largest.isfinite().all()):
            self._diverged(f"a weight after step {self.step} is not a finite number")

    def _diverged(self, what: str) -> None:
        newest = self.checkpoints.newest()
        kept = "no checkpoint yet" if newest is None else f"last good checkpoint: step {newest}"
        contrastive = math.isfinite(self.objective.divergence_limit)
        advice = "more or smaller steps of its chains, an energy penalty"
        raise TrainingError(
            f"{what} ({kept}). Try a lower learning_rate (now {self.config.learning_rate:g}), "
            "clip=1, a longer warmup, precision=float32, or "
            + (advice if contrastive else "a time sampler that avoids the smallest noise")
        )


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = True,
    data: DataSet | None = None,
    on_samples: OnSamples | None = None,
) -> Run:
    """Train a model into a run directory, or continue what is there.

    The directory holds `config.yaml`, `checkpoints/step-N/`, `metrics.jsonl` and `samples/`. Under
    `torchrun` or `accelerate launch` every process calls this, and the first one writes.

    Args:
        config: what to train.
        out: run directory, made if it is not there.
        resume: True continues a run of the same configuration found in `out` (fields in
            `sde_score.training.FREE` may change, `steps` may grow); False refuses to.
        progress: show a progress bar.
        data: the whole data set, instead of loading `config.data`.
        on_samples: called every `config.sample_every` steps with the run so far (averaged weights)
            and the path of the picture to write.

    Returns:
        The run with its averaged weights, as `load_run(out)` opens it.

    Raises:
        ValueError: if `out` holds a run of another configuration, or an argument does not fit.
        DataError: if the data cannot be loaded.
        CheckpointError: if the newest checkpoint is damaged.
        TrainingError: if the loss or a weight is no longer a finite number.
        TrainingInterrupted: after SIGINT or SIGTERM, with a checkpoint of the last step; the same
            call goes on from there.
    """
    trainer = Trainer(
        config, out, resume=resume, progress=progress, data=data, on_samples=on_samples
    )
    return trainer.run()
