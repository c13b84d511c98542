"""Checks of two sets of examples, and their blocks of bounded memory."""

from __future__ import annotations

from torch import Tensor

from sde_score._core.checks import require_batch

# A block holds at most this many float64 numbers (64 MiB), for sets of any size.
BLOCK_NUMBERS = 1 << 23
_BLOCK_EXAMPLES = 2048


def blocks(x: Tensor) -> list[slice]:
    """Cut the rows of `x`, shape `(count, features)`, into slices of bounded memory."""
    size = max(1, min(_BLOCK_EXAMPLES, BLOCK_NUMBERS // x.shape[1]))
    return [slice(start, start + size) for start in range(0, len(x), size)]


def require_sets(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Refuse anything but two sets of at least two finite examples of one event shape.

    Args:
        x: shape `(n, *event)`, any floating-point dtype.
        y: shape `(m, *event)`.

    Returns:
        Both sets flattened, shapes `(n, features)` and `(m, features)`, dtypes as they came.

    Raises:
        TypeError: if one is not a floating-point tensor.
        ValueError: if the event shapes or devices differ, a set is too small, or a number is not
            finite.
    """
    flat = _flatten("x", x), _flatten("y", y)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x has examples of shape {tuple(x.shape[1:])} and y of shape {tuple(y.shape[1:])}: "
            "the event shapes must be equal; reshape one of them"
        )
    if x.device != y.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}: try y.to(x.device)")
    return flat


def _flatten(name: str, x: Tensor) -> Tensor:
    require_batch(name, x)
    if len(x) < 2:
        raise ValueError(f"{name} holds {len(x)} example(s): a distance needs at least 2")
    if not x.numel():
        raise ValueError(f"{name} of shape {tuple(x.shape)} holds no numbers: its event is empty")
    flat = x.detach().reshape(len(x), -1)
    if not all(bool(flat[rows].isfinite().all()) for rows in blocks(flat)):
        raise ValueError(f"{name} holds numbers that are not finite: remove those examples first")
    return flat
