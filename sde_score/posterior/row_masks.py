"""Observations of a table: some columns of each row, others in other rows."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.errors import ArgumentError
from sde_score.posterior.observations import Measurement
from sde_score.posterior.operators import Operator


class RowMask(Operator):
    """Some entries of each example of a batch, zeros in place of the others.

    What is not measured has zero residual and no gradient, so that it counts in no method for
    linear measurements; the examples of a batch are one for each row of the mask.

    Args:
        kept: which entries are measured, boolean, shape `(rows, *event)`.
    """

    def __init__(self, kept: Tensor) -> None:
        if kept.dtype != torch.bool or kept.ndim < 2:
            raise ArgumentError(f"kept is of {kept.dtype}, shape {tuple(kept.shape)}: take a mask")
        self.kept = kept
        self.event_shape = self.measured_shape = tuple(kept.shape[1:])

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.kept.to(x)

    @override
    def adjoint(self, y: Tensor) -> Tensor:
        return y * self.kept.to(y)


class RowMeasurement(Measurement):
    """Observed entries of each row of a table, with Gaussian noise.

    Args:
        x: rows in model range, shape `(rows, *event)`; NaN where nothing was measured.
        std: of the noise, in model range.
    """

    def __init__(self, x: Tensor, std: float) -> None:
        operator = RowMask(~x.isnan())
        super().__init__(operator, torch.zeros(operator.event_shape), std)
        self.y = torch.nan_to_num(x)
