"""Operators of signals: averages, blurs, frequencies, other sizes, projections."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import require_count, require_finite, require_shape
from sde_score.posterior.operators import LinearFunction, Operator
from sde_score.posterior.spectrum import Spectrum, above_rounding, floating, hartley


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
    def factorise(self) -> Spectrum:
        value = self.factor ** (-0.5 * (len(self.event_shape) - 1))
        count = prod(self.measured_shape)
        return Spectrum(
            torch.full((count,), value, dtype=torch.float64),
            lambda x: self.forward(x).flatten(1) / value,
            lambda c: self.adjoint(c.reshape(len(c), *self.measured_shape)) / value,
            lambda y: y.flatten(1),
            lambda c: c.reshape(len(c), *self.measured_shape),
        )


class Gray(Operator):
    """The gray value of every pixel, a weighted sum of its channels; its posterior is colorization.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        weights: one for each channel, such as `(0.299, 0.587, 0.114)`; None for their average.

    Raises:
        ValueError: for another number of weights, or none that is not zero.
    """

    @checked
    def __init__(self, event_shape: Sequence[int], weights: Sequence[float] | None = None) -> None:
        self.event_shape = _require_sides(event_shape)
        require_finite(
            **{f"weights[{i}]": w for i, w in enumerate(() if weights is None else weights)}
        )
        channels = self.event_shape[0]
        given = [1 / channels] * channels if weights is None else weights
        self.weights = torch.as_tensor(given, dtype=torch.float64)
        if tuple(self.weights.shape) != (channels,) or not float(self.weights.norm()) > 0:
            raise ValueError(f"weights={weights} must be {channels} numbers, not all zero")
        self.measured_shape = (1, *self.event_shape[1:])

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("c,bc...->b...", self.weights.to(x), x)[:, None]

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("c,b...->bc...", self.weights.to(y), y[:, 0])

    @override
    def factorise(self) -> Spectrum:
        value, count = float(self.weights.norm()), prod(self.measured_shape)
        return Spectrum(
            torch.full((count,), value, dtype=torch.float64),
            lambda x: self.forward(x).flatten(1) / value,
            lambda c: self.adjoint(c.reshape(len(c), *self.measured_shape)) / value,
            lambda y: y.flatten(1),
            lambda c: c.reshape(len(c), *self.measured_shape),
        )


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
        self.precision = floating(kernel.dtype)
        self.response = torch.fft.fftn(whole, dim=self.axes)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._filtered(x, self.response)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self.response.conj())

    @override
    def factorise(self) -> Spectrum:
        """|response| in the Hartley basis, then a filter of its phases, which is orthogonal."""
        size = self.response.abs()
        kept = above_rounding(size.flatten(), size.numel(), self.precision)
        seen = kept.reshape(size.shape)
        phases = torch.where(seen, self.response, 1.0) / torch.where(seen, size, 1.0)
        forth, back = hartley(self.event_shape[1:], kept)
        return Spectrum(
            size.flatten()[kept].repeat(self.event_shape[0]),
            forth,
            back,
            lambda y: forth(self._filtered(y, phases.conj())),
            lambda c: self._filtered(back(c), phases),
        )

    def _filtered(self, x: Tensor, response: Tensor) -> Tensor:
        spectrum = torch.fft.rfftn(x, dim=self.axes)
        factor = response[..., : spectrum.shape[-1]].to(x.device, spectrum.dtype)
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

    @override
    def factorise(self) -> Spectrum:
        """The Hartley basis: a frequency whose opposite is measured as well counts in full, one
        alone by half of its power."""
        measured = torch.zeros(self.event_shape[1:], dtype=torch.float64)
        measured.view(-1)[self.places] = 1.0
        opposite = measured.flip(self.axes).roll([1] * len(self.axes), self.axes)
        power = (measured + opposite).flatten() / 2
        kept = power > 0
        singular = power[kept].sqrt().repeat(self.event_shape[0])
        forth, back = hartley(self.event_shape[1:], kept)
        return Spectrum(
            singular,
            forth,
            back,
            lambda y: forth(self.adjoint(y)) / singular.to(y),
            lambda c: self.forward(back(c / singular.to(c))),
        )


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
