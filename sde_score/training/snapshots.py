"""Snapshots of power-function averages, from which one of any length is made after training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.files import sync
from sde_score.training.checkpoint import refusing, require_alike
from sde_score.training.distributed import Vote
from sde_score.training.errors import CheckpointError
from sde_score.training.posthoc_ema import (
    LONGEST,
    Snapshot,
    power_of,
    reconstruct,
    update_factor,
)
from sde_score.training.tensor_files import Named, begin_file, change_metadata, fill_file

LENGTHS = (0.05, 0.10)
"""sigma_rel of the averages that are kept, those of EDM2."""

FOLDER = "snapshots"

_NAME = re.compile(r"step-([1-9][0-9]{0,15})\.safetensors")
_WEIGHTS = re.compile(r"ema\(([^()]+)\)")


class PowerAverages:
    """Averages of `LENGTHS` of the weights, beside the run's own.

    Args:
        parameters: by name; those of an objective are left out.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        own = {n: p for n, p in parameters.items() if not n.startswith("objective.")}
        self._weights = own
        self._gammas = {length: power_of(length) for length in LENGTHS}
        self.shadows = {
            length: {name: weight.detach().clone() for name, weight in own.items()}
            for length in LENGTHS
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, counted from 1, to the averages."""
        for length, gamma in self._gammas.items():
            shadows = list(self.shadows[length].values())
            share = 1 - update_factor(gamma, step, 1)
            torch._foreach_lerp_(shadows, list(self._weights.values()), share)

    def state(self) -> dict[str, Tensor]:
        """The averages, named `<parameter>/average-<length>`."""
        return {
            f"{name}/average-{length}": shadow
            for length, shadows in self.shadows.items()
            for name, shadow in shadows.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, shadow in self.state().items():
            shadow.copy_(state[name])


class Snapshots:
    """Files `step-N.safetensors`, each whole or not there at all, with the sum of its content.

    Args:
        folder: `snapshots/` of a run; need not exist.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def steps(self) -> list[int]:
        """Steps that have a snapshot, in order."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))

    def write(self, step: int, tensors: Named, vote: Vote | None = None) -> None:
        """Keep averages after a step; those of the same step are replaced.

        Args:
            step: of the run.
            tensors: `state()` of `PowerAverages`, or the parts of it that this process holds.
            vote: of the processes that write together; None for this one alone.

        Raises:
            OSError: if the file cannot be written.
        """
        vote = vote or Vote()
        path, first = self._path(step), vote.rank == 0
        temporary = self.folder / f".{vote.token()}.tmp"
        unknown = {"sha256": "0" * 64}

        def begin() -> None:
            if first:
                self.folder.mkdir(parents=True, exist_ok=True)
                begin_file(temporary, tensors, unknown)

        def fill() -> None:
            fill_file(temporary, tensors, first=first, metadata=unknown)
            sync(temporary)

        def seal() -> None:
            if first:
                change_metadata(temporary, tensors, {"sha256": _digest_of(temporary)[0]})
                sync(temporary)
                temporary.replace(path)
                sync(self.folder)

        try:
            for work in (begin, fill, seal):
                vote.attempt(work)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        finally:
            if first:
                temporary.unlink(missing_ok=True)

    def rewind(self, step: int) -> None:
        """Remove snapshots of steps after `step`, which a resumed run takes again."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        for later in self.steps():
            if later > step:
                self._path(later).unlink(missing_ok=True)

    def reconstruct(
        self, sigma_rel: float, step: int, expected: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The average of a length at the last snapshot up to a step.

        Args:
            sigma_rel: its length, in (0, 0.2887).
            step: of the run.
            expected: parameters of the names, shapes and types that must be there.

        Raises:
            CheckpointError: for a run without snapshots, or a damaged file.
            ValueError: for a length out of range.
        """
        power_of(sigma_rel)
        used = [one for one in self.steps() if one <= step]
        if not used:
            raise CheckpointError(
                f"{self.folder} has no snapshot up to step {step}, of which an average of another "
                "length is made: train with snapshot_every (--snapshot-every 500)"
            )
        found = [snapshot for one in used for snapshot in self._read(one, expected)]
        return reconstruct(found, sigma_rel)

    def _read(self, step: int, expected: Mapping[str, Tensor]) -> list[Snapshot]:
        from safetensors.torch import load_file

        path = self._path(step)
        names = {f"{name}/average-{length}": name for length in LENGTHS for name in expected}
        with refusing(path):
            found, promised = _digest_of(path)
            if promised != found:
                raise ValueError("it is damaged: its SHA-256 is not the one that it names")
            tensors = load_file(path)
            require_alike(tensors, {full: expected[name] for full, name in names.items()})
        return [
            Snapshot(step, length, {name: tensors[f"{name}/average-{length}"] for name in expected})
            for length in LENGTHS
        ]

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}.safetensors"


def length_of(weights: str) -> float | None:
    """The length in `ema(0.1)`; None for other weights.

    Raises:
        ValueError: for a length that is no number, or out of range.
    """
    match = _WEIGHTS.fullmatch(weights.strip()) if isinstance(weights, str) else None
    if match is None:
        return None
    try:
        length = float(match[1].removeprefix("sigma_rel="))
        power_of(length)
    except ValueError as error:
        raise ValueError(
            f"weights={weights!r} must name a length between 0 and {LONGEST:.4f}, as ema(0.1)"
        ) from error
    return length


def _digest_of(path: Path) -> tuple[str, str | None]:
    """The SHA-256 of what a file holds, tensor by tensor, and the one that it names."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, "pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest(), (file.metadata() or {}).get("sha256")
