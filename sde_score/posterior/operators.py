r"""Operators: what is measured of an example, y = A x, with the adjoint of A.

Examples have a batch in front everywhere: `operator(x)` maps `(batch, *event_shape)` to
`(batch, *measured_shape)`, `operator.adjoint(y)` back, and

.. math:: \langle A x, y \rangle = \langle x, A^T y \rangle .

Every operator has a singular value decomposition, `operator.spectrum`: in closed form where
`factorise` gives one, else of its matrix. Every other toolkit's operator with `A` and `A_adjoint`,
as those of deepinv, is one by `as_operator`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_shape
from sde_score._core.errors import ArgumentError
from sde_score._core.memory import require_memory
from sde_score.posterior.spectrum import Spectrum, dense, floating


class Operator(ABC):
    """A linear map of examples and its adjoint.

    Subclasses give both, and the shapes; a closed form of the singular value decomposition by
    `factorise` where there is one.
    """

    event_shape: tuple[int, ...]
    measured_shape: tuple[int, ...]
    precision: torch.dtype = torch.float64
    """In which its numbers are rounded; it decides which singular values count as zero."""

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

    def factorise(self) -> Spectrum | None:
        """The singular value decomposition in closed form; None where there is none."""
        return None

    @cached_property
    def closed(self) -> Spectrum | None:
        """What `factorise` gave."""
        return self.factorise()

    @cached_property
    def spectrum(self) -> Spectrum:
        """The singular value decomposition, that of the matrix where none is in closed form.

        Raises:
            ValueError: if that matrix does not fit in memory.
        """
        return self.closed or dense(
            self.matrix, self.event_shape, self.measured_shape, self.precision
        )

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, of shape `(batch, *event_shape)`, for y of shape `(batch, *measured_shape)`."""
        return self.spectrum.pinv(y)

    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor | None:
        """u of (noise I + signal A A^T) u = y in closed form; None where there is none.

        Args:
            y: shape `(batch, *measured_shape)`.
            noise: > 0, a number or one for each example, shape `(batch,)`.
            signal: >= 0, likewise.
        """
        return None if self.closed is None else self.closed.solve_gram(y, noise, signal)

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
        self.values, self.precision = values, floating(values.dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.values.to(x).T

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.values.to(y)).reshape(len(y), *self.event_shape)

    @override
    def factorise(self) -> Spectrum:
        return dense(self.values, self.event_shape, self.measured_shape, self.precision)


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
    def factorise(self) -> Spectrum:
        ones = torch.ones(len(self.places), dtype=torch.float64)
        return Spectrum(ones, self.forward, self.adjoint, torch.clone, torch.clone)


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
        self.precision = max(outer.precision, inner.precision, key=lambda d: torch.finfo(d).eps)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))
