"""Conditions as a part of a network's embedding: vectors, labels, and dictionaries of both."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from sde_score._core.checks import require_count
from sde_score._core.conditions import (
    Condition,
    ConditionShape,
    absent,
    nothing_like,
    require_condition,
    require_condition_shape,
    require_names,
    require_one_kind,
)
from sde_score._core.memory import require_memory


class VectorEmbedding(nn.Module):
    """A vector of numbers for each example, through one linear layer.

    An example without a condition, a row of NaN, has a learned vector in its place, which starts at
    zero.

    Args:
        condition_shape: of the vector, `(n,)`.
        channels: length of the result.

    Raises:
        ValueError: for another shape.
    """

    def __init__(self, condition_shape: tuple[int, ...], channels: int) -> None:
        super().__init__()
        if len(condition_shape) != 1:
            raise ValueError(
                f"condition_shape={condition_shape} must be that of a vector, (n,): images join "
                "the channels of x in the networks that sde_score.nn.create makes"
            )
        self.condition_shape = condition_shape
        self.linear = nn.Linear(condition_shape[0], channels)
        self.null = nn.Parameter(torch.zeros(channels))

    def forward(self, condition: Condition, batch: int) -> Tensor:
        """Embed a batch of vectors, shape `(batch, channels)`.

        Args:
            condition: in model range, shape `(batch, n)`, with a row of NaN for none; None for none
                at all; or a dictionary with these under `condition`.
            batch: number of examples.

        Raises:
            TypeError: for anything but floating-point numbers.
            ValueError: for another shape.
        """
        require_condition(condition, self.condition_shape, batch)
        value = condition.get("condition") if isinstance(condition, Mapping) else condition
        weight = self.linear.weight
        if value is None:
            value = weight.new_full((batch, *self.condition_shape), torch.nan)
        # All parameters are in the graph whichever rows there are, so that every process of a
        # distributed run has their gradients.
        vectors: Tensor = self.linear(torch.nan_to_num(value.to(weight.dtype)))
        return torch.where(absent(value)[:, None], self.null, vectors)


class LabelEmbedding(nn.Module):
    """A vector for each class, and a learned one for no class, -1, which starts at zero.

    Args:
        num_classes: number of classes.
        channels: length of the vectors.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(num_classes, channels)
        self.null = nn.Parameter(torch.zeros(channels))

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        """Look up a batch of labels, shape `(batch, channels)`; None is no class for all."""
        if label is None:
            like = torch.empty(batch, dtype=torch.int64, device=self.null.device)
            label = nothing_like(like)
        found: Tensor = self.classes(label.long().clamp(min=0))
        return torch.where(absent(label)[:, None], self.null, found)


class NamedEmbedding(nn.Module):
    """A dictionary of vectors and labels: the sum of the embeddings of its entries.

    Args:
        condition_shape: for each name the shape `(n,)` of a vector, or the number of classes.
        channels: length of the result.

    Raises:
        ValueError: for another shape.
    """

    def __init__(self, condition_shape: Mapping[str, int | tuple[int, ...]], channels: int) -> None:
        super().__init__()
        self.condition_shape = condition_shape
        # Some words are methods of a ModuleDict.
        self.parts = nn.ModuleDict(
            {
                f"of_{name}": LabelEmbedding(kind, channels)
                if isinstance(kind, int)
                else VectorEmbedding(kind, channels)
                for name, kind in condition_shape.items()
            }
        )

    def forward(self, condition: Condition, batch: int) -> Tensor:
        """Embed a batch, shape `(batch, channels)`.

        Args:
            condition: a dictionary; a name that it lacks is none for all, as is None.
            batch: number of examples.

        Raises:
            TypeError: for anything but a dictionary of tensors of the declared kinds.
            ValueError: for other names or shapes.
        """
        require_condition(condition, self.condition_shape, batch)
        given = condition if isinstance(condition, Mapping) else {}
        parts = [part(given.get(name[3:]), batch) for name, part in self.parts.items()]
        return torch.stack(parts).sum(0)


def condition_embedding(
    condition_shape: ConditionShape, channels: int, num_classes: int = 0
) -> VectorEmbedding | NamedEmbedding | None:
    """The embedding of the conditions that are declared; None for none beside classes.

    Args:
        condition_shape: of a vector, or a dictionary of vectors and numbers of classes.
        channels: length of the vectors that come out.
        num_classes: of a network that is told a class alone.

    Raises:
        ValueError: for classes and other conditions outside of one dictionary, images, or sizes
            beyond the memory.
    """
    require_count(0, num_classes=num_classes)
    if not isinstance(condition_shape, Mapping) and not len(condition_shape):
        return None
    shape = require_condition_shape(condition_shape)
    require_one_kind(num_classes, shape)
    kinds = shape.values() if isinstance(shape, Mapping) else [shape]
    rows = sum(kind if isinstance(kind, int) else prod(kind) for kind in kinds)
    require_memory(4.0 * rows * channels, f"condition_shape={shape}")
    if isinstance(shape, Mapping):
        return NamedEmbedding(shape, channels)
    return VectorEmbedding(shape, channels)


def label_of(condition: Condition) -> Tensor | None:
    """The class labels of a condition, a tensor or the entry `label` of a dictionary.

    Raises:
        ValueError: for a dictionary with other names.
    """
    if not isinstance(condition, Mapping):
        return condition
    require_names(condition, {"label": int})
    return condition.get("label")


def refuse_label(condition: Condition) -> None:
    """Refuse a label given to a network without classes.

    Raises:
        ValueError: with the fix.
    """
    if label_of(condition) is not None:
        raise ValueError(
            "condition was given to a network without classes: build it with num_classes=..., "
            "or leave condition out"
        )
