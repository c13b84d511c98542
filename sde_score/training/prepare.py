"""The objects of a training run, from its configuration and its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sde_score import data
from sde_score._core.registry import refuse_unknown
from sde_score.data import DataError, DataSet
from sde_score.models import EnergyBased
from sde_score.nn import set_second_derivatives
from sde_score.objectives import OBJECTIVES, BaseObjective, Objective
from sde_score.training.build import (
    OPENING,
    RECIPE,
    TrainedModel,
    as_before,
    as_text,
    build_model,
    in_float32,
    require_objects,
    settle,
    split_data,
)
from sde_score.training.checkpoint import Checkpoints, refusing
from sde_score.training.condition_dropout import require_no_class
from sde_score.training.config import (
    ADJUSTABLE,
    TrainConfig,
    adopt,
    is_auto,
    is_note,
    is_whole,
    load_config,
    require_same,
)
from sde_score.training.data_record import DataRecord, read_record
from sde_score.training.errors import CheckpointError
from sde_score.training.first_weights import FirstWeights, first_weights
from sde_score.training.gaps import require_gaps, settled_for_gaps
from sde_score.training.half_precision import DTYPES, automatic, require_half
from sde_score.training.teacher import build_objective, pinned
from sde_score.training.time_labels import warn_of_time_labels


@dataclass(frozen=True)
class Job:
    """A training run as objects, checked and ready to begin or to continue.

    Args:
        out: run directory; need not exist.
        config: resolved, as the file of the run holds it.
        settled: the same with the objects that were given.
        whole: all examples, held-out ones included.
        examples: the training part.
        record: content of `data.json`.
        model: with its first weights.
        objective: set up on the data.
        start: where the first weights come from, None for random ones.
        changes: fields that change on the way, as (before, after).
    """

    out: Path
    config: TrainConfig
    settled: TrainConfig
    whole: DataSet
    examples: DataSet
    record: DataRecord
    model: TrainedModel
    objective: Objective
    start: FirstWeights | None
    changes: Mapping[str, tuple[Any, Any]]

    def objects(self) -> dict[str, Any]:
        """Arguments by which `load_run` opens the run, for what its configuration only notes."""
        if is_note(self.config.model):
            return {"model": self.model}
        parts = {"backbone": self.model.backbone, "sde": self.model.sde}
        return {name: part for name, part in parts.items() if is_note(getattr(self.config, name))}

    def require_own(self, step: int | None = None) -> None:
        """Refuse a directory in which another training was begun, or went on, since `prepare`.

        Args:
            step: of the newest checkpoint as this run knows it, 0 for none; None does not ask.

        Raises:
            ValueError: saying what is there now.
        """
        if (read_record(self.out) or self.record) != self.record:
            raise ValueError(f"{self.out} holds a run with other data by now: prepare it anew")
        path = self.out / "config.yaml"
        if path.exists():
            require_same(self.config, load_config(path), self.out, tuple(self.changes))
        newest = Checkpoints(self.out / "checkpoints").newest() or 0
        if step is not None and newest != step:
            raise ValueError(
                f"another training went on in {self.out}, from step {step} to {newest}: prepare "
                "it anew"
            )


@in_float32()
def prepare(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = True,
    continue_with: Mapping[str, Any] | None = None,
) -> Job:
    """The objects of a run, in agreement with the run directory if there is one.

    Args:
        config: what the user asked for.
        out: run directory; need not exist.
        resume: whether a run in `out` may be continued.
        continue_with: new values of `ADJUSTABLE` fields of a run that is continued.

    Raises:
        ValueError: if `out` holds another run or one that must not be continued, or an argument
            does not fit.
        CheckpointError: if a file of the run, or of the first weights, is damaged or missing.
        DataError: if the data cannot be loaded.
    """
    out, changing = Path(out), dict(continue_with or {})
    refuse_unknown("continue_with", changing, ADJUSTABLE)
    stored = _stored(out, resume)
    if changing and stored is None:
        raise ValueError(f"continue_with changes a run on its way, and {out} holds none")
    config = dataclasses.replace(config, **changing)
    start = None
    if stored is not None:
        config = as_before(adopt(config, stored), stored)
    if config.init_from is not None and Checkpoints(out / "checkpoints").newest() is None:
        start = first_weights(config.init_from)
        config = start.fill(config)
    config = pinned(config, stored)
    parts = () if is_whole(config.model) else OPENING
    require_objects(config, (*parts, *RECIPE), f"the run in {out}", "train(..., {}=...)")
    whole, record = _data(config, out, stored)
    if stored is not None:
        record.require_order(whole)
    examples, _ = split_data(config, whole)
    settled = settled_for_gaps(settle(config, examples), examples)
    resolved = dataclasses.replace(as_text(settled), data=record.text)
    changes = {}
    if stored is not None:
        require_same(resolved, stored, out, tuple(changing))
        pairs = {name: (getattr(stored, name), getattr(resolved, name)) for name in changing}
        changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    model = build_model(
        settled, examples.event_shape, examples.num_classes, examples.condition_shape
    )
    if start is not None:
        start.load_into(model)
        start.warn_of(resolved.sde, examples.scaling)  # type: ignore[arg-type]
    if stored is None:
        warn_of_time_labels(model)
    require_no_class(model, examples, settled)
    objective = build_objective(settled, examples)
    require_gaps(settled, examples, objective, model)
    twice = objective.second_derivatives or isinstance(model, EnergyBased)
    set_second_derivatives(model, twice)
    if is_auto(settled.precision):
        chosen = automatic(objective, model, settled.device, twice)
        settled = dataclasses.replace(settled, precision=chosen)
        resolved = dataclasses.replace(resolved, precision=chosen)
    if settled.precision == "fp16":
        require_half(objective, twice)
    if isinstance(objective, BaseObjective):
        dtype = DTYPES.get(settled.precision, torch.float32)
        objective.require_precision(model, torch.finfo(dtype).eps)
    return Job(out, resolved, settled, whole, examples, record, model, objective, start, changes)


def _stored(out: Path, resume: bool) -> TrainConfig | None:
    path = out / "config.yaml"
    if path.exists():
        if not resume:
            raise ValueError(f"{out} holds a run already: resume it or choose another folder")
        stored = load_config(path)
        with refusing(path):  # what a run that is continued takes from it
            if not is_note(stored.objective):
                OBJECTIVES.resolve(stored.objective)
        return stored
    if (out / "checkpoints").exists():
        raise CheckpointError(f"{path} is missing, but there are checkpoints beside it")
    return None


def _data(config: TrainConfig, out: Path, stored: TrainConfig | None) -> tuple[DataSet, DataRecord]:
    """All data of a run and their record, after a comparison with the record of the run."""
    record, text = read_record(out), data.text_of(config.data)
    if stored is not None and stored.condition_columns != config.condition_columns:
        raise ValueError(
            f"{out} holds a run with condition_columns={stored.condition_columns!r}, not "
            f"{config.condition_columns!r}: give its own, or another folder"
        )
    if record is not None and text == record.text:
        whole = record.load(config.on_bad_example)
        return whole, record
    columns = None if record else config.condition_columns
    found = data.load(config.data, columns, config.on_bad_example)
    if record is None:
        if stored is not None and text is not None and text != stored.data:
            raise ValueError(
                f"{out} holds a run with other data: data is {text!r}, was {stored.data!r}"
            )
        return found, DataRecord.of(found, text)
    try:
        return record.recognize(found), record
    except DataError as error:
        hint = ", given in memory: give data=" if record.in_memory else ""
        raise DataError(
            f"{out} holds a run with other data: data is {text or found.name!r}, was "
            f"{record.text!r}{hint} ({error})"
        ) from error
