"""Checkpoints: folders `step-N` that are whole or not there at all.

A checkpoint is written under a hidden name, brought to the disk, and renamed. It holds
`model.safetensors`, `ema.safetensors`, `optimizer.safetensors`, `objective.safetensors` (what a
stateful objective remembers; else empty), `state.json`, and `SHA256SUMS`, so that damage is noticed
(also by `sha256sum -c SHA256SUMS`). Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.files import read_text, sync
from sde_score.training.errors import CheckpointError
from sde_score.training.state import TrainState

TENSORS = ("model", "ema", "optimizer", "objective")
STATE = "state.json"
SUMS = "SHA256SUMS"

_FILES = (*(f"{name}.safetensors" for name in TENSORS), STATE)
_NAME = re.compile(r"step-([1-9][0-9]{0,15})")


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: `checkpoints/` of the run; need not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def newest(self) -> int | None:
        """The last step that has a checkpoint, None if there is none."""
        return max(self.steps(), default=None)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step}"

    def save(self, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
        """Write a checkpoint; it appears under its name in one step, when it is whole.

        Args:
            state: gives the step.
            tensors: for each of `TENSORS`, tensors by name.

        Raises:
            CheckpointError: if the step has a checkpoint already.
            OSError: if a file cannot be written, naming it and the last good checkpoint; nothing
                of the new one is left.
        """
        from safetensors import SafetensorError

        target, temporary = self.path(state.step), self._hidden(state.step)
        if target.exists():
            raise CheckpointError(f"{target} exists already: a checkpoint is never overwritten")
        if temporary.exists():
            shutil.rmtree(temporary)
        kept, name = self.newest(), ""
        try:
            temporary.mkdir(parents=True)
            for name in (*_FILES, SUMS):
                _write(temporary / name, state, tensors)
            sync(temporary)
            temporary.rename(target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            raise OSError(
                f"{target / name} cannot be written: {reason}; last good checkpoint: "
                + ("none" if kept is None else self.path(kept).name)
            ) from error
        sync(self.folder)
        return target

    def tidy(self, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints, and what interrupted writing left.

        What cannot be removed, as while somebody reads it on Windows, stays for the next time.
        """
        for step in self.steps()[:-keep]:
            # Renamed first: a kill while files go must not leave part of them under a good name.
            shutil.rmtree(self._hidden(step), ignore_errors=True)
            with suppress(PermissionError):
                self.path(step).rename(self._hidden(step))
        for leftover in self.folder.glob(".step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _hidden(self, step: int) -> Path:
        return self.folder / f".step-{step}.tmp"

    def state(self, step: int) -> TrainState:
        """Read `state.json` of a step.

        Raises:
            CheckpointError: naming the file and the checkpoints that are whole.
        """
        path = self.path(step) / STATE
        with self._helping(), refusing(path):
            _verify(path)
            state = TrainState.from_record(json.loads(read_text(path)))
            if state.step != step:
                raise ValueError(f"it claims to be of step {state.step}")
        return state

    def tensors(self, step: int, name: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read `<name>.safetensors` of a step.

        Args:
            step: which checkpoint.
            name: one of `TENSORS`.
            expected: tensors of the names, shapes and types that must be there, and no others.

        Raises:
            CheckpointError: naming the file and the checkpoints that are whole.
        """
        path = self.path(step) / f"{name}.safetensors"
        with self._helping(), refusing(path):
            _verify(path)
            found = _load(path)
            require_alike(found, expected)
        return found

    def dtype(self, step: int, name: str) -> torch.dtype | None:
        """The dtype that all floating-point tensors of a file have; None if they differ.

        Raises:
            CheckpointError: naming the file and the checkpoints that are whole.
        """
        path = self.path(step) / f"{name}.safetensors"
        with self._helping(), refusing(path):
            _verify(path)
            found = {tensor.dtype for tensor in _load(path).values() if tensor.is_floating_point()}
        return found.pop() if len(found) == 1 else None

    def whole(self) -> list[int]:
        """Steps whose checkpoint is undamaged; reads all files of all checkpoints."""
        return [step for step in self.steps() if self._is_whole(step)]

    def _is_whole(self, step: int) -> bool:
        try:
            for name in _FILES:
                with refusing(self.path(step) / name):
                    _verify(self.path(step) / name)
        except CheckpointError:
            return False
        return True

    @contextmanager
    def _helping(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            whole = ", ".join(self.path(step).name for step in self.whole()) or "none"
            raise CheckpointError(
                f"{error}; whole checkpoints in {self.folder}: {whole} "
                "(remove the folders of newer ones to go on from there)"
            ) from error


@contextmanager
def refusing(path: Path | str) -> Iterator[None]:
    """Turn whatever reading a foreign file raises into one `CheckpointError` that names it.

    Parsers raise nearly anything on hostile bytes (`RecursionError`, `KeyError`, `MemoryError`,
    their own classes ...), so this is the one place that catches every `Exception`.
    """
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise CheckpointError(f"{path} cannot be used: {reason[:500]}") from error


def _write(path: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write one file of a checkpoint, which its name tells, and bring it to the disk."""
    from safetensors.torch import save_file

    if path.name == SUMS:
        sums = [f"{_digest(path.with_name(name))}  {name}\n" for name in _FILES]
        path.write_text("".join(sums))
    elif path.name == STATE:
        path.write_text(json.dumps(state.record(), indent=1) + "\n")
    else:
        named = tensors[path.stem]
        save_file({key: value.detach().contiguous() for key, value in named.items()}, path)
    sync(path)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _verify(path: Path) -> None:
    """Refuse a file whose content is not what `SHA256SUMS` beside it promises."""
    found, promised = _digest(path), read_text(path.with_name(SUMS)).split("\n")
    if f"{found}  {path.name}" not in promised:
        raise ValueError(f"it is damaged or truncated: its SHA-256 is not the one in {SUMS}")


def _load(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found: dict[str, Tensor] = load_file(path)
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of any `.safetensors` file; that of a checkpoint is held against its sums.

    Raises:
        CheckpointError: naming the file, if it is damaged.
    """
    with refusing(path):
        if path.with_name(SUMS).exists():
            _verify(path)
        return _load(path)


def require_alike(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors of other names, shapes or types than are expected.

    Raises:
        ValueError: naming some that differ.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"its tensors do not fit the model: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    for name, want in expected.items():
        have = found[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(
                f"{name} is {have.dtype} of shape {tuple(have.shape)}, "
                f"the model needs {want.dtype} of shape {tuple(want.shape)}"
            )
