r"""Sliced Wasserstein distance: optimal transport on lines, averaged over directions.

On a line, optimal transport pairs the sorted examples, so the distance is exact and costs one sort.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score.evaluation.metrics._sets import BLOCK_NUMBERS, blocks, require_sets
from sde_score.random import generator_from


def sliced_wasserstein2(x: Tensor, y: Tensor, projections: int = 512, seed: int = 0) -> float:
    r"""Sliced 2-Wasserstein distance between two sets, in the units of the data.

    .. math:: SW_2(x, y)^2 = E_u \, W_2(u \cdot x, u \cdot y)^2

    with u uniform on the unit sphere. There is no factor of dimension: a shift by the vector d in D
    dimensions has distance about :math:`|d| / \sqrt D`. Two finite sets of one distribution
    are at a distance above 0: the noise floor, see `distances`.

    Args:
        x: first set, shape `(n, *event)`, n >= 2.
        y: second set, shape `(m, *event)`; m may differ from n.
        projections: number of directions, at least 1; for two sets that differ by a shift the
            relative error is about `0.7 / sqrt(projections)`.
        seed: random seed; direction k depends on `(seed, k)` and the event shape alone.

    Returns:
        The distance, at least 0.

    Raises:
        TypeError: if a set is not a floating-point tensor.
        ValueError: if the sets do not fit each other, are too small or not finite.

    Reference: Bonneel et al. 2015, https://doi.org/10.1007/s10851-014-0506-3.
    """
    x, y = require_sets(x, y)
    require_count(projections=projections)
    width = max(1, BLOCK_NUMBERS // max(len(x) + len(y), x.shape[1]))
    total = 0.0
    for first in range(0, projections, width):
        which = range(first, min(first + width, projections))
        directions = _directions(which, x.shape[1], seed).to(x.device)
        total += float(_line_costs(_project(x, directions), _project(y, directions)).sum())
    return math.sqrt(total / projections)


def _directions(which: range, features: int, seed: int) -> Tensor:
    """Unit vectors number `which`, drawn on the CPU so that every device sees the same ones."""
    draws = [
        torch.randn(features, generator=generator_from(seed, k), dtype=torch.float64) for k in which
    ]
    return torch.nn.functional.normalize(torch.stack(draws), dim=1, eps=0.0)


def _project(x: Tensor, directions: Tensor) -> Tensor:
    """Sorted projections, shape `(directions, examples)`."""
    lines = directions.new_empty(len(directions), len(x))
    for rows in blocks(x):
        lines[:, rows] = directions @ x[rows].to(directions).T
    return lines.sort(dim=1).values


def _line_costs(a: Tensor, b: Tensor) -> Tensor:
    r"""Exact :math:`W_2^2 = \int_0^1 (Q_a(q) - Q_b(q))^2 dq` of sorted lines `(k, n)` and `(k, m)`.

    The quantile functions are constant between multiples of 1/n and of 1/m; the merged grid is kept
    in integer multiples of 1/(n m), so that no quantile is rounded. Equal ones have length 0.
    """
    n, m = a.shape[1], b.shape[1]
    steps = torch.arange(n, device=a.device) * m, torch.arange(m, device=a.device) * n
    starts = torch.cat(steps).sort().values
    lengths = starts.diff(append=starts.new_tensor([n * m])).to(a.dtype) / (n * m)
    gaps: Tensor = a[:, starts // m] - b[:, starts // n]
    return gaps.square() @ lengths
