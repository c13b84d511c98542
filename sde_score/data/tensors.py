"""Data sets over tensors: what values, shapes and labels are taken for."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import class_of, is_number, plain, refusal
from sde_score._core.conditions import require_condition_shape
from sde_score._core.errors import DataError, naming
from sde_score._core.statistics import chunks
from sde_score.data.dataset import SMALLEST_SIDE, DataSet
from sde_score.scaling import Scaling, raw_dtype

Array = Tensor | np.ndarray[Any, Any]

Channels = Literal["first", "last", "none"]
"""Where the channels of examples are: before their sides, behind them, or nowhere."""

_FEW = 32  # values of uint8 below this may be levels of their own
_CHANNELS = 4  # as many may lie behind the sides of images
_OBLONG = 3  # times as long as it is high: what is longer is no image without channels
_COARSE = 0.01  # deviations: coarser steps of float32 are worth a word


def from_tensor(
    x: Tensor | np.ndarray[Any, Any],
    labels: Tensor | np.ndarray[Any, Any] | Sequence[int] | None = None,
    scaling: Scaling | None = None,
    *,
    name: str = "tensor",
    class_names: tuple[str, ...] = (),
    condition: Array | Mapping[str, Array] | None = None,
    channels: Channels | None = None,
) -> DataSet:
    """A data set over a tensor.

    Args:
        x: raw examples, shape `(count, *event)`; images are `(count, channels, height, width)`,
            series `(count, channels, length)`. uint8 is taken as discrete with 256 levels, or with
            those that occur where these are 0, 1, ... up to at most 31. Floating-point is
            continuous: tables `(count, features)` are standardized column by column, all else by
            one mean and one standard deviation.
        labels: integers from 0 up, shape `(count,)`. Those that occur are the classes; where they
            are not 0, 1, ..., they are numbered in their order and kept as `class_names`.
        scaling: map into model range, where that default is not meant:
            `Scaling.discrete(levels)` for integers 0 ... levels - 1, `Scaling.standardize(x)` for
            tables whose columns share one scale, `Scaling()` for data that are in model range.
        name: of the data set, in reports.
        class_names: name of each class; gives the number of classes.
        condition: instead of labels: a vector of numbers for each example, `(count, n)`, or an
            image, `(count, channels, *sides)`, scaled as x would be; or a dictionary of named ones,
            in which integers `(count,)` are labels, 0 to the largest.
        channels: `"first"` as above; `"last"` for `(count, *sides, channels)` and `"none"` for
            `(count, *sides)`, whose examples become `(channels, *sides)` with one channel; None
            takes them first and refuses shapes that look like another.

    Raises:
        TypeError: if `x` or `labels` are not tensors of such a kind.
        DataError: if there are no examples, a value is not finite or no level, labels do not fit,
            or the place of the channels is in doubt.
    """
    x, labels = _as_tensor(x), _as_tensor(labels)
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of real numbers, got {what}{_fix(x)}")
    if x.ndim < 2 or x.numel() == 0:
        raise DataError(
            f"x has shape {tuple(x.shape)}, accepted: (count, *event) with at least one example; "
            "reshape single numbers to (count, 1)"
        )
    x = _plain(x, channels)
    if scaling is not None and not isinstance(scaling, Scaling):
        raise refusal("scaling", scaling, "a Scaling, such as Scaling.discrete(256), or None")
    if scaling is None:
        scaling = _default_scaling(x)
        _look_at_precision(x, scaling)
    if scaling.levels is not None:
        x = _as_levels(x, scaling.levels)
    scaling.log_abs_det(tuple(x.shape[1:]))  # refuses a scaling for other events
    if condition is not None:
        return _with_conditions(DataSet(name, x, scaling), condition, labels)
    if labels is None:
        return DataSet(name, x, scaling)
    return with_labels(DataSet(name, x, scaling), labels, tuple(class_names))


def with_labels(dataset: DataSet, labels: Any, class_names: tuple[str, ...] = ()) -> DataSet:
    """The same examples with labels, as of `from_tensor`.

    Raises:
        TypeError, DataError: for other labels.
    """
    labels = _checked_labels(labels, len(dataset), class_names)
    if not class_names:
        found = torch.unique(labels)
        if int(found[-1]) >= len(found):
            labels, class_names = torch.searchsorted(found, labels), tuple(map(str, found.tolist()))
    num_classes = len(class_names) or int(labels.max()) + 1
    return replace(dataset, labels=labels, num_classes=num_classes, class_names=class_names)


def _with_conditions(dataset: DataSet, condition: Any, labels: Any) -> DataSet:
    if labels is not None:
        raise DataError(
            "examples have labels and a condition: give one of them, or both in a dictionary, "
            "condition={'label': labels, ...}"
        )
    count = len(dataset)
    if not isinstance(condition, Mapping):
        value, kind, scaling = _condition("condition", condition, count)
        if scaling is None or isinstance(kind, int):
            raise TypeError(
                "condition must be floating-point numbers, or uint8 images, and holds one integer "
                "for each example: give them as labels"
            )
        return replace(dataset, conditions=value, condition_shape=kind, condition_scaling=scaling)
    found = {
        name: _condition(f"condition[{name!r}]", value, count) for name, value in condition.items()
    }
    return replace(
        dataset,
        conditions={name: value for name, (value, _, _) in found.items()},
        condition_shape=require_condition_shape({n: kind for n, (_, kind, _) in found.items()}),
        condition_scaling={n: one for n, (_, _, one) in found.items() if one is not None},
    )


def _condition(
    name: str, value: Any, count: int
) -> tuple[Tensor, int | tuple[int, ...], Scaling | None]:
    """A condition as a tensor, the number of its classes or its shape, and its scaling."""
    value = _as_tensor(value)
    if isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point():
        labels = _checked_labels(value, count, (), name)
        return labels, int(labels.max()) + 1, None
    kinds = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if not isinstance(value, Tensor) or value.dtype not in kinds:
        raise TypeError(
            f"{name} must be floating-point vectors, (count, n), floating-point or uint8 images, "
            f"(count, channels, *sides), or integer labels, (count,), got {class_of(value)}"
        )
    if value.ndim < 2 or len(value) != count or not value.numel():
        raise DataError(
            f"{name} has shape {tuple(value.shape)} for {count} examples, accepted: "
            f"({count}, n), or ({count}, channels, *sides) for images"
        )
    value = value.detach().cpu()
    value = value.float() if value.is_floating_point() and value.itemsize < 4 else value
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise DataError(f"{name} holds NaN or infinity: remove the example or fill it in")
    with naming(name):
        return value, tuple(value.shape[1:]), _default_scaling(value)


def _default_scaling(x: Tensor) -> Scaling:
    if x.dtype == torch.uint8:
        return Scaling.discrete(_levels(x))
    if not x.is_floating_point():
        raise TypeError(
            f"x of {x.dtype} needs a scaling: give scaling=Scaling.discrete(levels) for whole "
            "numbers 0 ... levels - 1, or x.double() for continuous data"
        )
    return Scaling.standardize(x, per_feature=x.ndim == 2)


def _look_at_precision(x: Tensor, scaling: Scaling) -> None:
    """Say where float32 has rounded away what the data differ by."""
    if x.dtype != torch.float32:
        return
    center, width = (
        torch.tensor(part, dtype=torch.float64).flatten()
        for part in (scaling.center, scaling.width)
    )
    steps = torch.finfo(x.dtype).eps * center.abs() / width
    if float(steps.max()) > _COARSE:
        worst = int(steps.argmax())
        what = f"column {worst}" if len(steps) > 1 else "x"
        warnings.warn(
            f"{what} in float32 has the mean {center[worst]:.4g} and the deviation "
            f"{width[worst]:.4g}: it is rounded to steps of {steps[worst]:.2g} deviations, so give "
            "float64",
            stacklevel=4,
        )


def _as_tensor(values: Any) -> Any:
    """Arrays and lists of numbers as tensors; anything else as it is."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    if isinstance(values, (list, tuple)) and len(values) and all(map(is_number, values)):
        return torch.tensor([plain(value) for value in values])
    return values


def _fix(x: Any) -> str:
    """How a value becomes a tensor of real numbers, where it can."""
    if isinstance(x, Tensor) and not x.is_complex():
        return ": try x.to(torch.uint8), which has two levels"
    return ": try torch.tensor(x)" if isinstance(x, (list, tuple)) else ""


def _levels(x: Tensor) -> int:
    """Levels of uint8 data, by the values that occur.

    Raises:
        DataError: if these are small numbers with gaps, such as 0, 1, 3.
    """
    largest = int(x.max())
    if not 0 < largest < _FEW:
        return 256
    found = sorted({value for piece in chunks(x) for value in torch.unique(piece).tolist()})
    if found != list(range(largest + 1)):
        raise DataError(
            f"the only values are {', '.join(map(str, found))}, so that the number of levels is in "
            f"doubt: give levels={largest + 1} or levels=256 for a file, or "
            f"scaling=Scaling.discrete({largest + 1})"
        )
    return largest + 1


def placed(x: Tensor, channels: Channels | None, levels: int | None) -> Tensor:
    """Examples as `from_tensor` keeps them, of a kind that is known.

    Args:
        x: shape `(count, *event)`.
        channels: as for `from_tensor`; None is first.
        levels: number of levels, None for continuous data.

    Raises:
        DataError: for a value that is not finite or no level.
    """
    x = _plain(x, channels or "first")
    return x if levels is None else _as_levels(x, levels)


def _plain(x: Tensor, channels: Channels | None) -> Tensor:
    x = x.detach().cpu()
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    _require_finite(x)
    return channels_first(x, channels)


def channels_first(x: Tensor, channels: Channels | None) -> Tensor:
    """Examples `(count, channels, *sides)`.

    Args:
        x: shape `(count, *event)`.
        channels: where they are, see `from_tensor`.

    Raises:
        DataError: where channels is None and they are likely elsewhere than first, or in doubt.
    """
    if channels not in (None, "first", "last", "none"):
        raise refusal("channels", channels, "'first', 'last' or 'none'")
    if channels is None:
        _look_at_layout(tuple(x.shape))
    if channels == "none":
        return x.unsqueeze(1)
    if channels == "last":
        if x.ndim < 3:
            raise DataError(
                f"channels='last' needs examples (*sides, channels), and these have the shape "
                f"{tuple(x.shape[1:])}: leave it out for a table"
            )
        return x.movedim(-1, 1)
    return x


def _look_at_layout(shape: tuple[int, ...]) -> None:
    """Refuse shapes that tell that channels are last, or leave in doubt whether there are any."""
    how = "to from_tensor or from_torch, or in the brackets of a file, x.npy(channels={!r}),"
    if len(shape) in (4, 5) and shape[-1] <= _CHANNELS < min(shape[1:-1]):
        raise DataError(
            f"examples of shape {shape[1:]} look like channels last: give channels='last' "
            f"{how.format('last')} or channels='first' where they are first"
        )
    short, long = sorted(shape[-2:])
    if len(shape) == 3 and short >= 2 * SMALLEST_SIDE and long <= _OBLONG * short:
        raise DataError(
            f"examples of shape {shape[1:]} are gray images of {shape[1]} x {shape[2]} pixels or "
            f"series of {shape[1]} channels: give channels='none' for images, "
            f"{how.format('none')} or channels='first' for series"
        )


def _require_finite(x: Tensor) -> None:
    if not x.is_floating_point():
        return
    first = 0
    for piece in chunks(x):
        finite = torch.isfinite(piece).flatten(1).all(1)
        if not bool(finite.all()):
            row = first + int(torch.nonzero(~finite)[0])
            raise DataError(f"example {row} holds NaN or infinity: remove it or fill it in")
        first += len(piece)


def _as_levels(x: Tensor, levels: int) -> Tensor:
    if x.dtype != torch.uint8 and not x.is_floating_point():
        x = x.to(torch.int64)  # torch compares few other unsigned types
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > levels - 1:
        raise DataError(
            f"values run from {low:g} to {high:g}, {levels} levels are 0 ... {levels - 1}"
        )
    if x.is_floating_point() and not all(bool((p == p.round()).all()) for p in chunks(x)):
        raise DataError(f"some values are not integers, {levels} levels are 0 ... {levels - 1}")
    return x.to(raw_dtype(levels))


def _checked_labels(
    labels: Any, count: int, class_names: tuple[str, ...], name: str = "labels"
) -> Tensor:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        fix = ": try labels.long()" if isinstance(labels, Tensor) else ": number the classes"
        raise TypeError(
            f"{name} must be integers, one for each example, got {class_of(labels)}{fix}"
        )
    if tuple(labels.shape) != (count,):
        raise DataError(
            f"{name} have shape {tuple(labels.shape)} for {count} examples, accepted: ({count},)"
        )
    kept: Tensor = labels.detach().cpu().to(torch.int64)
    low, high = int(kept.min()), int(kept.max())
    if low < 0 or (class_names and high >= len(class_names)):
        upper = f" to {len(class_names) - 1}" if class_names else ""
        raise DataError(f"{name} run from {low} to {high}, accepted: integers from 0{upper}")
    return kept
