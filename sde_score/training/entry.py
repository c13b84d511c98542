"""Training in one call."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from sde_score import data as data_sets
from sde_score._core.progress import progress_shown
from sde_score.objectives import Objective
from sde_score.training.build import as_fields
from sde_score.training.choices import say_choices
from sde_score.training.config import TrainConfig
from sde_score.training.first_weights import Imported
from sde_score.training.lock import only_trainer
from sde_score.training.prepare import prepare
from sde_score.training.run import Run
from sde_score.training.trackers import Tracker, Trackers
from sde_score.training.trainer import OnMetrics, OnSamples, Trainer

if TYPE_CHECKING:
    from sde_score.models import Model


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    model: nn.Module | Model | None = None,
    objective: Objective | str | None = None,
    data: data_sets.Source | None = None,
    init_from: str | Path | nn.Module | Run | Imported | None = None,
    continue_with: Mapping[str, Any] | None = None,
    on_metrics: OnMetrics | None = None,
    on_samples: OnSamples | None = None,
    log: str | Tracker | Sequence[str | Tracker] = (),
    resume: bool = True,
    progress: bool = True,
) -> Run:
    """Train a model into a run directory, or continue what is there.

    The directory holds `config.yaml`, `data.json`, `checkpoints/step-N/`, `metrics.jsonl` and
    `samples/`. Under `torchrun` or `accelerate launch` every process calls this, and the first one
    writes. What the configuration leaves open is said on standard error.

    Objects are copied. One that no text names is noted in the configuration by its class: the same
    call continues the run, and `load_run` requires the object.

    Args:
        config: what to train; fields that name a thing take an object as well.
        out: run directory, made if it is not there.
        model: a network called as `network(x, noise_level, condition)`, which gets the SDE and
            prediction of the configuration, or a whole model such as `ScoreModel(network, sde)`.
        objective: instead of `config.objective`.
        data: instead of `config.data`: a tensor, a `DataSet`, a data set of torch, text or a path.
        init_from: weights to start from at step 0: a run, its directory, a checkpoint folder, a
            `.safetensors` file, a model, or any checkpoint that `sde_score.interop.load` reads, or
            what it returns, whose network is taken where the configuration leaves it open.
        continue_with: new values of `sde_score.training.ADJUSTABLE` fields, such as
            `{"learning_rate": 1e-4}`, from the newest checkpoint on; noted in `metrics.jsonl`.
        on_metrics: called with the step and each line of `metrics.jsonl`.
        on_samples: called every `config.sample_every` steps with the run so far (averaged weights)
            and the path of the picture to write.
        log: trackers that get both as well: names that accelerate knows, such as `"tensorboard"`,
            or objects with `log(values, step=...)`.
        resume: True continues a run of the same configuration and data found in `out` (fields in
            `sde_score.training.FREE` may change, `steps` may grow); False refuses to.
        progress: show a progress bar, and what was chosen.

    Returns:
        The run with its averaged weights, as `load_run(out)` opens it.

    Raises:
        ValueError: if `out` holds a run of another configuration, another process trains there, or
            an argument does not fit.
        DataError: if the data cannot be loaded, or are others than those of the run in `out`.
        CheckpointError: if the newest checkpoint, or what `init_from` names, is damaged.
        TrainingError: if the loss or a weight is no finite number, or the directory is gone.
        OSError: if a file cannot be written, as on a full disk; checkpoints stay.
        TrainingInterrupted: after SIGINT or SIGTERM, with a checkpoint of the last step; the same
            call goes on from there.
    """
    given = {"objective": objective, "data": data, "init_from": init_from, **as_fields(model)}
    config = dataclasses.replace(config, **{k: v for k, v in given.items() if v is not None})
    told = Trackers(log, Path(out), on_samples, on_metrics)
    with progress_shown(progress), only_trainer(Path(out)):
        job = prepare(config, out, resume=resume, continue_with=continue_with)
        say_choices(config, job)
        with told.following(job.config):
            return Trainer(job, progress=progress, **told.callbacks).run()
