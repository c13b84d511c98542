"""Runs: trained models opened from their directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sde_score import data as data_sets
from sde_score._core.checks import require_choice
from sde_score._core.conditions import (
    Condition,
    ConditionShape,
    described,
    is_entries,
    mapped,
    require_condition,
    tensors_of,
)
from sde_score._core.modules import weights_digest
from sde_score.data import DataSet, Scaling
from sde_score.objectives import OBJECTIVES
from sde_score.scaling import condition_to_model
from sde_score.training.build import (
    OPENING,
    TrainedModel,
    as_fields,
    build_model,
    require_objects,
)
from sde_score.training.checkpoint import Checkpoints, refusing
from sde_score.training.config import TrainConfig, load_config
from sde_score.training.data_record import DataRecord, read_record
from sde_score.training.errors import CheckpointError
from sde_score.training.metrics import Metrics
from sde_score.training.run_data import RunData
from sde_score.training.snapshots import FOLDER, Snapshots, length_of
from sde_score.training.state import DataFacts, current_versions
from sde_score.training.suited import few_steps, sampler_for

if TYPE_CHECKING:
    from sde_score.models import Model
    from sde_score.sdes import SDE

WEIGHTS = {"ema": "ema", "raw": "model"}
"""Weights a run can be opened with, and the file they are in."""


@dataclass(frozen=True, eq=False)
class Run(RunData):
    """A trained model with what is needed to use it.

    Attributes:
        path: the run directory.
        config: resolved configuration.
        model: in evaluation mode, on the CPU.
        step: optimizer steps behind the weights.
        data: facts of the training data, known without loading them.
        all_noise_levels: whether the model was trained at every noise level, or on data without
            noise alone.
        record: content of `data.json`; None for a run of version 0.1.0.
        versions: of the software that trained it, those of the newest steps.
    """

    path: Path
    config: TrainConfig
    model: TrainedModel
    step: int
    data: DataFacts
    all_noise_levels: bool
    record: DataRecord | None
    _given: DataSet | None = field(default=None, repr=False)
    versions: Mapping[str, str] = field(default_factory=current_versions, repr=False)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self.model)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Measurements in `metrics.jsonl`, see `Metrics`; none if the file is missing."""
        return Metrics(self.path / "metrics.jsonl").read()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.data.event_shape

    @property
    def num_classes(self) -> int:
        """Classes that the model takes as condition, 0 if it takes none."""
        return self.data.num_classes if self.config.conditional else 0

    @property
    def condition_shape(self) -> ConditionShape:
        """What the model is told beside classes: a shape, or a dictionary of shapes and numbers of
        classes; empty if it takes none."""
        return self.data.condition_shape if self.config.conditional else ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class of the data, empty where they have none."""
        return () if self.record is None else self.record.class_names

    @property
    def condition_names(self) -> tuple[str, ...]:
        """Columns of the data that the model is told, where these are columns of a table."""
        return () if self.record is None else self.record.condition_names

    @property
    def sampler(self) -> str:
        """Spec of a sampler that suits the model."""
        return sampler_for(self.model, self.config.objective, self.all_noise_levels)

    @property
    def few_steps(self) -> tuple[str, ...]:
        """Specs of 1, 2 and 4 steps of a flow map; none for other models."""
        return few_steps(self.model, self.config.objective)

    @property
    def scaling(self) -> Scaling:
        """The map between the data's own terms and the model's range."""
        return self.data.scaling

    def with_data(self, data: data_sets.Source) -> Run:
        """The same run with data at hand: its own, in memory or at another place, or other data.

        Args:
            data: anything that `sde_score.data.load` takes; see `dataset`.
        """
        return replace(self, _given=data_sets.load(data, None, self.config.on_bad_example))

    def labels_in_turn(self, count: int) -> Condition:
        """Classes 0, 1, ... in turn, on the device; None for a model without condition.

        Other conditions have no turn: they are those of training examples, as of `draw_labels`.

        Args:
            count: number of labels.
        """
        if self.condition_shape:
            return self.draw_labels(count)
        if not self.num_classes:
            return None
        return torch.arange(count, device=self.device) % self.num_classes

    def condition_of(self, values: Any) -> Condition:
        """Conditions in the model's range, on its device, of those in the data's own terms.

        Args:
            values: vectors `(count, n)` or images `(count, channels, *sides)`, tensors or arrays,
                with NaN in what is none; or a dictionary of them and of labels `(count,)`, with -1
                for none; of columns of a table also their numbers and categories by name, as
                `{"age": 30, "job": ["cook", "smith"]}`.

        Raises:
            TypeError: for values of another kind.
            ValueError: for a model that takes none, other names or another shape.
        """
        if not self.condition_shape:
            raise ValueError("this run takes no vectors or images as condition: leave them out")
        coding = None if self.record is None else self.record.coding
        told = self.condition_names if coding is None else coding.conditions
        if told and isinstance(values, Mapping) and not is_entries(values, self.condition_shape):
            values = data_sets.vectors_of(values, told, coding)
        given: Condition = (
            {name: torch.as_tensor(value) for name, value in values.items()}
            if isinstance(values, Mapping)
            else torch.as_tensor(values)
        )
        raw = mapped(given, lambda value: value.double() if value.ndim > 1 else value)
        require_condition(raw, self.condition_shape, len(next(iter(tensors_of(raw)), ())))
        found = condition_to_model(raw, self.data.condition_scaling)
        return mapped(found, lambda value: value.to(self.device))

    def labels_of(self, label: str | int, count: int) -> Tensor:
        """One class for several samples, on the device.

        Args:
            label: name of the class, as in `class_names`; or its number from 0 where classes have
                no numbers as names.
            count: number of labels.

        Raises:
            ValueError: for a class that the model does not know, or a model without condition.
        """
        names = list(self.class_names) if self.num_classes else []
        if not names or not all(name.isdecimal() for name in names):
            names += [str(index) for index in range(self.num_classes)]
        if self.condition_shape:
            raise ValueError(
                f"label={label}: this run is told {described(self.condition_shape)}; give these, "
                "as run.condition_of(...) takes them, or --condition on the command line"
            )
        if str(label) not in names:
            known = f": {', '.join(self.class_names[:20])}" if self.class_names and names else ""
            raise ValueError(
                f"label={label} is no class of this run, which has {self.num_classes}"
                + (known if self.num_classes else ": train it with --conditional")
            )
        index = names.index(str(label)) % self.num_classes
        return torch.full((count,), index, device=self.device)

    def draw_labels(self, count: int, seed: int = 0) -> Condition:
        """Conditions of random training examples, on the device; None for a model without.

        These are labels in the proportions of the data, or other conditions in model range.

        Of other data that have conditions, theirs; of a network that was trained elsewhere without
        such data all labels alike.

        Args:
            count: number of conditions.
            seed: random seed.

        Raises:
            DataError: if the data cannot be loaded, or are no longer those of the run.
        """
        if not self.num_classes and not self.condition_shape:
            return None
        train = self.told_by()
        generator = torch.Generator().manual_seed(seed)
        if self.trained_elsewhere and train.labels is None and self.num_classes:
            return torch.randint(self.num_classes, (count,), generator=generator).to(self.device)
        rows = torch.randint(len(train), (count,), generator=generator)
        found: Condition = train.labels_at(rows) if self.num_classes else train.conditions_at(rows)
        return mapped(found, lambda value: value.to(self.device))


def load_run(
    path: str | Path,
    weights: str = "ema",
    step: int | None = None,
    *,
    data: data_sets.Source | None = None,
    model: nn.Module | Model | None = None,
    backbone: nn.Module | None = None,
    sde: SDE | str | None = None,
) -> Run:
    """Open a run directory.

    A run that was trained with an object that no text names requires it again; it is copied, and
    must fit the weights.

    Args:
        path: written by `train`.
        weights: `"ema"`, the running average; `"raw"`, the weights of the last step; or
            `"ema(0.1)"`, the power-function average of that length, from the snapshots of the run.
        step: which checkpoint; None for the newest.
        data: the data of the run, where they were given in memory or have moved.
        model: the network, or a whole model, as it was given to `train`.
        backbone: the network.
        sde: the forward diffusion.

    Raises:
        ValueError: for other weights, or a run that needs objects which are not given.
        CheckpointError: if there is no such run or checkpoint, or a file of it is damaged.
    """
    length = length_of(weights)
    if length is None:
        require_choice("weights", weights, (*WEIGHTS, "ema(0.1) of any length"))
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a run directory: train one with sde-score train")
    config, checkpoints = load_config(path / "config.yaml"), Checkpoints(path / "checkpoints")
    step = _step_of(path, checkpoints, step)
    state = checkpoints.state(step)
    given = {"sde": sde, "backbone": backbone, **as_fields(model)}
    filled = _filled(config, given, path)
    with refusing(path / "config.yaml"):
        facts = state.data
        built = build_model(filled, facts.event_shape, facts.num_classes, facts.condition_shape)
    file = WEIGHTS["ema" if length is not None else weights]
    stored = checkpoints.dtype(step, file)
    if model is None and backbone is None and stored == torch.float64:
        built.to(stored)  # trained by an earlier version, under another default of torch
    built.load_state_dict(checkpoints.tensors(step, file, built.state_dict()))
    if length is not None:
        trained = {name: p for name, p in built.named_parameters() if p.requires_grad}
        average = Snapshots(path / FOLDER).reconstruct(length, step, trained)
        built.load_state_dict({**built.state_dict(), **average})
    everywhere = state.all_noise_levels
    if everywhere is None:  # a run of version 0.1.0
        everywhere = OBJECTIVES.resolve(config.objective).all_noise_levels
    known = step, state.data, everywhere, read_record(path)
    run = Run(path, config, built.eval(), *known, versions=state.versions)
    return run if data is None else run.with_data(data)


def _step_of(path: Path, checkpoints: Checkpoints, step: int | None) -> int:
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        there = ", ".join(map(str, steps)) or "none"
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise CheckpointError(f"{path} has no {wanted[2:]}; there are: {there}")
    return steps[-1] if step is None else step


def _filled(config: TrainConfig, given: dict[str, Any], path: Path) -> TrainConfig:
    """The configuration with objects that are given, after asking for those that are missing."""
    taken = {name: value for name, value in given.items() if value is not None}
    filled = replace(config, **taken)
    if "model" not in taken:
        require_objects(filled, OPENING, f"the run in {path}", "load_run(path, {}=...)")
    return filled
