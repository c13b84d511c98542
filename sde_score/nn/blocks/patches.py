"""Patches of a signal as channels, and back, in any number of dimensions.

A side that is no multiple of the patch is padded by zeros at its far end, and cut on the way back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def space_to_depth(x: Tensor, patch: Sequence[int] | int = 2) -> Tensor:
    """Every patch becomes one position, with its channels ordered (channel, place in the patch).

    Args:
        x: shape `(batch, channels, ...)`.
        patch: sides of a patch, one for all or one each.
    """
    sides = x.shape[2:]
    patch = _sides(patch, len(sides))
    spare = [-side % p for side, p in zip(sides, patch, strict=True)]
    if any(spare):
        x = F.pad(x, [pad for extra in reversed(spare) for pad in (0, extra)])
    split = [n for side, p in zip(x.shape[2:], patch, strict=True) for n in (side // p, p)]
    x = x.reshape(*x.shape[:2], *split)
    places = range(2, x.ndim)
    x = x.permute(0, 1, *places[1::2], *places[0::2])
    return x.flatten(1, 1 + len(sides))


def depth_to_space(x: Tensor, patch: Sequence[int] | int, size: Sequence[int]) -> Tensor:
    """The inverse of `space_to_depth`.

    Args:
        x: shape `(batch, channels, ...)`.
        patch: sides of a patch, one for all or one each.
        size: sides of what comes out, to which it is cut.
    """
    sides = x.shape[2:]
    dims = len(sides)
    patch = _sides(patch, dims)
    channels = x.shape[1] // math.prod(patch)
    x = x.reshape(x.shape[0], channels, *patch, *sides)
    order = [axis for k in range(dims) for axis in (2 + dims + k, 2 + k)]
    x = x.permute(0, 1, *order)
    x = x.reshape(*x.shape[:2], *(side * p for side, p in zip(sides, patch, strict=True)))
    index = (slice(None), slice(None), *(slice(side) for side in size))
    return x[index]


def _sides(patch: Sequence[int] | int, dims: int) -> tuple[int, ...]:
    return (patch,) * dims if isinstance(patch, int) else tuple(patch)
