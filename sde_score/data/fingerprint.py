"""Fingerprints of data sets: equal for equal examples and labels in equal order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sde_score._core.conditions import Condition, rows_of, tensors_of
from sde_score._core.records import Record
from sde_score.data.dataset import DataSet

_CHUNK = 1 << 22  # numbers that are looked at together
_ROUNDING = 1e-6  # relative, of the projection of numbers that another machine computed


@dataclass(frozen=True)
class Fingerprint(Record):
    r"""Digests of the raw examples and of the labels, and a projection that survives rounding.

    Generated data differ in the last digits between machines, so floating-point examples are also
    projected on one fixed direction, :math:`\sum_{ij} w_i v_j x_{ij}` with weights in [-1, 1]. An
    example that is changed, added or moved changes the sum by far more than rounding does.

    Args:
        rows: SHA-256 of dtype, event shape and all numbers in order.
        labels: SHA-256 of the labels, or of the raw conditions, in order; empty without.
        projection: of floating-point examples, else 0.
        size: root of the sum of squares of the terms of the projection.
    """

    rows: str
    labels: str
    projection: float = 0.0
    size: float = 0.0

    @classmethod
    def of(cls, dataset: DataSet, count: int | None = None) -> Fingerprint:
        """Fingerprint of a data set, or of its first `count` examples; reads them once."""
        count = len(dataset) if count is None else min(count, len(dataset))
        rows = hashlib.sha256()
        projection = squares = 0.0
        step = max(1, _CHUNK // max(1, math.prod(dataset.event_shape)))
        for first in range(0, count, step):
            piece = dataset[first : min(first + step, count)]
            if first == 0:
                rows.update(f"{piece.dtype} {dataset.event_shape}".encode())
            rows.update(_bytes(piece))
            if piece.is_floating_point():
                terms = _weighted(piece, first)
                projection += terms.sum().item()
                squares += terms.square().sum().item()
        kept: Condition = dataset.labels_at(torch.arange(count))
        if dataset.conditions is not None:
            chosen = slice(count) if dataset.rows is None else dataset.rows[:count]
            kept = rows_of(dataset.conditions, chosen)
        labels = "" if kept is None else _digest(kept)
        return cls(rows.hexdigest(), labels, projection, math.sqrt(squares))

    def same_rows(self, other: Fingerprint, rounded: bool = False) -> bool:
        """Whether the examples are equal.

        Args:
            other: of the other examples.
            rounded: take numbers as equal that agree up to rounding.
        """
        if self.rows == other.rows:
            return True
        gap = max(abs(self.projection - other.projection), abs(self.size - other.size))
        return rounded and gap < _ROUNDING * self.size


def _weighted(piece: Tensor, first: int) -> Tensor:
    x = piece.flatten(1).to(torch.float64)
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
