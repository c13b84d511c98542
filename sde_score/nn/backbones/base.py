"""The base of backbones: checks of the arguments, embedding of the noise level, casts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sde_score._core.checks import require_batch, require_shape
from sde_score._core.conditions import Condition, ConditionShape
from sde_score.nn.blocks.embeddings import NoiseEmbedding, require_noise_level
from sde_score.nn.blocks.time_embedding import TimeEmbedding


class Backbone(nn.Module, ABC):
    """A network of (x, noise level, condition) that answers like x; subclasses give `answer`.

    Args:
        event_shape: shape of one example.
        embedding: length of the vector of noise level and class.
        num_classes: number of classes; 0 for a network without labels.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for counts out of range.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        embedding: int,
        num_classes: int,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_event_shape(event_shape)
        self.embedding = NoiseEmbedding(embedding, num_classes, condition_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for a network without labels."""
        return self.embedding.num_classes

    @property
    def condition_shape(self) -> ConditionShape:
        """What is declared beside classes; empty for a network without."""
        return shape_told(self.embedding)

    def forward(self, x: Tensor, noise_level: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, *event_shape)`; cast to the dtype of the weights, and the answer back.
            noise_level: a quarter of log(sigma / alpha), within -4 .. 4, shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 for no class; or vectors in model
                range, shape `(batch, n)`, NaN for none; or a dictionary; None for none at all.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        require_inputs(x, noise_level, self.event_shape)
        embedding = self.embedding(noise_level, condition)
        return self.answer(x.to(self.embedding.first.weight.dtype), embedding).to(x.dtype)

    @abstractmethod
    def answer(self, x: Tensor, embedding: Tensor) -> Tensor:
        """A batch like x, both in the dtype of the weights; embedding of shape
        `(batch, channels)`."""


class SignalNetwork(nn.Module, ABC):
    """A network of (x, time label, condition) whose answer may have channels behind those of x."""

    embedding: TimeEmbedding

    @property
    def condition_shape(self) -> ConditionShape:
        """What is declared beside classes; empty for a network without."""
        return shape_told(self.embedding)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, channels, ...)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`.
            condition: labels, vectors or a dictionary of them, see `TimeEmbedding`.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        return self.everything(x, time_label, condition)[:, : x.shape[1]]

    @abstractmethod
    def everything(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """All channels of the answer, such as a learned variance behind the mean."""


def shape_told(embedding: nn.Module) -> ConditionShape:
    """What an embedding takes beside classes."""
    found: ConditionShape = getattr(embedding.vectors, "condition_shape", ())
    return found


def require_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """Refuse anything but a sequence of positive integers; return it as a plain tuple.

    Raises:
        TypeError: if it is not a sequence of integers.
        ValueError: if an entry is below 1.
    """
    return require_shape("event_shape", event_shape, "the shape of one example, tuple(x.shape[1:])")


def require_inputs(x: Tensor, noise_level: Tensor, event_shape: tuple[int, ...]) -> None:
    """Refuse a batch that the network was not built for, or noise levels that do not fit it.

    Raises:
        TypeError: if `x` or `noise_level` is not a floating-point tensor.
        ValueError: if their shapes are not `(batch, *event_shape)` and `(batch,)`.
    """
    require_batch("x", x)
    require_noise_level(noise_level)
    if tuple(x.shape[1:]) != event_shape:
        one = tuple(x.shape) == event_shape
        fix = (
            "give one example as x[None]" if one else "build it with event_shape=tuple(x.shape[1:])"
        )
        raise ValueError(
            f"x of shape {tuple(x.shape)} does not fit this network: it takes (batch, "
            f"{', '.join(map(str, event_shape))}); {fix}"
        )
    _require_one_each(x, noise_level)


def require_signal(x: Tensor, noise_level: Tensor, event_shape: tuple[int, ...]) -> None:
    """Refuse a batch whose channels or number of sides the network was not built for.

    Raises:
        TypeError: if `x` or `noise_level` is not a floating-point tensor.
        ValueError: if their shapes are not `(batch, channels, ...)` and `(batch,)`.
    """
    require_batch("x", x)
    require_noise_level(noise_level)
    if x.ndim != len(event_shape) + 1 or x.shape[1] != event_shape[0]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} does not fit this network: it takes (batch, "
            f"{event_shape[0]}, ...) with {len(event_shape) - 1} sides"
        )
    _require_one_each(x, noise_level)


def require_sides(event_shape: Sequence[int]) -> tuple[int, ...]:
    """Refuse a shape without channels and one to three sides; return it as a plain tuple.

    Raises:
        TypeError: if it is not a sequence of integers.
        ValueError: for other numbers of sides.
    """
    shape = require_event_shape(event_shape)
    if not 2 <= len(shape) <= 4:
        raise ValueError(
            f"event_shape={shape} must have channels and one to three sides, as (3, 32, 32): take "
            "mlp for vectors"
        )
    return shape


def _require_one_each(x: Tensor, noise_level: Tensor) -> None:
    if noise_level.shape[0] != x.shape[0]:
        raise ValueError(
            f"noise_level has {noise_level.shape[0]} entries for {x.shape[0]} examples of x: give "
            "one per example"
        )


def per_level(name: str, value: Any, count: int) -> list[Any]:
    """One value per level, from one for all or a sequence.

    Raises:
        ValueError: for a sequence of another length.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name}={value!r} must have one entry for each of the {count} levels, or be one for "
            "all"
        )
    return list(value)
