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
from sde_score.training.distributed import Vote
from sde_score.training.errors import CheckpointError
from sde_score.training.state import TrainState
from sde_score.training.tensor_files import Named, Part, begin_file, fill_file, read_file

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

    def save(
        self,
        state: TrainState,
        tensors: Mapping[str, Named],
        vote: Vote | None = None,
    ) -> Path:
        """Write a checkpoint; it appears under its name in one step, when it is whole.

        Args:
            state: gives the step.
            tensors: for each of `TENSORS`, tensors by name, or the parts that this process holds.
            vote: of the processes that write it together; None for this one alone.

        Raises:
            CheckpointError: if the step has a checkpoint already.
            OSError: if a file cannot be written, naming it and the last good checkpoint; nothing
                of the new one is left.
        """
        target, vote = self.path(state.step), vote or Vote()
        if target.exists():
            raise CheckpointError(f"{target} exists already: a checkpoint is never overwritten")
        # Under a name of its own, which a process of a former run that still writes does not know.
        temporary = self.folder / f".step-{state.step}-{vote.token()}.tmp"
        kept, writer = self.newest(), _Writer(temporary, state, tensors, vote.rank == 0)
        try:
            for work in (writer.begin, writer.fill, lambda: writer.seal(target)):
                vote.attempt(work)
        except OSError as error:
            if vote.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(
                f"{target / writer.name} cannot be written: {error.strerror or error}; last good "
                "checkpoint: " + ("none" if kept is None else self.path(kept).name)
            ) from error
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
        found = self.parts(step, name, expected)
        return {key: value for key, value in found.items() if isinstance(value, Tensor)}

    def parts(
        self, step: int, name: str, expected: Named, verify: bool = True
    ) -> dict[str, Tensor | Part]:
        """Read `<name>.safetensors` of a step, of some tensors the rows that are expected.

        Args:
            step: which checkpoint.
            name: one of `TENSORS`.
            expected: as for `tensors`; of a part its rows, shape and place.
            verify: whether to read the whole file for its sum.

        Raises:
            CheckpointError: naming the file and the checkpoints that are whole.
        """
        path = self.path(step) / f"{name}.safetensors"
        with self._helping(), refusing(path):
            if verify:
                _verify(path)
            found = read_file(path, expected)
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


class _Writer:
    """A checkpoint on its way: begun, filled by all processes, and sealed.

    Args:
        folder: hidden, where it is written.
        state: of the run.
        tensors: of this process.
        first: whether this process begins and seals.
    """

    def __init__(
        self, folder: Path, state: TrainState, tensors: Mapping[str, Named], first: bool
    ) -> None:
        self.folder, self.state, self.tensors, self.first = folder, state, tensors, first
        self.name = ""  # of the file at hand

    def begin(self) -> None:
        """Make the files, without their numbers."""
        if not self.first:
            return
        self.folder.mkdir(parents=True)
        for name in TENSORS:
            begin_file(self._file(f"{name}.safetensors"), self.tensors[name])
        text = json.dumps(self.state.record(), indent=1) + "\n"
        self._file(STATE).write_text(text)
        sync(self.folder / STATE)

    def fill(self) -> None:
        """Write the numbers of this process, and bring them to the disk."""
        for name in TENSORS:
            path = self._file(f"{name}.safetensors")
            fill_file(path, self.tensors[name], first=self.first)
            sync(path)

    def seal(self, target: Path) -> None:
        """Add the sums and give the folder its name."""
        if not self.first:
            return
        path = self._file(SUMS)
        path.write_text("".join(f"{_digest(self.folder / name)}  {name}\n" for name in _FILES))
        sync(path)
        sync(self.folder)
        self.folder.rename(target)
        sync(target.parent)

    def _file(self, name: str) -> Path:
        self.name = name
        return self.folder / name


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


def require_alike(found: Named, expected: Named) -> None:
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
        if tuple(have.shape) != tuple(want.shape) or have.dtype != want.dtype:
            raise ValueError(
                f"{name} is {have.dtype} of shape {tuple(have.shape)}, "
                f"the model needs {want.dtype} of shape {tuple(want.shape)}"
            )
