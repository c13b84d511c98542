r"""Singular value decomposition of an operator, by functions in the place of matrices.

.. math:: A = U S V^T

is kept thin: U and V have one column for each singular value that is not zero, so that a mask or an
average of a large image has one without a large matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import expand_like

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum:
    r"""A = U S V^T, with the columns of U and of V orthonormal.

    With r the rank of A, coordinates c have shape `(batch, r)`. What A does not see of an example x
    is `x - to_event(of_event(x))`; it has no coordinates.

    Args:
        singular: the diagonal of S, all > 0, in no order, float64 of shape `(r,)`.
        of_event: V^T x, of examples `(batch, *event_shape)`.
        to_event: V c, examples.
        of_measured: U^T y, of measurements `(batch, *measured_shape)`.
        to_measured: U c, measurements.
    """

    singular: Tensor
    of_event: Map
    to_event: Map
    of_measured: Map
    to_measured: Map

    def replace(self, x: Tensor, c: Tensor) -> Tensor:
        """The example whose coordinates are c, and that is x in all that A does not see."""
        return x + self.to_event(c - self.of_event(x))

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, the smallest of the examples whose measurement is closest to y."""
        return self.to_event(self.of_measured(y) / self.singular.to(y))

    def solve_gram(self, y: Tensor, noise: Tensor | float, signal: Tensor | float) -> Tensor:
        """u of (noise I + signal A A^T) u = y.

        Args:
            y: shape `(batch, *measured_shape)`.
            noise: > 0, a number or one for each example, shape `(batch,)`.
            signal: >= 0, likewise.
        """
        c = self.of_measured(y)
        noise, signal = torch.as_tensor(noise).to(y), torch.as_tensor(signal).to(y)
        power = self.singular.to(y) ** 2
        solved = self.to_measured(c / (expand_like(noise, c) + expand_like(signal, c) * power))
        if c.shape[1] == y[0].numel():
            return solved
        return solved + (y - self.to_measured(c)) / expand_like(noise, y)


def dense(
    matrix: Tensor,
    event_shape: tuple[int, ...],
    measured_shape: tuple[int, ...],
    precision: torch.dtype,
) -> Spectrum:
    """The decomposition of a matrix over flattened examples, of shape `(measured, event)`.

    Singular values below max(measured, event) eps times the largest count as zero, with eps that of
    `precision`, the dtype in which the entries were rounded.
    """
    u, singular, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = above_rounding(singular, max(matrix.shape), precision)
    u, vt = u[:, kept], vt[kept]
    return Spectrum(
        singular[kept],
        lambda x: x.flatten(1) @ vt.to(x).T,
        lambda c: (c @ vt.to(c)).reshape(len(c), *event_shape),
        lambda y: y.flatten(1) @ u.to(y),
        lambda c: (c @ u.to(c).T).reshape(len(c), *measured_shape),
    )


def above_rounding(singular: Tensor, size: int, precision: torch.dtype) -> Tensor:
    """Which singular values are more than rounding of the largest, boolean.

    Args:
        singular: values >= 0.
        size: the larger side of the matrix.
        precision: the dtype in which its entries were rounded.
    """
    return singular > size * torch.finfo(precision).eps * singular.max()


def floating(dtype: torch.dtype) -> torch.dtype:
    """A dtype as that of rounding: itself, or float64 for integers."""
    return dtype if dtype.is_floating_point else torch.float64


def hartley(sides: tuple[int, ...], kept: Tensor) -> tuple[Map, Map]:
    """Some coordinates of every channel's Hartley transform, and the way back.

    The transform, the real less the imaginary part of the orthonormal Fourier transform, is real,
    orthonormal and its own inverse; a convolution by a symmetric kernel multiplies it by the
    kernel's frequencies.

    Args:
        sides: of a channel.
        kept: which frequencies, boolean, flat, of `sides`.
    """
    axes, places = tuple(range(-len(sides), 0)), kept.nonzero().flatten()

    def transform(x: Tensor) -> Tensor:
        spectrum = torch.fft.fftn(x, dim=axes, norm="ortho")
        real: Tensor = spectrum.real - spectrum.imag
        return real

    def forth(x: Tensor) -> Tensor:
        return transform(x).flatten(2)[..., places.to(x.device)].flatten(1)

    def back(c: Tensor) -> Tensor:
        values = c.reshape(len(c), c.shape[1] // len(places), len(places))
        whole = values.new_zeros(*values.shape[:2], len(kept))
        whole = whole.index_copy(2, places.to(c.device), values)
        return transform(whole.reshape(*values.shape[:2], *sides))

    return forth, back
