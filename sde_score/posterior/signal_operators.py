"""Operators of signals: averages, blurs, frequencies, other sizes, projections."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.checks import require_count, require_shape
from sde_score.posterior.operators import LinearFunction, Operator


class MeanPool(Operator):
    """Averages over blocks of every channel, the super-resolution of the literature.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        factor: side of a block, a divisor of all sides.

    Raises:
        ValueError: for shapes without sides, or sides that the factor does not divide.
    """

    def __init__(self, event_shape: Sequence[int], factor: int) -> None:
        self.event_shape = _require_sides(event_shape)
        require_count(factor=factor)
        sides = self.event_shape[1:]
        if any(side % factor for side in sides):
            raise ValueError(f"factor={factor} must divide all sides {sides}")
        self.factor = factor
        self.measured_shape = (self.event_shape[0], *(side // factor for side in sides))

    @override
    def forward(self, x: Tensor) -> Tensor:
        pool: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[x.ndim - 3]
        pooled: Tensor = pool(x, self.factor)
        return pooled

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        blocks = float(self.factor ** (y.ndim - 2))
        return y / blocks

    @override
    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor:
        blocks = float(self.factor ** (y.ndim - 2))
        return y / (noise + signal / blocks)


class Blur(Operator):
    """Periodic convolution of every channel with one kernel.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        kernel: odd sides, as many as the example has; its center stays in place.

    Raises:
        ValueError: for a kernel that does not fit the shape.
    """

    def __init__(self, event_shape: Sequence[int], kernel: Tensor) -> None:
        self.event_shape = self.measured_shape = _require_sides(event_shape)
        sides, kernel = self.event_shape[1:], torch.as_tensor(kernel)
        fits = kernel.ndim == len(sides) and all(k % 2 for k in kernel.shape)
        if not fits or any(k > n for k, n in zip(kernel.shape, sides, strict=True)):
            raise ValueError(
                f"kernel of shape {tuple(kernel.shape)} must have {len(sides)} odd sides of at "
                f"most {sides}"
            )
        self.axes = tuple(range(-len(sides), 0))
        whole = torch.zeros(sides, dtype=torch.float64)
        whole[tuple(slice(k) for k in kernel.shape)] = kernel.double()
        whole = whole.roll([-(k // 2) for k in kernel.shape], self.axes)
        self.response = torch.fft.rfftn(whole, dim=self.axes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.response)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.response.conj())

    @override
    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor:
        power = self.response.abs().square().to(y.device)
        return self._filtered(y, 1 / (noise + signal * power))

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=self.axes)
        factor = response.to(x.device, spectrum.dtype)
        back: Tensor = torch.fft.irfftn(spectrum * factor, s=self.event_shape[1:], dim=self.axes)
        return back


class Fourier(Operator):
    """Some frequencies of every channel, as in magnetic resonance imaging.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        kept: which frequencies are measured, boolean, of the sides of an example, zero frequency
            first; None for all.

    The transform is orthonormal; real and imaginary parts are two entries of the last dimension.

    Raises:
        ValueError: for a mask of another shape.
    """

    def __init__(self, event_shape: Sequence[int], kept: Tensor | None = None) -> None:
        self.event_shape = _require_sides(event_shape)
        sides = self.event_shape[1:]
        kept = torch.ones(sides, dtype=torch.bool) if kept is None else torch.as_tensor(kept)
        if kept.dtype != torch.bool or tuple(kept.shape) != sides or not kept.any():
            raise ValueError(
                f"kept of {kept.dtype} and shape {tuple(kept.shape)} must be boolean of the sides "
                f"{sides}, with True for the frequencies that are measured"
            )
        self.axes = tuple(range(-len(sides), 0))
        self.places = kept.flatten().nonzero().flatten()
        self.measured_shape = (self.event_shape[0], len(self.places), 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.fftn(x, dim=self.axes, norm="ortho").flatten(2)
        return torch.view_as_real(spectrum[..., self.places.to(x.device)].resolve_conj())

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        values = torch.view_as_complex(y.contiguous())
        shape = (*values.shape[:2], prod(self.event_shape[1:]))
        spectrum = values.new_zeros(shape).index_copy(2, self.places.to(y.device), values)
        spectrum = spectrum.reshape(len(y), *self.event_shape)
        back: Tensor = torch.fft.ifftn(spectrum, dim=self.axes, norm="ortho").real
        return back


class Resize(LinearFunction):
    """Linear interpolation to another size, with averaging where it shrinks.

    Args:
        event_shape: (channels, height, width).
        size: (height, width) of what is measured.
    """

    def __init__(self, event_shape: Sequence[int], size: Sequence[int]) -> None:
        shape = _require_sides(event_shape)
        if len(shape) != 3:
            raise ValueError(f"event_shape={shape} must be (channels, height, width)")
        self.size = require_shape("size", size)
        super().__init__(
            lambda x: F.interpolate(
                x, self.size, mode="bilinear", align_corners=False, antialias=True
            ),
            shape,
        )


class Radon(LinearFunction):
    """Parallel projections of every channel along several directions, as in tomography.

    Args:
        event_shape: (channels, side, side).
        angles: of the directions, in radians, 0 for sums over columns.

    Sums along lines through a grid that is turned by linear interpolation, zero outside of the
    image.
    """

    def __init__(self, event_shape: Sequence[int], angles: Tensor) -> None:
        shape = _require_sides(event_shape)
        if len(shape) != 3 or shape[1] != shape[2]:
            raise ValueError(f"event_shape={shape} must be (channels, side, side)")
        turns = torch.as_tensor(angles, dtype=torch.float64).flatten()
        if not len(turns):
            raise ValueError("angles is empty: give at least one direction")
        cos, sin, zero = turns.cos(), turns.sin(), torch.zeros_like(turns)
        rows = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
        grids = F.affine_grid(rows, [len(turns), 1, *shape[1:]], align_corners=False)

        def project(x: Tensor) -> Tensor:
            lines = []
            for grid in grids.to(x):
                turned = F.grid_sample(x, grid.expand(len(x), *grid.shape), align_corners=False)
                lines.append(turned.sum(2))
            return torch.stack(lines, 2)

        super().__init__(project, shape)


def _require_sides(event_shape: Sequence[int]) -> tuple[int, ...]:
    shape = require_shape("event_shape", event_shape, "the shape of one example")
    if not 2 <= len(shape) <= 4:
        raise ValueError(f"event_shape={shape} must have channels and one to three sides")
    return shape
