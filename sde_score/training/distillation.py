"""Distillation: from a trained run to a flow map, by the configuration of a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sde_score import data as data_sets
from sde_score._core.registry import format_spec, parse_spec, refuse_unknown
from sde_score.models import EnergyBased
from sde_score.objectives import OBJECTIVES, FlowMapObjective, Objective
from sde_score.training.config import TrainConfig, is_note, load_config
from sde_score.training.entry import train
from sde_score.training.run import Run, load_run

KEPT = (
    "sde",
    "backbone",
    "prediction",
    "sigma_data",
    "conditional",
    "condition_columns",
    "condition_dropout",
    "augmentation",
    "dequantize",
    "held_out",
    "batch_size",
    "learning_rate",
    "clip",
    "seed",
)
"""Fields of a run that a flow map made of it keeps, besides its data."""

ELSEWHERE = 1e-4
"""Learning rate for a network that was trained elsewhere, which does not say its own."""

PACE = {"consistency": ("halve_every", 8), "scm": ("warmup", 10)}
"""Arguments of objectives that are a part of the training where nothing is said: one in so many."""

_STEPS: int = TrainConfig.steps


def distillation(
    run: Run,
    objective: Objective | str = "consistency",
    *,
    out: str | Path | None = None,
    from_data: bool = False,
    **changes: Any,
) -> TrainConfig:
    """The configuration that trains a flow map from a run.

    Its data, network, SDE, scaling and learning rate are those of the run, the first weights its
    averaged ones.

    Args:
        run: what is distilled.
        objective: for flow maps, such as `"consistency"`, `"mean-flow"`, `"lagrangian"` or
            `"semigroup"`. Of `consistency` the pairs close in over the training, `scm` warms up.
        out: run directory that may hold this training already, whose pace is kept.
        from_data: learn the flow from the data, as consistency tuning does, instead of from the
            run's model.
        changes: other fields of `TrainConfig`.

    Raises:
        ValueError: for a run of an energy, an objective that trains no flow map, or a field that is
            not known.
        DataError: for a network that was trained elsewhere and has no data.
    """
    fields = [field.name for field in dataclasses.fields(TrainConfig)]
    refuse_unknown("the configuration", changes, fields)
    if isinstance(run.model, EnergyBased):
        raise ValueError(f"{run.path} is an energy, which no flow map starts from: train a score")
    learned = OBJECTIVES.resolve(objective)
    if not isinstance(learned, FlowMapObjective):
        raise ValueError(
            f"objective={objective!r} trains no flow map; accepted: consistency, mean-flow, "
            "lagrangian, semigroup, and others for flow maps in sde-score objectives"
        )
    if isinstance(objective, str):
        objective = _paced(objective, changes.get("steps", _STEPS), out)
    kept = {name: getattr(run.config, name) for name in KEPT}
    parts = {
        "backbone": getattr(run.model, "backbone", None),
        "sde": run.model.sde,
        "prediction": getattr(run.model, "parametrization", None),
        "sigma_data": getattr(run.model, "sigma_data", None),
    }
    whole = is_note(run.config.model)
    kept |= {name: part for name, part in parts.items() if whole or is_note(kept[name])}
    if run.trained_elsewhere:
        kept["learning_rate"] = ELSEWHERE
    kept["data"] = run.config.data if run.record is None else run.record.text_at_hand()
    if is_note(kept["data"]):  # in memory, with the scaling of the run
        changes = {**changes, "data": run.dataset()}
        kept["condition_columns"] = None  # they are in the data already
    return TrainConfig(
        **{
            **kept,
            "model": "flow-map",
            "objective": objective,
            "init_from": run,
            "teacher": None if from_data else run,
            **changes,
        }
    )


def _paced(spec: str, steps: int, out: str | Path | None) -> str:
    """The spec of an objective with its pace, of the training in `out` where there is one."""
    name, arguments = parse_spec(spec)
    argument, parts = PACE.get(OBJECTIVES.listed(name), ("", 1))
    if not argument or argument in arguments:
        return spec
    file = Path(out or "") / "config.yaml"
    stored = str(load_config(file).objective) if out is not None and file.exists() else ""
    before = {} if is_note(stored) or not stored else parse_spec(stored)[1]
    pace = before.get(argument, max(1, int(steps) // parts))
    return format_spec(name, {**arguments, argument: pace})


def distill(
    source: str | Path | Run,
    out: str | Path,
    objective: Objective | str = "consistency",
    *,
    from_data: bool = False,
    data: data_sets.Source | None = None,
    resume: bool = True,
    progress: bool = True,
    **changes: Any,
) -> Run:
    """Train a flow map from a run into a run directory, or continue what is there.

    `distill("runs/digits", "runs/few", steps=4000)` gives samples in two evaluations:
    `sde-score sample runs/few`.

    Args:
        source: the run, or its directory.
        out: run directory, made if it is not there.
        objective: for flow maps, see `distillation`.
        from_data: learn the flow from the data instead of from the run's model.
        data: the data of the run, where they were given in memory or have moved.
        resume: whether a run in `out` may be continued.
        progress: show a progress bar.
        changes: other fields of `TrainConfig`, such as `steps=4000` or `learning_rate=3e-4`.

    Returns:
        The run of the flow map, with its averaged weights.

    Raises:
        ValueError: as of `distillation` and `train`.
        DataError, CheckpointError, TrainingError, TrainingInterrupted: as of `train`.
    """
    run = source if isinstance(source, Run) else load_run(source, data=data)
    if data is not None:
        run, changes = run.with_data(data), {**changes, "data": data}
        _ = run.dataset() if run.trained_elsewhere else run.recognized  # refuses other data
    config = distillation(run, objective, out=out, from_data=from_data, **changes)
    return train(config, out, resume=resume, progress=progress)
