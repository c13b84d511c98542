"""Fine-tuning: first weights from another run, a checkpoint or a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sde_score.training.build import TrainedModel, start_text
from sde_score.training.checkpoint import Checkpoints, read_tensors, refusing, require_alike
from sde_score.training.config import TrainConfig, adopt, is_note, load_config
from sde_score.training.errors import CheckpointError
from sde_score.training.run import Run


@dataclass(frozen=True)
class FirstWeights:
    """Weights to start from.

    Args:
        text: where they come from.
        tensors: by the names of a model or of its backbone.
        config: of the run they belong to, where there is one.
        model: they were taken from, where it is in memory.
    """

    text: str
    tensors: Mapping[str, Tensor]
    config: TrainConfig | None = None
    model: Any = None

    def fill(self, config: TrainConfig) -> TrainConfig:
        """Fill what a configuration leaves open, such as the network, from the run."""
        if self.config is None:
            return config
        open_fields = ("backbone", "model", "prediction", "sigma_data")
        config = adopt(config, self.config, open_fields)
        if self.model is not None and is_note(config.model):
            return dataclasses.replace(config, model=self.model)
        if self.model is not None and is_note(config.backbone):
            return dataclasses.replace(config, backbone=self.model.backbone)
        return config

    def load_into(self, model: TrainedModel) -> None:
        """Give a model these weights.

        Raises:
            CheckpointError: if names or shapes do not fit.
        """
        expected, found = model.state_dict(), dict(self.tensors)
        inside = {f"backbone.{name}": tensor for name, tensor in found.items()}
        if found.keys() != expected.keys() and inside.keys() == expected.keys():
            found = inside
        cast = {n: t.to(expected[n].dtype) if n in expected else t for n, t in found.items()}
        with refusing(f"init_from={self.text}"):
            require_alike(cast, expected)
        model.load_state_dict(cast)


def first_weights(source: Any) -> FirstWeights:
    """Weights of a run, a checkpoint folder, a `.safetensors` file or a model.

    Of a run and of a checkpoint folder these are the averaged ones.

    Raises:
        CheckpointError: if nothing such is there, or it is damaged.
        TypeError: for anything else.
    """
    text = str(start_text(source))
    if isinstance(source, Run):
        return FirstWeights(text, source.model.state_dict(), source.config, source.model)
    if isinstance(source, nn.Module):
        return FirstWeights(text, source.state_dict())
    if is_note(source):
        raise ValueError(f"the run starts from {source}, an object: give train(..., init_from=...)")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"init_from={source!r} must be a run, a run directory, a checkpoint folder, a "
            ".safetensors file or a model"
        )
    path, folder = Path(text), Path(text)
    if (path / "config.yaml").is_file():
        checkpoints = Checkpoints(path / "checkpoints")
        folder = checkpoints.path(checkpoints.newest() or 0)
    config = folder.parent.parent / "config.yaml"
    file = folder / "ema.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            f"init_from={os.fspath(source)!r} holds no weights; accepted: a run directory, a "
            "checkpoint folder or a .safetensors file"
        )
    is_of_run = path.is_dir() and config.is_file()
    return FirstWeights(text, read_tensors(file), load_config(config) if is_of_run else None)
