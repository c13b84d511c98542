"""Ends of the probability flow, found once per start and kept on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, rows_of
from sde_score._core.files import replace_file
from sde_score._core.processes import shared
from sde_score.evaluation.benchmarks.targets import BenchmarkTarget
from sde_score.evaluation.provenance import provenance
from sde_score.random import example_seeds

PART = 256


@dataclass(frozen=True, eq=False)
class FlowEnds:
    """Ends of the flow of a target from the starts of a seed.

    They are found in parts of 256 starts, shared over processes, each kept in a file for later
    calls, with other numbers of starts too; a damaged file is replaced, and one of another version
    is left aside.

    Args:
        target: whose flow.
        folder: for the files; None keeps nothing.
    """

    target: BenchmarkTarget
    folder: Path | None = None
    _known: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, seed: int, count: int) -> Tensor:
        """Ends of the first `count` starts of a seed, shape `(count, *event)`, on the CPU."""
        condition = self.target.condition(count)
        places = [(seed, first, min(PART, count - first)) for first in range(0, count, PART)]
        missing = [place for place in places if place not in self._known]

        def found(place: tuple[int, int, int]) -> Tensor:
            _, first, size = place
            return self._part(*place, rows_of(condition, slice(first, first + size)))

        self._known.update(zip(missing, shared(missing, found), strict=True))
        return torch.cat([self._known[place] for place in places])

    def _part(self, seed: int, first: int, size: int, condition: Condition) -> Tensor:
        stored = self._stored(seed, first, size)
        if stored is not None:
            return stored
        start = self.target.start(example_seeds(seed, size, first))
        ends = self.target.flow(start, condition).cpu().contiguous()
        if self.folder is not None:
            from safetensors.torch import save

            self.folder.mkdir(parents=True, exist_ok=True)
            content = save({"ends": ends}, {"sha256": _digest(ends)})
            replace_file(self._path(seed, first, size), content)
        return ends

    def _stored(self, seed: int, first: int, size: int) -> Tensor | None:
        if self.folder is None:
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(seed, first, size), "pt") as file:
                ends: Tensor = file.get_tensor("ends")
                promised = (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        fits = ends.shape == (size, *self.target.event_shape)
        return ends if fits and promised == _digest(ends) else None

    def _path(self, seed: int, first: int, size: int) -> Path:
        owner = provenance(self.target.identity)[:12]
        name = f"flow-{owner}-seed{seed}-{first}-{first + size}.safetensors"
        return (self.folder or Path()) / name


def _digest(ends: Tensor) -> str:
    return hashlib.sha256(ends.numpy().tobytes()).hexdigest()
