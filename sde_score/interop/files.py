"""Files of other people, read without executing anything in them."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.memory import readable, require_memory
from sde_score.interop.pickles import UNREADABLE, is_pickle, read_pickle
from sde_score.training.errors import CheckpointError


@dataclass(frozen=True)
class Contents:
    """What a file or folder holds.

    Args:
        path: of it.
        content: of a torch or pickle file, nested containers of tensors and plain values.
        tensors: by name, where the file is nothing but tensors.
        config: of a folder or of the header of the file.
    """

    path: Path
    content: Any = field(default=None, repr=False)
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    config: Mapping[str, Any] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        """Whether all of these names of tensors occur."""
        return all(name in self.tensors for name in names)


def read_contents(path: str | Path) -> Contents:
    """Read a checkpoint of any known container.

    Args:
        path: a `.pt`, `.pth`, `.ckpt`, `.bin`, `.pkl` or `.safetensors` file, or a folder of
            diffusers, of U-ViT's trainer (of several steps, the last), or of one such file beside a
            `config.json`.

    Raises:
        CheckpointError: for a file that is missing, damaged, or would execute something.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file {str(path)!r}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_pickle(path) if is_pickle(path) else _read_torch(path)
    tensors = content if _is_state(content) else {}
    return Contents(path, content, tensors)


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
        )
    )


def _read_folder(path: Path) -> Contents:
    if (path / "nnet.pth").is_file() or (path / "nnet_ema.pth").is_file():
        names = [name for name in ("nnet", "nnet_ema", "step") if (path / f"{name}.pth").is_file()]
        return Contents(path, {name: _read_torch(path / f"{name}.pth") for name in names})
    steps = [folder for folder in path.glob("*.ckpt") if folder.is_dir() and folder.stem.isdigit()]
    if steps:
        return _read_folder(max(steps, key=lambda folder: int(folder.stem)))
    config: dict[str, Any] = {}
    for name in ("config.json", "model_index.json"):
        if (path / name).is_file():
            config[name] = read_json(path / name)
    folder = path / "unet" if (path / "unet").is_dir() else path
    folder = path / "transformer" if (path / "transformer").is_dir() else folder
    for name in ("config.json", "scheduler_config.json"):
        for place in (folder / name, path / "scheduler" / name):
            if place.is_file():
                config.setdefault(name, read_json(place))
    if any(folder.glob("*.index.json")):
        raise CheckpointError(
            f"the folder {str(folder)!r} holds weights in several parts: save them in one file, as "
            "with save_pretrained(..., max_shard_size='100GB')"
        )
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"):
        # Variants, such as those of half precision, have one suffix more.
        files = sorted(folder.glob(pattern), key=lambda file: (file.name.count("."), file.name))
        if files:
            found = read_contents(files[0])
            return Contents(path, found.content, found.tensors, {**found.config, **config})
    raise CheckpointError(f"the folder {str(path)!r} holds no weights")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error


def _read_safetensors(path: Path) -> Contents:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
            return Contents(path, None, tensors, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _safe_globals() -> list[Any]:
    """Classes that published trainers leave in their files and that execute nothing."""
    dtypes = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")]
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        OrderedDict,
        *dtypes,
    ]


def _read_torch(path: Path) -> Any:
    """A file of torch.save, with nothing allowed but tensors and plain containers."""
    _refuse_bomb(path)
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("WeightsUnpickler error:")[-1].strip().splitlines()[0]
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, or is damaged; nothing of it was "
            f"run: {reason}"
        ) from error
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or no checkpoint: {reason}") from error


def _refuse_bomb(path: Path) -> None:
    """Refuse an archive whose members are far larger than itself; torch does not compress."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, *UNREADABLE) as error:
        raise CheckpointError(f"{path} is a damaged archive: {error}") from error
    size = path.stat().st_size
    if total > 2 * size + 2**20:
        raise CheckpointError(
            f"{path} of {readable(size)} would unpack to {readable(total)}: not a checkpoint of "
            "torch.save, which does not compress"
        )
    require_memory(total, f"reading {path}")
