"""The objective of a run, with the model that it learns from where there is one."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sde_score.data import DataSet
from sde_score.models import Model
from sde_score.objectives import OBJECTIVES, FlowMapObjective, Objective, StatefulObjective
from sde_score.random import generator_from, initializing
from sde_score.training.build import OPENING, start_text
from sde_score.training.checkpoint import Checkpoints
from sde_score.training.config import TrainConfig, is_note, is_whole
from sde_score.training.errors import CheckpointError
from sde_score.training.rng_streams import SETUP
from sde_score.training.run import Run, load_run

_SETUP_EXAMPLES = 4096


def pinned(config: TrainConfig, stored: TrainConfig | None) -> TrainConfig:
    """The configuration with the checkpoint of the teacher in place of its run, so that the teacher
    stays the same when its run goes on.

    Args:
        config: what the user asked for.
        stored: of the run that is continued, whose teacher is the one of the same run.

    Raises:
        CheckpointError: if there is no such run or checkpoint.
    """
    teacher = config.teacher
    if teacher is None or is_note(teacher) or is_whole(teacher):
        return config
    if isinstance(teacher, Run) and any(is_note(getattr(teacher.config, n)) for n in OPENING):
        return dataclasses.replace(config, teacher=teacher.model)
    path = Path(str(start_text(teacher)))
    if not (path / "config.yaml").is_file():  # a checkpoint already
        return config
    checkpoints = Checkpoints(path / "checkpoints")
    newest = checkpoints.newest()
    if newest is None:
        raise CheckpointError(f"teacher={str(path)!r} is a run without a checkpoint: train it")
    step = teacher.step if isinstance(teacher, Run) else newest
    before = None if stored is None else stored.teacher
    same = before is not None and Path(before).parent == checkpoints.folder and step == newest
    return dataclasses.replace(config, teacher=before if same else str(checkpoints.path(step)))


def build_objective(config: TrainConfig, examples: DataSet) -> Objective:
    """The objective, with its teacher, and set up on a sample of the data if it has a state.

    Args:
        config: objective, teacher and random seed.
        examples: the training data.

    Raises:
        ValueError: for an unknown objective, or a teacher that it does not take.
        CheckpointError: if the teacher cannot be read.
    """
    objective = OBJECTIVES.resolve(config.objective)
    if config.teacher is not None:
        if not isinstance(objective, FlowMapObjective):
            raise ValueError(
                f"objective={config.objective!r} takes no teacher: leave it out, or choose one for "
                "flow maps, such as consistency or mean-flow"
            )
        if objective.teacher is not None:
            raise ValueError("teacher is given, and part of the objective as well: leave one out")
        return dataclasses.replace(objective, teacher=_opened(config.teacher))
    if isinstance(objective, FlowMapObjective) and objective.needs_teacher:
        objective.required_teacher()
    if isinstance(objective, StatefulObjective):
        objective = copy.deepcopy(objective)
        order = torch.randperm(len(examples), generator=generator_from(config.seed, SETUP))
        with initializing(config.seed, SETUP, 1):
            objective.setup(examples.batch(order[:_SETUP_EXAMPLES]).x0)
    return objective


def _opened(teacher: Any) -> Model:
    """The model of a checkpoint folder, or a copy of the one that is given, in evaluation mode."""
    if is_whole(teacher):
        model = copy.deepcopy(teacher)
    else:
        folder = Path(str(teacher))
        step = folder.name.removeprefix("step-")
        if not step.isdecimal() or not folder.is_dir():
            raise CheckpointError(
                f"teacher={str(teacher)!r} is no run directory, nor the folder of a checkpoint, "
                "checkpoints/step-N of a run: give one that is there"
            )
        model = load_run(folder.parent.parent, step=int(step)).model
    if isinstance(model, nn.Module):
        model.eval().requires_grad_(requires_grad=False)
    return cast(Model, model)


def place_teacher(objective: Objective, device: torch.device) -> Objective:
    """The objective, whose teacher is a module that is moved to a device."""
    teacher = getattr(objective, "teacher", None)
    if isinstance(teacher, nn.Module):
        teacher.to(device)
    return objective
