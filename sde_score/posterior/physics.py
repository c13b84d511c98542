"""Operators of other toolkits, by the names of their methods: the physics of deepinv."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import require_shape, shown
from sde_score._core.errors import ArgumentError
from sde_score.posterior.operators import LinearFunction, Matrix, Operator
from sde_score.posterior.spectrum import Spectrum, above_rounding


class Physics(Operator):
    """Another toolkit's linear operator: an object with `A` and `A_adjoint`, as those of deepinv.

    Its `U`, `V`, `U_adjoint`, `V_adjoint` and `mask`, where it has them and they are orthonormal,
    are the singular value decomposition; else its `A_dagger` is the pseudo-inverse. A module is run
    in the dtype of its first floating-point tensor, and anything else in that of its input.

    Args:
        physics: the object.
        event_shape: of an example; None for its `img_size`.

    Raises:
        ValueError: if `A` is not linear or `A_adjoint` not its adjoint, as far as random examples
            show, or no shape is known.
    """

    def __init__(self, physics: Any, event_shape: Sequence[int] | None = None) -> None:
        self.physics = physics
        module = physics if isinstance(physics, nn.Module) else nn.Module()
        tensors = (*module.parameters(), *module.buffers())
        self._dtype = next((each.dtype for each in tensors if each.is_floating_point()), None)
        self.precision = self._dtype or torch.float64
        shape = getattr(physics, "img_size", None) if event_shape is None else event_shape
        if shape is None:
            raise ValueError("event_shape is missing: the shape of one example")
        self.event_shape = require_shape("event_shape", tuple(shape))
        a, b = _probe(2, *self.event_shape)
        measured = self._run("A", a[None])
        self.measured_shape = tuple(measured.shape[1:])
        joined = self._run("A", (2 * a - 3 * b)[None])
        if not _close(joined, 2 * measured - 3 * self._run("A", b[None])):
            raise ValueError(f"{shown(physics)} is not linear: A(2 a - 3 b) is not 2 A(a) - 3 A(b)")
        y = _probe(1, *self.measured_shape)
        there, back = (measured * y).sum(), (a * self._run("A_adjoint", y)[0]).sum()
        if not abs(float(there - back)) < 1e-3 * float(measured.norm() * y.norm() + 1e-6):
            raise ValueError(
                f"{shown(physics)} has an A_adjoint that is not the adjoint of its A: <A x, y> is "
                f"{float(there):.6g}, and <x, A_adjoint y> {float(back):.6g}"
            )

    @property
    def std(self) -> float | None:
        """The deviation of its Gaussian noise, `noise_model.sigma`; None where it has none."""
        sigma = getattr(getattr(self.physics, "noise_model", None), "sigma", None)
        if sigma is None or torch.as_tensor(sigma).numel() != 1:
            return None
        return float(sigma)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self._run("A", x)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return self._run("A_adjoint", y)

    @override
    def pinv(self, y: Tensor) -> Tensor:
        if self.closed is None and hasattr(self.physics, "A_dagger"):
            return self._run("A_dagger", y)
        return super().pinv(y)

    @override
    def factorise(self) -> Spectrum | None:
        names = ("U", "V", "U_adjoint", "V_adjoint", "mask")
        if any(getattr(self.physics, name, None) is None for name in names):
            return None
        x = _probe(1, *self.event_shape)
        shape = tuple(self._run("V_adjoint", x).shape[1:])
        mask = torch.as_tensor(self.physics.mask)
        if mask.is_complex():
            return None
        values = mask.double().cpu().broadcast_to((1, *shape)).flatten()
        kept = above_rounding(values, len(values), self.precision)
        places = kept.nonzero().flatten()

        def some(c: Tensor) -> Tensor:
            return c.flatten(1)[:, places.to(c.device)]

        def whole(c: Tensor) -> Tensor:
            empty = c.new_zeros(len(c), len(values))
            return empty.index_copy(1, places.to(c.device), c).reshape(len(c), *shape)

        found = Spectrum(
            values[kept],
            lambda x: some(self._run("V_adjoint", x)),
            lambda c: self._run("V", whole(c)),
            lambda y: some(self._run("U_adjoint", y)),
            lambda c: self._run("U", whole(c)),
        )
        c = _probe(1, len(places))
        agrees = (
            bool((values >= 0).all())
            and _close(found.of_event(found.to_event(c)), c)
            and _close(found.of_measured(found.to_measured(c)), c)
            and _close(found.to_measured(found.singular * found.of_event(x)), self.forward(x))
        )
        return found if agrees else None

    def _run(self, name: str, x: Tensor) -> Tensor:
        """One of its methods, in its dtype, with the answer in that of x."""
        found: Tensor = getattr(self.physics, name)(x.to(self._dtype or x.dtype))
        return found.to(x.dtype)


def as_operator(value: Any, event_shape: Sequence[int] | None = None) -> Operator:
    """An operator of what is one, or has its methods under other names.

    Args:
        value: an `Operator`; anything with `A` and `A_adjoint`, as the physics of deepinv, or with
            an `A` that autograd differentiates; a matrix; or a linear function.
        event_shape: of an example, where `value` does not say it.

    Raises:
        TypeError: for anything else.
        ValueError: for a function or physics without a shape, or that is not linear.
    """
    if isinstance(value, Operator):
        return value
    if isinstance(value, Tensor):
        return Matrix(value, event_shape)
    if hasattr(value, "A") and hasattr(value, "A_adjoint"):
        return Physics(value, event_shape)
    function = getattr(value, "A", value)
    if not callable(function):
        raise ArgumentError(
            f"operator={shown(value)}; accepted: an Operator, a matrix, an object with A and "
            "A_adjoint, or a linear function"
        )
    if event_shape is None:
        raise ValueError("event_shape is missing: the shape of one example")
    return LinearFunction(function, event_shape)


def _probe(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(prod(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
