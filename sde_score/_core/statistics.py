"""Moments and the largest distance of a data set, in float64, in pieces that bound the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Numbers held in float64 at once: 2^24 take 128 MiB.
_CHUNK = 1 << 24


def chunks(source: Tensor) -> Iterator[Tensor]:
    """Consecutive pieces of `(count, *event)` that are small enough to be widened to float64."""
    rows = max(1, _CHUNK // max(1, source[0].numel()))
    for first in range(0, len(source), rows):
        yield source[first : first + rows]


def moments(
    source: Tensor, transform: Callable[[Tensor], Tensor] = lambda piece: piece
) -> tuple[Tensor, Tensor]:
    """Mean and population variance of each dimension over the examples, float64, shape `event`.

    Args:
        source: shape `(count, *event)`, any real dtype.
        transform: applied to each piece `(n, *event)` first.
    """
    # Sums are taken about the first example, so that a mean far from zero does not cancel digits.
    origin = transform(source[:1]).to(torch.float64)[0]
    total, squares = torch.zeros_like(origin), torch.zeros_like(origin)
    for piece in chunks(source):
        shifted = transform(piece).to(torch.float64) - origin
        total += shifted.sum(0)
        squares += shifted.square().sum(0)
    mean = total / len(source)
    return origin + mean, (squares / len(source) - mean.square()).clamp(min=0)


def largest_distance(x: Tensor, rows: int = 1024) -> float:
    """Largest Euclidean distance between two rows of `x`, shape `(count, *event)`."""
    points = x.flatten(1).to(torch.float64)
    points = points - points.mean(0)
    largest = 0.0
    for first in range(0, len(points), rows):
        piece = points[first : first + rows]
        largest = max(largest, torch.cdist(piece, points[first:]).max().item())
    return largest
