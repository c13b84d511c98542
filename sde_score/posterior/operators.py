r"""Operators: what is measured of an example, y = A x, with the adjoint of A.

Examples have a batch in front everywhere: `operator(x)` maps `(batch, *event_shape)` to
`(batch, *measured_shape)`, `operator.adjoint(y)` back, and

.. math:: \langle A x, y \rangle = \langle x, A^T y \rangle .

Every other toolkit's operator with `A` and `A_adjoint`, as those of deepinv, is one by
`as_operator`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.checks import require_count, require_shape, shown
from sde_score._core.errors import ArgumentError
from sde_score._core.memory import require_memory


class Operator(ABC):
    """A linear map of examples and its adjoint.

    Subclasses give both, and the shapes; a closed form of `solve_gram` where there is one.
    """

    event_shape: tuple[int, ...]
    measured_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: from `(batch, *event_shape)` to `(batch, *measured_shape)`."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: from `(batch, *measured_shape)` to `(batch, *event_shape)`."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x, with the shape of x checked.

        Raises:
            ValueError: for examples of another shape.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x of shape {tuple(x.shape)} does not fit the operator: it takes (batch, "
                f"{', '.join(map(str, self.event_shape))})"
            )
        return self.forward(x)

    def __matmul__(self, inner: Operator) -> Operator:
        """The composition: first `inner`, then this."""
        return Composed(self, inner)

    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor | None:
        """u of (noise I + signal A A^T) u = y in closed form; None where there is none.

        Args:
            y: shape `(batch, *measured_shape)`.
            noise: a number, > 0.
            signal: a number, >= 0.
        """
        return None

    @cached_property
    def matrix(self) -> Tensor:
        """A as a matrix over flattened examples, float64, shape `(measured, event)`.

        Raises:
            ValueError: if it does not fit in memory.
        """
        size, measured = prod(self.event_shape), prod(self.measured_shape)
        require_memory(8.0 * size * (measured + size), "the matrix of an operator")
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *self.event_shape)
        return self.forward(basis).reshape(size, measured).T.contiguous()


class Matrix(Operator):
    """A matrix over flattened examples.

    Args:
        matrix: shape `(measured, event)`.
        event_shape: of an example; a vector if not given.

    Raises:
        ValueError: if the matrix has another number of columns than an example has entries.
    """

    def __init__(self, matrix: Tensor, event_shape: Sequence[int] | None = None) -> None:
        values = torch.as_tensor(matrix)
        if values.ndim != 2:
            raise ValueError(f"matrix of shape {tuple(values.shape)} must have two dimensions")
        shape = (values.shape[1],) if event_shape is None else event_shape
        self.event_shape = require_shape("event_shape", shape)
        if prod(self.event_shape) != values.shape[1]:
            raise ValueError(
                f"matrix of shape {tuple(values.shape)} does not fit event_shape="
                f"{self.event_shape} of {prod(self.event_shape)} entries"
            )
        self.measured_shape = (values.shape[0],)
        self.values = values
        self._spectrum: tuple[Tensor, Tensor] | None = None

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.values.to(x).T

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.values.to(y)).reshape(len(y), *self.event_shape)

    @override
    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor:
        if self._spectrum is None:
            values = self.values.double()
            self._spectrum = torch.linalg.eigh(values @ values.T)
        values, vectors = (part.to(y) for part in self._spectrum)
        solved: Tensor = (y @ vectors / (noise + signal * values)) @ vectors.T
        return solved


class Mask(Operator):
    """Some entries of an example, as a vector; with a mask of pixels, inpainting.

    Args:
        kept: which entries are measured, boolean, of the shape of an example.

    Raises:
        ValueError: if none is.
        TypeError: if the mask is not boolean.
    """

    def __init__(self, kept: Tensor) -> None:
        kept = torch.as_tensor(kept)
        if kept.dtype != torch.bool:
            raise ArgumentError(f"kept is of {kept.dtype}; accepted: a boolean tensor, as mask > 0")
        if not kept.any():
            raise ValueError("kept measures no entry: True marks those that are known")
        self.event_shape = require_shape("kept.shape", tuple(kept.shape))
        self.places = kept.flatten().nonzero().flatten()
        self.measured_shape = (len(self.places),)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.places.to(x.device)]

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        empty = y.new_zeros(len(y), prod(self.event_shape))
        return empty.index_copy(1, self.places.to(y.device), y).reshape(len(y), *self.event_shape)

    @override
    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor:
        return y / (noise + signal)


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


class LinearFunction(Operator):
    """Any linear function of a batch that autograd differentiates; the adjoint is its pullback.

    Args:
        function: from `(batch, *event_shape)` to `(batch, *measured_shape)`, linear, example by
            example.
        event_shape: of an example.

    Raises:
        ValueError: if the function is not linear, as far as three random examples show.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], event_shape: Sequence[int]) -> None:
        self.function = function
        self.event_shape = require_shape("event_shape", event_shape)
        generator = torch.Generator().manual_seed(0)
        a, b = torch.randn(2, 1, *self.event_shape, generator=generator, dtype=torch.float64)
        try:
            measured = function(a)
            expected, got = 2 * measured - 3 * function(b), function(2 * a - 3 * b)
        except RuntimeError as error:
            raise ValueError(
                f"function does not take {tuple(a.shape)} in float64: {error}"
            ) from error
        if not torch.allclose(got, expected, rtol=1e-6, atol=1e-8):
            raise ValueError("function is not linear: f(2 a - 3 b) is not 2 f(a) - 3 f(b)")
        self.measured_shape = tuple(measured.shape[1:])

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        zeros = y.new_zeros(len(y), *self.event_shape)
        pulled: Tensor = torch.func.vjp(self.function, zeros)[1](y)[0]
        return pulled


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


class Composed(Operator):
    """One operator after another, also `outer @ inner`.

    Args:
        outer: takes what `inner` measures.
        inner: takes examples.

    Raises:
        ValueError: if the shapes do not fit.
    """

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if inner.measured_shape != outer.event_shape:
            raise ValueError(
                f"inner measures {inner.measured_shape}, and outer takes {outer.event_shape}"
            )
        self.outer, self.inner = outer, inner
        self.event_shape, self.measured_shape = inner.event_shape, outer.measured_shape

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))


def as_operator(value: Any, event_shape: Sequence[int] | None = None) -> Operator:
    """An operator of what is one, or has its methods under other names.

    Args:
        value: an `Operator`; anything with `A` and `A_adjoint`, as the physics of deepinv; a
            matrix; or a linear function, for which `event_shape` is needed.
        event_shape: of an example, where `value` does not say it.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(value, Operator):
        return value
    if isinstance(value, Tensor):
        return Matrix(value, event_shape)
    function = getattr(value, "A", value)
    if not callable(function):
        raise ArgumentError(
            f"operator={shown(value)}; accepted: an Operator, a matrix, an object with A and "
            "A_adjoint, or a linear function"
        )
    if event_shape is None:
        raise ValueError("event_shape is missing: the shape of one example")
    return LinearFunction(function, event_shape)


def _require_sides(event_shape: Sequence[int]) -> tuple[int, ...]:
    shape = require_shape("event_shape", event_shape, "the shape of one example")
    if not 2 <= len(shape) <= 4:
        raise ValueError(f"event_shape={shape} must have channels and one to three sides")
    return shape
