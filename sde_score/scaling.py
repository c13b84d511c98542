r"""The affine map between raw data and the range that models see.

Raw data keep their own units: gray levels 0 ... 255, meters, dollars. A model sees numbers around
zero,

.. math:: \text{model} = (\text{value} - \text{center}) / \text{width}.

Discrete data with `L` levels are taken as bins of width one: the level `k` stands for every value
in `[k, k + 1)`. Its middle `k + 1/2` is what a model trains on, and adding uniform noise spreads it
over its bin (*dequantization*), which turns a density into an honest bound on the probability of
the level. The `L` bins fill the model range `[-1, 1]`: center and width are both `L / 2`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sde_score._core.checks import is_finite, is_number, plain, refusal, require_count, shown
from sde_score._core.conditions import Condition, mapped
from sde_score._core.errors import ArgumentError, DataError
from sde_score._core.records import Record
from sde_score._core.statistics import moments
from sde_score.distributions import Quantization
from sde_score.random import Draws, uniform_like

Numbers = float | tuple[float, ...]

_COARSE = 1e-4  # widths: a larger spacing of float32 loses digits of the data
_REACH = 1e3  # widths from the center that samples may reach
_CLOSE, _PRECISION = 1e-5, 1e-12  # of what was measured: in widths, and of a center
_UNCOMMON = (torch.uint16, torch.uint32, torch.uint64)  # torch hardly computes with them


@dataclass(frozen=True)
class Scaling(Record):
    r"""An affine, elementwise map: `model = (value - center) / width`.

    The value is `raw` for continuous data, and `raw + 1/2` (the middle of the bin) for discrete
    data.

    Args:
        center: value that becomes 0; one number, or one per feature for tables, event shape
            `(features,)`.
        width: value length that becomes 1; finite and above 0; of the same form as `center`.
        levels: number of levels of discrete data, raw values 0 ... levels - 1; None for continuous
            data.

    Raises:
        ValueError: for a width that is not positive and finite, or a center and width of different
            form.
    """

    center: Numbers = 0.0
    width: Numbers = 1.0
    levels: int | None = None

    def __post_init__(self) -> None:
        center, width = _numbers("center", self.center), _numbers("width", self.width)
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "width", width)
        if not all(w > 0 for w in _as_tuple(width)):
            raise ValueError(f"width={width!r} must be above 0")
        if isinstance(center, tuple) != isinstance(width, tuple) or (
            len(_as_tuple(center)) != len(_as_tuple(width))
        ):
            raise ValueError(
                f"center={center!r} and width={width!r} must both be one number, "
                "or have one number per feature"
            )
        if self.levels is not None:
            require_count(minimum=2, levels=self.levels)
            object.__setattr__(self, "levels", plain(self.levels))

    @classmethod
    def discrete(cls, levels: int) -> Scaling:
        """Integers 0 ... levels - 1 over [-1, 1]: `model = 2 (raw + 1/2) / levels - 1`."""
        require_count(minimum=2, levels=levels)
        return cls(center=levels / 2, width=levels / 2, levels=levels)

    @classmethod
    def standardize(cls, raw: Tensor, per_feature: bool = False) -> Scaling:
        """Mean 0 and standard deviation 1 for continuous data of shape `(count, *event)`.

        Args:
            raw: the data; the standard deviation is that of the population, `1 / count`.
            per_feature: False: one mean and one deviation over all examples and dimensions, which
                keeps the shape of images and fields. True: each feature of a table `(count,
                features)` has its own.

        Raises:
            DataError: if the data, or a feature, never change.
        """
        raw = _tensor("raw", raw)
        mean, variance = moments(raw)
        if per_feature:
            if raw.ndim != 2:
                raise ValueError(
                    f"raw has shape {tuple(raw.shape)}; per feature takes (count, features)"
                )
            if not bool((variance > 0).any()):
                raise DataError("all examples are the same: there is nothing to learn")
            if bool((variance <= 0).any()):
                more = " (or give float64, if it is not)" if raw.dtype == torch.float32 else ""
                raise DataError(f"feature {int(variance.argmin())} is constant: drop it{more}")
            return cls(tuple(mean.tolist()), tuple(variance.sqrt().tolist()))
        total = variance.mean() + mean.var(unbiased=False)
        if not total > 0:
            raise DataError(
                f"every value is {mean.flatten()[0].item():g}: there is nothing to learn"
            )
        return cls(mean.mean().item(), total.sqrt().item())

    def require_raw(self, raw: Tensor) -> Tensor:
        """Refuse what is no batch of such data; arrays of NumPy become tensors.

        Args:
            raw: data in their own units, shape `(batch, *event)`.

        Raises:
            TypeError: for what holds no real numbers.
            ValueError: for no examples, numbers that are not finite, or discrete data that are not
                levels 0 ... levels - 1: in model range, scaled, or of another number of levels.
        """
        given: Any = raw
        if isinstance(given, np.ndarray) and given.dtype.kind in "fiu":
            given = torch.from_numpy(np.ascontiguousarray(given))
        if not isinstance(given, Tensor) or given.is_complex() or given.dtype == torch.bool:
            fix = ": try torch.tensor(raw)" if isinstance(raw, (list, tuple)) else ""
            raise ArgumentError(
                f"raw={shown(raw)} must be a tensor or array of numbers in their own units{fix}"
            )
        raw = given.long() if given.dtype in _UNCOMMON else given
        if raw.ndim < 1 or raw.numel() == 0:
            raise ValueError(f"raw has shape {tuple(raw.shape)}; accepted: (examples, *event)")
        if not bool(torch.isfinite(raw).all()):
            raise ValueError("raw holds NaN or infinity: leave those examples out")
        if isinstance(self.width, tuple):
            self._require_event(tuple(raw.shape[1:]))
        if self.levels is None:
            return raw
        low, high = (end.item() for end in torch.aminmax(raw))
        whole = not raw.is_floating_point() or bool((raw == raw.round()).all())
        if not (whole and low >= 0 and high < self.levels):
            raise ValueError(
                f"raw has {'' if whole else 'fractional '}values from {low:g} to {high:g}; "
                f"accepted: levels 0 ... {self.levels - 1} in the data's own terms, neither scaled "
                "to the range of the model (scaling.from_model(x) undoes that) nor to another "
                "number of levels"
            )
        return raw

    def to_model(self, raw: Tensor) -> Tensor:
        """Raw data `(batch, *event)` in model range, float32; a level is the middle of its bin."""
        raw = _tensor("raw", raw)
        return self._scale(raw.to(torch.float64) + (0.0 if self.levels is None else 0.5))

    def dequantize(self, raw: Tensor, generator: Draws = None) -> Tensor:
        """Raw data in model range, float32, levels spread over the bins: `raw + u`, `u ~ U[0, 1)`.

        Continuous data are not spread: the result is `to_model(raw)`.

        Args:
            raw: shape `(batch, *event)`.
            generator: source of `u`; a `BatchSlice` draws for the whole global batch.
        """
        if self.levels is None:
            return self.to_model(raw)
        return self._scale(raw.to(torch.float64) + uniform_like(raw, generator))

    def from_model(self, x: Tensor) -> Tensor:
        """Inverse of `to_model`, for data or samples `(batch, *event)` in model range.

        Returns:
            Continuous data: raw values in the dtype of `x`, or in float64 where `raw_dtype` is.
            Discrete data: the level whose bin holds `x`, the first or last level beyond the range;
            uint8 up to 256 levels, int32 above.

        Raises:
            ValueError: if data are discrete and `x` holds NaN or infinity, which is no level.
        """
        x = _tensor("x", x)
        center, width = self._tensors(x)
        value = x.to(torch.float64) * width + center
        if self.levels is None:
            return value.to(torch.promote_types(x.dtype, self.raw_dtype))
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                "x holds NaN or infinity, which is no level: the model or sampler diverged"
            )
        level = value.floor().clamp(0, self.levels - 1)
        return level.to(self.raw_dtype)

    @property
    def raw_dtype(self) -> torch.dtype:
        """The dtype that holds raw values: of continuous data float64 where float32 is too coarse
        for a center far from 0 beside the width, such as a time in seconds since 1970, or for the
        size of the numbers; else float32."""
        if self.levels is not None:
            return raw_dtype(self.levels)
        pairs = zip(_as_tuple(self.center), _as_tuple(self.width), strict=True)
        fine = all(_fits_float32(center, width) for center, width in pairs)
        return torch.float32 if fine else torch.float64

    @property
    def quantization(self) -> Quantization:
        """The levels of discrete data as the model sees them.

        Raises:
            ValueError: if data are continuous, or the levels are not spaced alike in all features.
        """
        if self.levels is None or isinstance(self.width, tuple):
            raise ValueError(f"levels of one width are needed, not {self}: dequantize instead")
        low, high = self.to_model(torch.tensor([[0], [self.levels - 1]])).flatten().tolist()
        return Quantization(self.levels, low, high)

    def log_abs_det(self, event_shape: tuple[int, ...]) -> float:
        """Sum over the dimensions of an event of `log |d model / d raw| = -log width`."""
        if isinstance(self.width, tuple):
            self._require_event(event_shape)
            return -math.fsum(math.log(w) for w in self.width)
        return -math.prod(event_shape) * math.log(self.width)

    def bits_per_dim(self, log_prob: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        r"""Negative log2-likelihood per dimension of raw data, from a density in model range.

        .. math:: -\frac{\log p_{model}(x) + \log|\det d\,model / d\,raw|}{D \log 2}

        For discrete data and a `log_prob` of dequantized data this bounds the code length of the
        levels; for 256 levels it is `-log_prob / (D log 2) + 7`. For continuous data it is a
        differential entropy and may be negative.

        Args:
            log_prob: log-density of the data in model range, in nats, shape `(batch,)`.
            event_shape: shape of one example, `D` numbers in all.

        Returns:
            Bits per dimension, shape `(batch,)`.
        """
        return nats_to_bits(log_prob + self.log_abs_det(event_shape), event_shape)

    def is_close(self, other: Scaling) -> bool:
        """Whether both are the same map, up to rounding in what was measured."""
        if self.levels != other.levels or np.shape(self.width) != np.shape(other.width):
            return False
        width, center = np.asarray(self.width), np.asarray(self.center)
        # A center far from 0 is measured to the precision of float64.
        apart = np.abs(center - other.center) - _PRECISION * np.abs(center)
        return bool(np.allclose(width, other.width, atol=0) and (apart < _CLOSE * width).all())

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.width, tuple):
            self._require_event(tuple(like.shape[1:]))
        as_tensor = torch.as_tensor
        return (
            as_tensor(self.center, dtype=torch.float64, device=like.device),
            as_tensor(self.width, dtype=torch.float64, device=like.device),
        )

    def _scale(self, value: Tensor) -> Tensor:
        center, width = self._tensors(value)
        return ((value - center) / width).to(torch.float32)

    def _require_event(self, event_shape: tuple[int, ...]) -> None:
        features = len(_as_tuple(self.width))
        if tuple(event_shape) != (features,):
            raise ValueError(
                f"event shape {tuple(event_shape)} does not fit a scaling of {features} features, "
                f"which takes events of shape ({features},)"
            )


def nats_to_bits(log_prob: Tensor, event_shape: tuple[int, ...]) -> Tensor:
    """Bits per dimension, `-log_prob / (D log 2)`, of log-probabilities in nats, in their shape."""
    return -log_prob / (math.prod(event_shape) * math.log(2))


def raw_dtype(levels: int) -> torch.dtype:
    """The smallest dtype in common use that holds levels 0 ... levels - 1."""
    return torch.uint8 if levels <= 256 else torch.int32


def _fits_float32(center: float, width: float) -> bool:
    """Whether float32 is fine beside the width, and neither overflows nor loses digits at 0."""
    kind = torch.finfo(torch.float32)
    spacing, largest = kind.eps * abs(center), abs(center) + _REACH * width
    return spacing < _COARSE * width and largest < kind.max and _COARSE * width > kind.tiny


def _tensor(name: str, values: Any) -> Tensor:
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiu":
        values = torch.as_tensor(values)
    if not isinstance(values, Tensor):
        raise refusal(name, values, "a tensor of shape (batch, *event)")
    return values


def _as_tuple(value: Numbers) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _numbers(name: str, value: Any) -> Numbers:
    value = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value
    many = isinstance(value, (tuple, list))
    numbers = tuple(map(plain, value)) if many else (plain(value),)
    for number in numbers:
        if not is_number(number):
            raise TypeError(f"{name}={shown(value)} must be a number or a sequence of numbers")
        if not is_finite(number):
            raise ValueError(f"{name}={shown(value)} must be finite")
    return tuple(float(n) for n in numbers) if many else float(numbers[0])


ConditionScaling: TypeAlias = Mapping[str, Scaling] | Scaling
"""The map of a condition; of a dictionary, one for each name that has numbers."""


def condition_to_model(condition: Condition, scaling: ConditionScaling) -> Condition:
    """A raw condition in model range; labels stay as they are.

    Args:
        condition: a tensor, or a dictionary of them.
        scaling: one, or one for each name.
    """
    return _each(condition, scaling, Scaling.to_model)


def condition_from_model(condition: Condition, scaling: ConditionScaling) -> Condition:
    """The inverse of `condition_to_model`, in float64 where values are continuous."""
    return _each(condition, scaling, lambda one, value: one.from_model(value.double()))


def same_scalings(one: ConditionScaling, other: ConditionScaling) -> bool:
    """Whether both are the same up to rounding."""
    if isinstance(one, Scaling) or isinstance(other, Scaling):
        return isinstance(one, Scaling) and isinstance(other, Scaling) and one.is_close(other)
    return set(one) == set(other) and all(one[name].is_close(other[name]) for name in one)


def _each(
    condition: Condition, scaling: ConditionScaling, change: Callable[[Scaling, Tensor], Tensor]
) -> Condition:
    if isinstance(scaling, Scaling):
        return mapped(condition, lambda value: change(scaling, value))
    if not isinstance(condition, Mapping):
        return condition
    return {
        name: change(scaling[name], value) if name in scaling else value
        for name, value in condition.items()
    }
