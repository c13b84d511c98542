"""Fingerprints of data sets: equal for equal examples and labels in equal order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, mapped, tensors_of
from sde_score._core.errors import DataError
from sde_score._core.records import Record
from sde_score.data.dataset import DataSet
from sde_score.data.sources.base import Part, Rows

_CHUNK = 1 << 22  # numbers that are looked at together
_ALL = 5000  # examples that are read lazily: of more, a few stand for all
_FEW = 16
_NAMED = 3  # files that a message names
_ROUNDING = 1e-6  # relative, of the projection of numbers that another machine computed


@dataclass(frozen=True)
class Fingerprint(Record):
    r"""Digests of the raw examples and of the labels, and a projection that survives rounding.

    Generated data differ in the last digits between machines, so floating-point examples are also
    projected on one fixed direction, :math:`\sum_{ij} w_i v_j x_{ij}` with weights in [-1, 1]. An
    example that is changed, added or moved changes the sum by far more than rounding does.

    Of many examples that are read lazily, a few are looked at, evenly spaced, and the names and
    sizes of the files stand for the rest: `examples` and `parts` say so.

    Args:
        rows: SHA-256 of dtype, event shape and all numbers in order.
        labels: SHA-256 of the labels, or of the raw conditions, in order; empty without.
        projection: of floating-point examples, else 0.
        size: root of the sum of squares of the terms of the projection.
        examples: how many examples `rows`, `projection` and `size` are of; None for all.
        parts: files or folders that hold the examples, in order; empty for examples in memory.
    """

    rows: str
    labels: str
    projection: float = 0.0
    size: float = 0.0
    examples: int | None = None
    parts: tuple[Part, ...] = ()

    @classmethod
    def of(
        cls, dataset: DataSet, count: int | None = None, like: Fingerprint | None = None
    ) -> Fingerprint:
        """Fingerprint of a data set, or of its first `count` examples; reads them once.

        Args:
            dataset: what is recognized.
            count: of its examples; None for all.
            like: one to compare with: as many examples are looked at. None for all, or for a few of
                many that are read lazily.
        """
        count = len(dataset) if count is None else min(count, len(dataset))
        source: Any = dataset._source
        parts: tuple[Part, ...] = ()
        examples = _FEW if isinstance(source, Rows) and count > _ALL else None
        if isinstance(source, Rows):
            parts = source.parts if dataset.rows is not None else _first(source.parts, count)
        if like is not None:
            examples = like.examples
        rows, projection, squares = _looked_at(dataset, _places(count, examples))
        kept: Condition = dataset.labels_at(torch.arange(count))
        if dataset.conditions is not None:
            whole, some = (dataset._rows(_places(count, n)) for n in (None, examples))
            kept = mapped(dataset.conditions, lambda v: v[some if isinstance(v, Rows) else whole])
        labels = "" if kept is None else _digest(kept)
        return cls(rows, labels, projection, math.sqrt(squares), examples, parts)

    def same_rows(self, other: Fingerprint, rounded: bool = False) -> bool:
        """Whether the examples are equal, as far as both have looked.

        Args:
            other: of the other examples.
            rounded: take numbers as equal that agree up to rounding.
        """
        if self.examples != other.examples or self.changed_parts(other):
            return False
        if self.rows == other.rows:
            return True
        gap = max(abs(self.projection - other.projection), abs(self.size - other.size))
        return rounded and gap < _ROUNDING * self.size

    def changed_parts(self, before: Fingerprint) -> list[str]:
        """What happened to files since a fingerprint was taken, one text for each.

        Args:
            before: the earlier one; where either has no files, nothing is known of them.
        """
        if not self.parts or not before.parts:
            return []
        now, then = ({part.name: part for part in each.parts} for each in (self, before))
        found = [f"{name} is gone" for name in then if name not in now]
        found += [f"{name} is new among them" for name in now if name not in then]
        found += [_change(now[name], then[name]) for name in then if name in now]
        found = [text for text in found if text]
        if not found and list(now) != list(then):
            found = ["the files are in another order"]
        more = [f"and {len(found) - _NAMED} files more"] if len(found) > _NAMED else []
        return [*found[:_NAMED], *more]


def _change(now: Part, then: Part) -> str:
    if now.count != then.count:
        return f"{now.name} holds {now.count} examples, held {then.count}"
    if now.size != then.size:
        return f"{now.name} takes {now.size} bytes, took {then.size}"
    return "" if now == then else f"{now.name} holds others, or in another order"


def _first(parts: tuple[Part, ...], count: int) -> tuple[Part, ...]:
    """The parts that hold the first `count` rows."""
    before = accumulate((part.count for part in parts), initial=0)
    return tuple(part for part, first in zip(parts, before, strict=False) if first < count)


def _places(count: int, examples: int | None) -> Tensor:
    """Examples that are looked at among `count`: all, or some evenly spaced."""
    if examples is None or examples >= count:
        return torch.arange(count)
    return torch.linspace(0, count - 1, examples, dtype=torch.float64).round().long()


def _looked_at(dataset: DataSet, places: Tensor) -> tuple[str, float, float]:
    """Digest of examples, their projection, and the sum of squares of its terms."""
    rows = hashlib.sha256()
    projection = squares = 0.0
    step = max(1, _CHUNK // max(1, math.prod(dataset.event_shape)))
    for first in range(0, len(places), step):
        piece, lost = _read(dataset, places[first : first + step])
        rows.update(lost)
        if first == 0:
            rows.update(f"{piece.dtype} {dataset.event_shape}".encode())
        rows.update(_bytes(piece))
        if piece.is_floating_point():
            terms = _weighted(piece, first)
            projection += terms.sum().item()
            squares += terms.square().sum().item()
    return rows.hexdigest(), projection, squares


def _read(dataset: DataSet, places: Tensor) -> tuple[Tensor, bytes]:
    """Examples, and where among them one cannot be read and is left out: empty if all can."""
    source: Any = dataset._source
    if not isinstance(source, Rows):
        return dataset.raw(places), b""
    rows = dataset._rows(places)
    try:
        return source[rows], b""
    except DataError:
        good = source.readable(rows)[0]
        return source[rows[good]], (~good).numpy().tobytes()


def _weighted(piece: Tensor, first: int) -> Tensor:
    x = torch.nan_to_num(piece.flatten(1).to(torch.float64))  # missing cells count 0
    row = torch.arange(first, first + len(x), dtype=torch.float64)
    column = torch.arange(x.shape[1], dtype=torch.float64)
    return x * torch.cos(2.4 * row)[:, None] * torch.cos(1.7 * column + 1)


def _digest(condition: Condition) -> str:
    digest = hashlib.sha256()
    if isinstance(condition, Mapping):
        for name, value in sorted(condition.items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
    for value in tensors_of(condition):
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(values: Tensor) -> Any:
    return values.contiguous().flatten().view(torch.uint8).numpy()
