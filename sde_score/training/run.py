"""A run on disk, opened to be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_score import objectives
from sde_score._core.checks import require_choice
from sde_score._core.modules import weights_digest
from sde_score.data import DataSet, Scaling
from sde_score.data import load as load_data
from sde_score.training.build import TrainedModel, build_model, split_data
from sde_score.training.checkpoint import Checkpoints, refusing
from sde_score.training.config import TrainConfig, load_config
from sde_score.training.errors import CheckpointError
from sde_score.training.metrics import Metrics
from sde_score.training.state import DataFacts

WEIGHTS = {"ema": "ema", "raw": "model"}
"""Weights a run can be opened with, and the file they are in."""


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model with what is needed to use it.

    Attributes:
        path: the run directory.
        config: resolved configuration.
        model: in evaluation mode, on the CPU.
        step: optimizer steps behind the weights.
        data: facts of the training data, known without loading them.
    """

    path: Path
    config: TrainConfig
    model: TrainedModel
    step: int
    data: DataFacts

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self.model)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl`, see `Metrics`."""
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
    def all_noise_levels(self) -> bool:
        """Whether the model knows every noise level, or the data without noise alone."""
        return objectives.create(self.config.objective).all_noise_levels

    @property
    def sampler(self) -> str:
        """A sampler that suits what the model knows, as `sde_score.samplers.create` takes it."""
        if self.all_noise_levels:
            return "heun(steps=18)"
        kernel = "mala" if self.config.model == "energy" else "mala-score"
        return f"mcmc(kernel={kernel!r}, steps=500, warmup=500)"

    @property
    def scaling(self) -> Scaling:
        """The map between the data's own terms and the model's range."""
        return self.data.scaling

    def dataset(self, part: str = "all") -> DataSet:
        """Load the data the run was trained on.

        Args:
            part: `"all"`, `"train"`, or `"held_out"`, which training never saw.

        Raises:
            DataError: if the data cannot be loaded.
            ValueError: for another part, or if nothing was held out.
        """
        require_choice("part", part, ("all", "train", "held_out"))
        if part == "all":
            return load_data(self.config.data)
        train, held_out = split_data(self.config)
        if part == "train":
            return train
        if held_out is None:
            raise ValueError("this run was trained with held_out=0: all examples were trained on")
        return held_out

    def labels_in_turn(self, count: int) -> Tensor | None:
        """Classes 0, 1, ... in turn, on the device; None for a model without condition.

        Args:
            count: number of labels.
        """
        if not self.num_classes:
            return None
        return torch.arange(count, device=self.device) % self.num_classes

    def draw_labels(self, count: int, seed: int = 0) -> Tensor | None:
        """Labels in the proportions of the training data, on the device; None without condition.

        Args:
            count: number of labels.
            seed: random seed.

        Raises:
            DataError: if the data cannot be loaded.
        """
        if not self.num_classes:
            return None
        train = self.dataset("train")
        generator = torch.Generator().manual_seed(seed)
        labels = train.batch(torch.randint(len(train), (count,), generator=generator)).condition
        return None if labels is None else labels.to(self.device)


def load_run(path: str | Path, weights: str = "ema", step: int | None = None) -> Run:
    """Open a run directory.

    Args:
        path: written by `train`.
        weights: `"ema"`, the running average, or `"raw"`, the weights of the last step.
        step: which checkpoint; None for the newest.

    Raises:
        ValueError: for other weights.
        CheckpointError: if there is no such run or checkpoint, or a file of it is damaged.
    """
    require_choice("weights", weights, tuple(WEIGHTS))
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a run directory: train one with sde-score train")
    config = load_config(path / "config.yaml")
    checkpoints = Checkpoints(path / "checkpoints")
    steps = checkpoints.steps()
    if not steps or (step is not None and step not in steps):
        there = ", ".join(map(str, steps)) or "none"
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise CheckpointError(f"{path} has no {wanted[2:]}; there are: {there}")
    step = steps[-1] if step is None else step
    state = checkpoints.state(step)
    with refusing(path / "config.yaml"):
        model = build_model(config, state.data.event_shape, state.data.num_classes)
    model.load_state_dict(checkpoints.tensors(step, WEIGHTS[weights], model.state_dict()))
    return Run(path, config, model.eval(), step, state.data)
