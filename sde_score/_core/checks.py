"""Checks of arguments: a refusal names the argument, what came, what is accepted and the usual fix.

Numbers are those of Python, NumPy and torch, scalars, 0-d arrays and tensors alike; booleans are no
numbers, and a flag is nothing but a boolean.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sde_score._core.errors import ArgumentError

LARGEST_COUNT = 2**63 - 1
"""The largest integer that tensors and files can index."""


def shown(value: object, width: int = 80) -> str:
    """A value as a message shows it: on one line of at most `width` characters, whatever it is."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of somebody else's, or an integer of 5000 digits inside a list
        text = f"an object of class {type(value).__name__}"
    return text if len(text) <= width else text[: width - 4] + " ..."


def plain(value: Any) -> Any:
    """Scalars of NumPy and torch as Python's numbers and booleans; anything else as it is."""
    scalar = isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0
    return value.item() if scalar else value


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or NumPy; booleans are none."""
    value = plain(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_integer(value: object) -> bool:
    """Whether a value is an integer, of Python or NumPy; booleans are none."""
    value = plain(value)
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether a value is a real number that a float can hold: no NaN, infinity or 400 digits."""
    if not is_number(value):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def refusal(name: str, value: object, accepted: str) -> ArgumentError:
    """The error that says what came, what is accepted, and the fix where one is likely."""
    fix = ""
    if isinstance(value, str) and "text" not in accepted and _is_literal(value):
        fix = ": write it without quotes"
    elif isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1:
        fix = f": try {name}.item()"
    return ArgumentError(f"{name}={shown(value)} must be {accepted}{fix}")


def _is_literal(text: str) -> bool:
    try:
        return text in ("True", "False") or math.isfinite(float(text))
    except ValueError:
        return False


def _require(accepts: Callable[[Any], bool], accepted: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if not accepts(value):
            raise refusal(name, value, accepted)


def require_finite(**values: float) -> None:
    """Refuse anything but finite numbers.

    Raises:
        ValueError: naming the first argument that is not.
    """
    _require(is_finite, "a finite number", values)


def require_positive(**values: float) -> None:
    """Refuse anything but finite numbers greater than zero.

    Raises:
        ValueError: naming the first argument that is not.
    """
    _require(lambda x: is_finite(x) and x > 0, "a finite number greater than 0", values)


def require_nonnegative(**values: float) -> None:
    """Refuse anything but finite numbers of at least zero.

    Raises:
        ValueError: naming the first argument that is not.
    """
    _require(lambda x: is_finite(x) and x >= 0, "a finite number of at least 0", values)


def require_integer(**values: int) -> None:
    """Refuse anything but integers.

    Raises:
        ValueError: naming the first argument that is not.
    """
    _require(is_integer, "an integer", values)


def require_count(minimum: int = 1, **values: int) -> None:
    """Refuse anything but integers of at least `minimum`, and of at most `LARGEST_COUNT`.

    Raises:
        ValueError: naming the first argument that is not.
    """
    for name, value in values.items():
        if not is_integer(value) or value < minimum:
            raise refusal(name, value, f"an integer of at least {minimum}")
        if value > LARGEST_COUNT:
            raise refusal(name, value, f"an integer from {minimum} to {LARGEST_COUNT}")


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


def require_numbers(name: str, values: object) -> Tensor:
    """Refuse anything but a number, or a rectangular arrangement of numbers, all finite.

    Returns:
        The numbers in float64.

    Raises:
        ValueError: naming the argument.
    """
    given = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    try:
        found = np.asarray(given)
    except ValueError:  # rows of different lengths
        found = np.asarray(None)
    if not found.size or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise refusal(name, values, "a finite number, or finite numbers in rows of equal length")
    return torch.from_numpy(found.astype(np.float64))


def require_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a word that is not among `choices`.

    Raises:
        ValueError: listing what is accepted, with a guess for a misspelling.
    """
    choices = tuple(choices)
    if not isinstance(value, str):
        raise refusal(name, value, f"text, one of: {', '.join(choices)}")
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1, cutoff=0.75)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"{name}={shown(value)} is not known; {guess}accepted: {', '.join(choices)}"
        )


def require_device(name: str, device: object) -> torch.device:
    """Refuse what names no device of torch.

    Returns:
        The device.

    Raises:
        ValueError: naming the argument.
    """
    if isinstance(device, torch.device):
        return device
    try:
        return torch.device(device) if isinstance(device, str) else torch.device("")
    except RuntimeError as error:
        raise refusal(name, device, "a device as text, such as 'cpu' or 'cuda:0'") from error


def require_shape(
    name: str, shape: Sequence[int], hint: str = "such as (3, 32, 32)"
) -> tuple[int, ...]:
    """Refuse anything but a sequence of positive integers; return it as a plain tuple.

    Raises:
        TypeError: if it is not a sequence of integers.
        ValueError: if an entry is below 1.
    """
    sizes: Any = shape
    if isinstance(sizes, np.ndarray) or (
        isinstance(sizes, Tensor) and not sizes.is_floating_point()
    ):
        sizes = sizes.tolist()
    if not isinstance(sizes, Sequence) or isinstance(sizes, (str, bytes)):
        fix = f"write ({plain(shape)},)" if is_integer(shape) and "batch" not in hint else hint
        raise ArgumentError(f"{name}={shown(shape)} must be a tuple of integers: {fix}")
    for index, size in enumerate(sizes):
        require_count(**{f"{name}[{index}]": size})
    return tuple(int(plain(size)) for size in sizes)


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
        raise ArgumentError(
            f"{name} must be a floating-point tensor, got {class_of(x)}{_tensor_fix(name, x)}"
        )
    if x.ndim < 1:
        raise ValueError(f"{name} must have shape (batch, *event), got a scalar")


def require_examples(name: str, x: Tensor) -> None:
    """Refuse a batch `(batch, *event)` without examples, or with numbers that are not finite.

    Numbers on an accelerator are not looked at: the check would wait for them in every step.

    Raises:
        TypeError: if `x` is not a floating-point tensor.
        ValueError: for an empty batch, NaN or an infinity, with the first example that has one.
    """
    require_batch(name, x)
    if x.numel() == 0:
        raise ValueError(f"{name} of shape {tuple(x.shape)} holds no examples: give at least one")
    if x.device.type == "cpu" and not bool(torch.isfinite(x).all()):
        wrong = ~torch.isfinite(x).flatten(1).all(1) if x.ndim > 1 else ~torch.isfinite(x)
        raise ValueError(
            f"{name} is not finite in {int(wrong.sum())} of {len(x)} examples, the first is "
            f"{name}[{int(wrong.nonzero()[0])}]: leave them out"
        )


def class_of(value: object) -> str:
    """What a value is, for a message: the dtype of numbers, the class of anything else."""
    if isinstance(value, Tensor):
        return f"{value.dtype}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__}"


def _tensor_fix(name: str, x: object) -> str:
    """How a value becomes a floating-point tensor, where it can."""
    if isinstance(x, (Tensor, np.ndarray)) and x.dtype in (torch.uint8, np.uint8):
        images = name if isinstance(x, Tensor) else f"torch.from_numpy({name})"
        return f", 8-bit images perhaps: try Scaling.discrete(256).to_model({images})"
    if isinstance(x, Tensor):
        return f": try {name}.real" if x.is_complex() else f": try {name}.float()"
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        return f": try torch.from_numpy({name})" + (".float()" if x.dtype.kind != "f" else "")
    if isinstance(x, (list, tuple)):
        return f": try torch.tensor({name}, dtype=torch.float32)"
    if isinstance(x, nn.Module) or hasattr(x, "score") or hasattr(x, "model"):
        return ", which is no data: the model has an argument of its own"
    return ""


def sum_event(x: Tensor) -> Tensor:
    """Sum a batch `(batch, *event)` over its event dimensions: shape `(batch,)`."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def mean_event(x: Tensor) -> Tensor:
    """Average a batch `(batch, *event)` over its event dimensions: shape `(batch,)`."""
    return x.flatten(1).mean(1) if x.ndim > 1 else x


def as_time(t: Tensor | float) -> Tensor:
    """Return t as a floating-point tensor; numbers and arrays become float64.

    Raises:
        TypeError: for anything that is no real number, or tensor or array of them.
    """
    if isinstance(t, Tensor) and t.is_floating_point():
        return t
    if isinstance(t, (Tensor, np.ndarray)) and _is_real(t):
        return torch.as_tensor(t).to(torch.float64)
    if not is_number(t):
        raise ArgumentError(f"t={shown(t)} must be a number, or a tensor of shape (batch,)")
    try:
        return torch.tensor(float(plain(t)), dtype=torch.float64)
    except OverflowError as error:
        raise refusal("t", t, "a finite number") from error


def _is_real(values: Tensor | np.ndarray[Any, Any]) -> bool:
    if isinstance(values, Tensor):
        return not values.is_complex() and values.dtype != torch.bool
    return values.dtype.kind in "fiu"
