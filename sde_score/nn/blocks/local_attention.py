r"""Attention over a grid of tokens: all pairs, windows, or the neighborhood of each.

Queries, keys and values have the shape `(batch, heads, *grid, channels)`, with a grid of one to
three sides of any length; so has the answer. All are written out, because fused attention has
neither second derivatives nor forward-mode ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def global_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token attends to every other.

    Args:
        q: queries, scaled.
        k: keys.
        v: values.
    """
    grid = q.shape[2:-1]
    q, k, v = (x.flatten(2, -2) for x in (q, k, v))
    found = (q @ k.mT).softmax(dim=-1) @ v
    return found.reshape(*found.shape[:2], *grid, found.shape[-1])


def window_attention(q: Tensor, k: Tensor, v: Tensor, size: int, shift: int = 0) -> Tensor:
    """Every token attends to those of its window.

    The windows tile the grid from `shift` tokens before its beginning; those at its ends are cut.

    Args:
        q: queries, scaled.
        k: keys.
        v: values.
        size: side of a window.
        shift: 0 <= shift < size.

    Reference: Liu et al. 2021, https://arxiv.org/abs/2103.14030.
    """
    grid = q.shape[2:-1]
    ends = [(shift, -(side + shift) % size) for side in grid]
    tiles = [
        (before + side + after) // size for side, (before, after) in zip(grid, ends, strict=True)
    ]
    inside = torch.ones(grid, dtype=torch.bool, device=q.device)
    mask = F.pad(inside, [n for pair in reversed(ends) for n in pair])[..., None]
    q, k, v, keys = (
        _tiled(x, tiles, size)
        for x in (*(_padded(x, ends) for x in (q, k, v)), mask.expand(1, 1, *mask.shape))
    )
    scores = (q @ k.mT).masked_fill(~keys.mT, -math.inf)
    found = _joined(scores.softmax(dim=-1) @ v, tiles, size)
    index = (slice(None), slice(None), *(slice(shift, shift + side) for side in grid))
    return found[index]


def _padded(x: Tensor, ends: list[tuple[int, int]]) -> Tensor:
    return F.pad(x, [0, 0, *(n for pair in reversed(ends) for n in pair)])


def _tiled(x: Tensor, tiles: list[int], size: int) -> Tensor:
    """(batch, heads, *sides, channels) to (batch, heads, tiles, places, channels)."""
    x = x.reshape(*x.shape[:2], *(n for count in tiles for n in (count, size)), x.shape[-1])
    axes = list(range(2, x.ndim - 1))
    x = x.permute(0, 1, *axes[0::2], *axes[1::2], x.ndim - 1)
    return x.reshape(*x.shape[:2], math.prod(tiles), size ** len(tiles), x.shape[-1])


def _joined(x: Tensor, tiles: list[int], size: int) -> Tensor:
    """The inverse of `_tiled`."""
    dims = len(tiles)
    x = x.reshape(*x.shape[:2], *tiles, *[size] * dims, x.shape[-1])
    x = x.permute(0, 1, *(axis for i in range(dims) for axis in (2 + i, 2 + dims + i)), x.ndim - 1)
    return x.reshape(*x.shape[:2], *(count * size for count in tiles), x.shape[-1])


def neighborhood_attention(q: Tensor, k: Tensor, v: Tensor, size: int) -> Tensor:
    """Every token attends to the window of `size` tokens a side around it.

    Near an end the window is moved inside of the grid, so that it always has as many tokens; a side
    of less than `size` tokens is taken as a whole. Keys are gathered along the first side; along
    the others, those that are too far are left out of all.

    Args:
        q: queries, scaled.
        k: keys.
        v: values.
        size: side of a neighborhood, an odd number.

    Reference: Hassani et al. 2022, https://arxiv.org/abs/2204.07143.
    """
    grid = q.shape[2:-1]
    rows = neighbors(grid[0], size, q.device)
    near = torch.ones(1, 1, dtype=torch.bool, device=q.device)
    for side in grid[1:]:
        places = neighbors(side, size, q.device)
        one = torch.zeros(side, side, dtype=torch.bool, device=q.device).scatter(1, places, True)
        near = (near[:, None, :, None] & one[None, :, None, :]).reshape(
            near.shape[0] * side, near.shape[1] * side
        )
    q = q.flatten(3, -2) if len(grid) > 1 else q[..., None, :]
    k, v = (
        (x.flatten(3, -2) if len(grid) > 1 else x[..., None, :])[:, :, rows].flatten(3, 4)
        for x in (k, v)
    )
    mask = near.repeat(1, rows.shape[1])
    scores = (q @ k.mT).masked_fill(~mask, -math.inf)
    found = scores.softmax(dim=-1) @ v
    return found.reshape(*found.shape[:2], *grid, found.shape[-1])


def neighbors(side: int, size: int, device: torch.device) -> Tensor:
    """Places of the neighborhood of each place, int64 of shape `(side, min(size, side))`."""
    count = min(size, side)
    places = torch.arange(side, device=device)
    start = (places - size // 2).clamp(0, side - count)
    return start[:, None] + torch.arange(count, device=device)
