"""The arithmetic of a step: a weighted sum, in place in a loop and differentiable on request.

Coefficients are float64 tensors until the loop, where they become numbers, so that a step costs
its tensor operations and nothing else. When the times of a grid are being optimized, the same steps
run under autograd: nothing is overwritten then and the coefficients stay tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Number = Any
"""A float, or a scalar tensor that carries a gradient."""


def as_floats(values: Tensor) -> list[Any]:
    """The entries of a tensor, as nested lists of floats; scalar tensors where it needs gradients.

    Args:
        values: float64, on the CPU.
    """
    if not values.requires_grad:
        listed: list[Any] = values.tolist()
        return listed
    return [as_floats(row) if row.ndim else row for row in values.unbind()]


def weighted_sum_(x: Tensor, scale: Number, *terms: tuple[Tensor, Number]) -> Tensor:
    """scale x + sum of weight times tensor, in place in x; a new tensor if gradients are enabled.

    Callers use the returned tensor alone.

    Args:
        x: the state, `(batch, *event)`.
        scale: factor on it.
        terms: tensors like x, each with its weight.
    """
    if torch.is_grad_enabled():
        total: Tensor = scale * x
        for term, weight in terms:
            total = total + weight * term
        return total
    if scale != 1:
        x.mul_(scale)
    for term, weight in terms:
        x.add_(term, alpha=weight)
    return x
