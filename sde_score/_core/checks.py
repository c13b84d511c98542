"""Refusals at the door: every check names the argument, what came, what is accepted and the usual
fix."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def require_finite(**values: float) -> None:
    """Refuse anything but finite numbers.

    Raises:
        ValueError: naming the first argument that is not.
    """
    for name, value in values.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(f"{name}={value!r} must be a finite number")


def require_positive(**values: float) -> None:
    """Refuse anything but finite numbers greater than zero.

    Raises:
        ValueError: naming the first argument that is not.
    """
    for name, value in values.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value!r} must be a finite number greater than 0")


def require_nonnegative(**values: float) -> None:
    """Refuse anything but finite numbers of at least zero.

    Raises:
        ValueError: naming the first argument that is not.
    """
    for name, value in values.items():
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value!r} must be a finite number of at least 0")


def require_count(minimum: int = 1, **values: int) -> None:
    """Refuse anything but integers of at least `minimum`.

    Raises:
        ValueError: naming the first argument that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"{name}={value!r} must be an integer of at least {minimum}")


def require_increasing(hint: str = "", **bounds: float) -> None:
    """Refuse two bounds that are not finite, positive and increasing.

    Raises:
        ValueError: naming the bound at fault; `hint` says the usual fix.
    """
    require_positive(**bounds)
    (low_name, low), (high_name, high) = bounds.items()
    if not low < high:
        suffix = f": {hint}" if hint else ""
        raise ValueError(f"{high_name}={high!r} must exceed {low_name}={low!r}{suffix}")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among `choices`.

    Raises:
        ValueError: listing what is accepted.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known; accepted: {', '.join(choices)}")


def expand_like(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient of time so that it multiplies a batch example by example.

    Args:
        coefficient: a scalar, or one value per example, shape `(batch,)`.
        x: the batch, shape `(batch, *event)`.

    Returns:
        `coefficient` in the dtype and on the device of `x`, shape `()` or `(batch, 1, ..., 1)`.

    Raises:
        ValueError: for any other shape; nothing is ever broadcast along an event dimension.
    """
    if coefficient.ndim == 1 and x.ndim >= 1 and coefficient.shape[0] == x.shape[0]:
        coefficient = coefficient.reshape(-1, *(1,) * (x.ndim - 1))
    elif coefficient.ndim != 0:
        raise ValueError(
            f"t of shape {tuple(coefficient.shape)} does not fit x of shape {tuple(x.shape)}: "
            "t is a scalar or has one entry per example, shape (batch,)"
        )
    return coefficient.to(device=x.device, dtype=x.dtype)


def require_batch(name: str, x: Tensor) -> None:
    """Refuse a tensor that is not a floating-point batch `(batch, *event)`.

    Raises:
        TypeError: if `x` is not a floating-point tensor.
        ValueError: if it has no batch dimension.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {what}: try {name}.float()")
    if x.ndim < 1:
        raise ValueError(f"{name} must have shape (batch, *event), got a scalar")


def sum_event(x: Tensor) -> Tensor:
    """Sum a batch `(batch, *event)` over its event dimensions: shape `(batch,)`."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def mean_event(x: Tensor) -> Tensor:
    """Average a batch `(batch, *event)` over its event dimensions: shape `(batch,)`."""
    return x.flatten(1).mean(1) if x.ndim > 1 else x


def as_time(t: Tensor | float) -> Tensor:
    """Return t as a floating-point tensor; Python numbers become float64 scalars."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    return t if t.is_floating_point() else t.to(torch.float64)
