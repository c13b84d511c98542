"""Moments and the largest distance of a data set, in float64, in pieces that bound the memory.

A source is a tensor `(count, *event)`, or anything with such a `shape` that gives the rows of an
int64 tensor of numbers, `source[numbers]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

# Numbers held in float64 at once: 2^24 take 128 MiB.
_CHUNK = 1 << 24


Transform = Callable[[Tensor], Tensor]


def _same(piece: Tensor) -> Tensor:
    return piece


def chunks(source: Any, rows: Tensor | None = None) -> Iterator[Tensor]:
    """Consecutive pieces of `(count, *event)` that are small enough to be widened to float64.

    Args:
        source: shape `(count, *event)`.
        rows: rows of `source` in their order, int64, shape `(n,)`; None for all.
    """
    step, count = max(1, _CHUNK // max(1, _size(source))), len(source if rows is None else rows)
    for first in range(0, count, step):
        yield _piece(source, first, min(first + step, count), rows)


def _size(source: Any) -> int:
    """Numbers of one event."""
    return math.prod(source.shape[1:])


def _piece(source: Any, first: int, last: int, rows: Tensor | None) -> Tensor:
    if rows is None and isinstance(source, Tensor):
        return source[first:last]
    found: Tensor = source[torch.arange(first, last) if rows is None else rows[first:last]]
    return found


def _blocks(source: Any) -> Iterator[Any]:
    """The dimensions of large events in several parts `(count, n)`; other events, and those of
    sources that are no tensor, as they are."""
    if not isinstance(source, Tensor) or source.ndim < 3 or _size(source) <= _CHUNK:
        yield source
    else:
        yield from torch.split(source.flatten(1), _CHUNK, 1)


def moments(
    source: Any, transform: Transform = _same, rows: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and population variance of each dimension over the examples, float64, shape `event`.

    Args:
        source: shape `(count, *event)`, any real dtype.
        transform: applied to each piece `(n, *event)` first.
        rows: as for `chunks`.
    """
    # Sums are taken about the first example, so that a mean far from zero does not cancel digits.
    count = len(source if rows is None else rows)
    origin = transform(_piece(source, 0, 1, rows)).to(torch.float64)[0]
    total, squares = torch.zeros_like(origin), torch.zeros_like(origin)
    for piece in chunks(source, rows):
        shifted = transform(piece).to(torch.float64) - origin
        total += shifted.sum(0)
        squares += shifted.square().sum(0)
    mean = total / count
    return origin + mean, (squares / count - mean.square()).clamp(min=0)


def mean_squares(
    source: Any, transform: Transform, rows: Tensor | None = None
) -> tuple[float, float]:
    """Mean square about zero, and about the mean of each dimension (the population variance),
    averaged over the dimensions; arguments as for `moments`.

    The transform is elementwise: it meets the dimensions of large events in parts.
    """
    size, squares, variances = _size(source), [], []
    for block in _blocks(source):
        mean, variance = moments(block, transform, rows)
        squares.append((variance + mean.square()).sum().item() / size)
        variances.append(variance.sum().item() / size)
    return math.fsum(squares), math.fsum(variances)


def largest_spread(source: Any, transform: Transform, rows: Tensor) -> float:
    """Largest Euclidean distance between two of the rows; arguments as for `mean_squares`."""
    if next(_blocks(source)) is source:
        return largest_distance(torch.cat([transform(piece) for piece in chunks(source, rows)]))
    squares = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for block in _blocks(source):
        points = transform(block[rows]).to(torch.float64)
        squares += torch.cdist(points, points).square()
    return squares.max().sqrt().item()


def largest_distance(x: Tensor, rows: int = 1024) -> float:
    """Largest Euclidean distance between two rows of `x`, shape `(count, *event)`."""
    points = x.flatten(1).to(torch.float64, copy=True)
    points -= points.mean(0)
    largest = 0.0
    for first in range(0, len(points), rows):
        piece = points[first : first + rows]
        largest = max(largest, torch.cdist(piece, points[first:]).max().item())
    return largest
