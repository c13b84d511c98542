"""Operators by name, for text such as `"mask(box=(8, 8, 12, 12))"` and examples of a shape."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.checks import require_count, require_positive, require_shape
from sde_score._core.errors import DataError
from sde_score._core.memory import require_memory
from sde_score._core.registry import Registry
from sde_score.posterior.operators import Mask, Matrix, Operator
from sde_score.posterior.signal_operators import Blur, Fourier, Gray, MeanPool, Radon, Resize
from sde_score.random import generator_from


@checked
def mask(
    event_shape: Sequence[int],
    box: tuple[int, ...] | None = None,
    share: float | None = None,
    columns: tuple[int, ...] | None = None,
    file: Path | str | None = None,
    seed: int = 0,
) -> Mask:
    """A part of the entries, given in one of four ways; half of them at random if in none.

    Args:
        event_shape: of an example.
        box: what is missing of an image: top, left, height and width in pixels.
        share: of the pixels, or of the entries of a table, that are measured, at random, in (0, 1].
        columns: of a table that are measured, from 0.
        file: `.npy` with a boolean array, True where measured: of the shape of an example, or of
            the sides of an image.
        seed: random seed for `share`.

    Raises:
        ValueError: for several of the four, or one that does not fit the shape.
        DataError: for a file that cannot be read.
    """
    shape = require_shape("event_shape", event_shape, "the shape of one example")
    require_memory(16.0 * prod(shape), f"a mask of event_shape={shape}")
    given = {"box": box, "share": share, "columns": columns, "file": file}
    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1:
        raise ValueError(f"{' and '.join(several)} all say what is measured: give one of them")
    share = 0.5 if not several else share
    sides = shape[1:] if len(shape) > 1 else shape
    kept = torch.ones(sides, dtype=torch.bool)
    if share is not None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share} must lie in (0, 1]")
        order = torch.randperm(prod(sides), generator=generator_from(seed))
        kept = (order < max(1, round(share * prod(sides)))).reshape(sides)
    elif box is not None:
        if len(box) != 4 or len(shape) != 3:
            raise ValueError(f"box={box} must be top, left, height, width; of images, not {shape}")
        top, left, height, width = box
        inside = 0 <= top < top + height <= sides[0] and 0 <= left < left + width <= sides[1]
        if not inside:
            raise ValueError(f"box={box} does not lie in an image of {sides[0]} x {sides[1]}")
        kept[top : top + height, left : left + width] = False
    elif columns is not None:
        if len(shape) != 1 or not all(0 <= column < shape[0] for column in columns):
            raise ValueError(f"columns={columns} must be columns of a table, 0 to {shape[0] - 1}")
        kept = torch.isin(torch.arange(shape[0]), torch.tensor(columns))
    else:
        kept = _read(Path(str(file)), np.bool_)
    if tuple(kept.shape) not in (shape, sides):
        raise ValueError(f"the mask has the shape {tuple(kept.shape)}; accepted: {shape}, {sides}")
    return Mask(kept.expand(shape))


@checked
def blur(event_shape: Sequence[int], width: int = 5, std: float = 1.0) -> Blur:
    """A Gaussian blur.

    Args:
        event_shape: of an example.
        width: of the kernel in pixels, odd.
        std: of the kernel in pixels.
    """
    require_count(width=width)
    if width > max(event_shape) or width % 2 == 0:
        raise ValueError(f"width={width} must be odd, and at most the sides of {event_shape}")
    require_positive(std=std)
    places = torch.arange(width, dtype=torch.float64) - width // 2
    line = torch.exp(-0.5 * (places / std) ** 2)
    kernel = line
    for _ in range(len(event_shape) - 2):
        kernel = kernel[..., None] * line
    return Blur(event_shape, kernel / kernel.sum())


@checked
def fourier(event_shape: Sequence[int], share: float = 0.3, seed: int = 0) -> Fourier:
    """Some frequencies: the lowest, and others at random, as many.

    Args:
        event_shape: of an example.
        share: of all frequencies that are measured, in (0, 1].
        seed: random seed.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must lie in (0, 1]")
    sides = tuple(event_shape[1:])
    square = torch.zeros(sides, dtype=torch.float64)
    for axis, side in enumerate(sides):
        shape = [1] * len(sides)
        shape[axis] = side
        square = square + torch.fft.fftfreq(side, dtype=torch.float64).reshape(shape) ** 2
    count = max(1, round(share * prod(sides)))
    low = square.flatten().argsort()[: -(-count // 2)]
    order = torch.rand(prod(sides), generator=generator_from(seed))
    order[low] = -1
    kept = torch.zeros(prod(sides), dtype=torch.bool)
    kept[order.argsort()[:count]] = True
    return Fourier(event_shape, kept.reshape(sides))


@checked
def radon(event_shape: Sequence[int], count: int = 16) -> Radon:
    """Projections along directions that share half a turn evenly.

    Args:
        event_shape: of an example.
        count: of directions.
    """
    require_count(count=count)
    require_memory(8.0 * count * prod(event_shape), f"count={count} projections")
    return Radon(event_shape, torch.arange(count) * (torch.pi / count))


@checked
def matrix(event_shape: Sequence[int], file: Path | str) -> Matrix:
    """A matrix over flattened examples.

    Args:
        event_shape: of an example.
        file: `.npy` of shape `(measured, event)`.
    """
    return Matrix(_read(Path(str(file)), np.float64), event_shape)


def _read(path: Path, kind: type[np.generic]) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False).astype(kind))
    except (OSError, ValueError) as error:
        raise DataError(f"file={str(path)[:200]} is no array of NumPy, .npy: {error}") from error


OPERATORS: Registry[Operator] = Registry(
    "operator",
    {
        "mask": mask,
        "mean-pool": MeanPool,
        "resize": Resize,
        "blur": blur,
        "fourier": fourier,
        "radon": radon,
        "gray": Gray,
        "matrix": matrix,
    },
    base=Operator,
)
"""Operators by name, each a function of `event_shape` and options, and those of users."""


def operator_of(value: str | Operator, event_shape: Sequence[int]) -> Operator:
    """An operator as it is, or the one that a text names, for examples of a shape.

    Raises:
        ValueError: for an unknown name, options that it does not take, or examples of another
            shape.
    """
    if isinstance(value, str):
        return OPERATORS.create(value, event_shape=tuple(event_shape))
    found = OPERATORS.resolve(value, name="operator")
    if found.event_shape != tuple(event_shape):
        raise ValueError(f"operator takes {found.event_shape}, and examples are {event_shape}")
    return found
