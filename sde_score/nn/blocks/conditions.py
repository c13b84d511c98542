"""Conditions that are vectors of numbers, as a part of a network's embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sde_score._core.checks import class_of, require_shape
from sde_score._core.errors import ArgumentError


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

    def __init__(self, condition_shape: Sequence[int], channels: int) -> None:
        super().__init__()
        shape = require_shape("condition_shape", condition_shape, "the shape of one condition")
        if len(shape) != 1:
            raise ValueError(
                f"condition_shape={shape} must be that of a vector, (n,): flatten the condition"
            )
        self.condition_shape = shape
        self.linear = nn.Linear(shape[0], channels)
        self.null = nn.Parameter(torch.zeros(channels))

    def forward(self, condition: Tensor | None, batch: int) -> Tensor:
        """Embed a batch of vectors, shape `(batch, channels)`.

        Args:
            condition: in model range, shape `(batch, n)`, with a row of NaN for none; None for none
                at all.
            batch: number of examples.

        Raises:
            TypeError: for anything but floating-point numbers.
            ValueError: for another shape.
        """
        weight = self.linear.weight
        if condition is None:
            condition = weight.new_full((batch, *self.condition_shape), torch.nan)
        if not isinstance(condition, Tensor) or not condition.is_floating_point():
            raise ArgumentError(
                "condition must be a floating-point tensor of vectors in model range, got "
                f"{class_of(condition)}"
            )
        if tuple(condition.shape) != (batch, *self.condition_shape):
            raise ValueError(
                f"condition of shape {tuple(condition.shape)} must have one vector per example, "
                f"shape {(batch, *self.condition_shape)}"
            )
        # All parameters are in the graph whichever rows there are, so that every process of a
        # distributed run has their gradients.
        known = ~condition.isnan().any(1, keepdim=True)
        vectors: Tensor = self.linear(torch.nan_to_num(condition.to(weight.dtype)))
        return torch.where(known, vectors, self.null)
