"""Refusals that every backbone shares: what it is built from, and what it is called with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sde_score._core.checks import require_batch


def require_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """Refuse anything but a sequence of positive whole numbers; return it as a plain tuple.

    Raises:
        TypeError: if it is not a sequence of whole numbers.
        ValueError: if an entry is below 1.
    """
    is_sequence = isinstance(event_shape, Sequence) and not isinstance(event_shape, str)
    if not is_sequence or any(type(size) is not int for size in event_shape):
        raise TypeError(
            f"event_shape={event_shape!r} must be a tuple of integers, such as (2,) or "
            "(3, 32, 32): the shape of one example, tuple(x.shape[1:])"
        )
    if any(size < 1 for size in event_shape):
        raise ValueError(f"event_shape={tuple(event_shape)} must have entries of at least 1")
    return tuple(event_shape)


def require_dropout(dropout: float) -> None:
    """Refuse a dropout probability outside [0, 1).

    Raises:
        ValueError: saying what came.
    """
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r} must be a number in [0, 1): 0 turns it off")


def require_noise_level(noise_level: Tensor) -> None:
    """Refuse anything but one real number per example.

    Raises:
        TypeError: if `noise_level` is not a floating-point tensor.
        ValueError: if its shape is not `(batch,)`.
    """
    if not isinstance(noise_level, Tensor) or not noise_level.is_floating_point():
        what = noise_level.dtype if isinstance(noise_level, Tensor) else type(noise_level).__name__
        raise TypeError(f"noise_level must be a floating-point tensor, got {what}")
    if noise_level.ndim != 1:
        raise ValueError(
            f"noise_level of shape {tuple(noise_level.shape)} must have one entry per example, "
            "shape (batch,): try noise_level.expand(x.shape[0])"
        )


def require_inputs(x: Tensor, noise_level: Tensor, event_shape: tuple[int, ...]) -> None:
    """Refuse a batch that the network was not built for, or noise levels that do not fit it.

    Raises:
        TypeError: if `x` or `noise_level` is not a floating-point tensor.
        ValueError: if their shapes are not `(batch, *event_shape)` and `(batch,)`.
    """
    require_batch("x", x)
    require_noise_level(noise_level)
    if tuple(x.shape[1:]) != event_shape:
        raise ValueError(
            f"x of shape {tuple(x.shape)} does not fit this network: it takes (batch, "
            f"{', '.join(map(str, event_shape))}); build it with event_shape=tuple(x.shape[1:])"
        )
    if noise_level.shape[0] != x.shape[0]:
        raise ValueError(
            f"noise_level has {noise_level.shape[0]} entries for {x.shape[0]} examples of x: give "
            "one per example"
        )
