"""Fine-tuning: first weights from another run, a checkpoint or a model."""

from __future__ import annotations

import dataclasses
import importlib
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sde_score._core.plugins import READERS
from sde_score.data import Scaling
from sde_score.models import FlowMap
from sde_score.objectives import OBJECTIVES
from sde_score.training.build import TrainedModel, start_text
from sde_score.training.checkpoint import SUMS, Checkpoints, read_tensors, refusing, require_alike
from sde_score.training.config import NETWORK, TrainConfig, adopt, is_note, load_config
from sde_score.training.errors import CheckpointError
from sde_score.training.run import Run


@runtime_checkable
class Imported(Protocol):
    """A network that was read from a file of any kind, see `sde_score.interop.Imported`."""

    @property
    def family(self) -> str:
        """Kind of the file."""

    @property
    def scaling(self) -> Scaling:
        """Between raw values and model range."""

    def model(self) -> nn.Module:
        """The model."""

    def config(self) -> TrainConfig:
        """The configuration of a run that would train such a network."""


@dataclass(frozen=True)
class FirstWeights:
    """Weights to start from.

    Args:
        text: where they come from.
        tensors: by the names of a model or of its backbone.
        config: of the run they belong to, where there is one.
        model: they were taken from, where it is in memory.
        scaling: between raw values and the range that they were trained in, where it is known.
    """

    text: str
    tensors: Mapping[str, Tensor]
    config: TrainConfig | None = None
    model: Any = None
    scaling: Scaling | None = None

    def warn_of(self, sde: str, scaling: Scaling) -> None:
        """Warn of another diffusion, or another range of the data, than the weights know.

        Args:
            sde: spec of the diffusion of the run.
            scaling: of its data.
        """
        if self.config is not None and self.config.sde != sde:
            warnings.warn(
                f"the first weights were trained with sde={self.config.sde:.200}, this run has "
                f"sde={sde:.200}",
                stacklevel=4,
            )
        if self.scaling is not None and not _alike(self.scaling, scaling):
            warnings.warn(
                f"the first weights were trained on data read with {self.scaling}, this run reads "
                f"them with {scaling}",
                stacklevel=4,
            )

    def fill(self, config: TrainConfig) -> TrainConfig:
        """Fill what a configuration leaves open, such as the network, from the run."""
        if self.config is None:
            return config
        kind = OBJECTIVES.resolve(config.objective).needs  # a flow map may start as a score
        names = tuple(n for n in NETWORK if n != "model" or kind != "flow map")
        config = adopt(config, self.config, names)
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
        untold = {name for name in expected if ".end." not in name}
        if found.keys() != expected.keys() and inside.keys() in (expected.keys(), untold):
            found = inside
        if isinstance(model, FlowMap):  # a score model becomes one whose steps are DDIM's
            own = {name: t for name, t in expected.items() if ".end." in name}
            found = {**(own if own.keys().isdisjoint(found) else {}), **found}
        cast = {n: t.to(expected[n].dtype) if n in expected else t for n, t in found.items()}
        with refusing(f"init_from={self.text}"):
            require_alike(cast, expected)
        model.load_state_dict(cast)


def _alike(one: Scaling, other: Scaling) -> bool:
    """Whether two scalings put data in the same range, up to half of a gray level and rounding."""
    pairs = [(one.center, other.center), (one.width, other.width)]
    if any(isinstance(a, tuple) or isinstance(b, tuple) for a, b in pairs):
        return one.is_close(other)
    small = 0.02 * float(other.width)  # type: ignore[arg-type]
    return all(abs(float(a) - float(b)) <= small for a, b in pairs)  # type: ignore[arg-type]


def first_weights(source: Any) -> FirstWeights:
    """Weights of a run, a checkpoint of any kind or a model.

    Of a run and of a checkpoint folder these are the averaged ones. Files that are not of this
    package are read by `sde_score.interop.load`.

    Raises:
        CheckpointError: if nothing such is there, or it is damaged.
        TypeError: for anything else.
    """
    text = str(start_text(source))
    if isinstance(source, Run):
        return FirstWeights(text, source.model.state_dict(), source.config, source.model)
    if isinstance(source, nn.Module):
        return FirstWeights(text, source.state_dict())
    if isinstance(source, Imported):
        return _of_imported(text, source)
    if is_note(source):
        raise ValueError(f"the run starts from {source}, an object: give train(..., init_from=...)")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"init_from={source!r} must be a run, a run directory, a checkpoint, what interop.load "
            "returns, or a model"
        )
    path, folder = Path(text), Path(text)
    if (path / "config.yaml").is_file():
        checkpoints = Checkpoints(path / "checkpoints")
        folder = checkpoints.path(checkpoints.newest() or 0)
    config = folder.parent.parent / "config.yaml"
    file = folder / "ema.safetensors" if path.is_dir() else path
    if path.exists() and (not file.is_file() or file.suffix != ".safetensors"):
        return _read(path, text)
    if not file.is_file():
        raise CheckpointError(
            f"init_from={os.fspath(source)!r} holds no weights; accepted: a run directory, a "
            "checkpoint folder, a .safetensors file or a checkpoint that sde-score convert reads"
        )
    is_of_run = path.is_dir() and config.is_file()
    if not is_of_run and not file.with_name(SUMS).exists():
        with suppress(CheckpointError, ValueError):  # tensors by the names of our own network
            return _read(path, text)
    return FirstWeights(text, read_tensors(file), load_config(config) if is_of_run else None)


def _read(path: Path, text: str) -> FirstWeights:
    """Weights of a file that is not one of ours."""
    try:
        return _of_imported(text, importlib.import_module(READERS).load(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"init_from={text!r} holds no weights that can be used; accepted: a run directory, a "
            f"checkpoint folder, a .safetensors file or a checkpoint that sde-score convert reads. "
            f"As the last: {error}"
        ) from error
    except ValueError as error:  # what the file does not say
        raise ValueError(
            f"init_from={text!r} does not say all: give init_from=interop.load(path, ...) in "
            f"Python, or a run of sde-score convert: {error}"
        ) from error


def _of_imported(text: str, source: Imported) -> FirstWeights:
    model = source.model()
    return FirstWeights(text, model.state_dict(), source.config(), scaling=source.scaling)
