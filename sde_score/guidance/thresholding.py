"""Thresholding: models whose denoised mean stays within the range of the data.

Far from the data a network's x0_hat may leave the range that images have, more so under guidance,
and a sampler carries that along. Here it is put back. Samples stay in the range if the last step is
the denoised mean; multistep methods that extrapolate on it (`final_order` above 1) may overshoot by
a little. The result is no longer the score of any distribution: likelihoods need the model inside.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like, require_finite, require_positive
from sde_score._core.conditions import Condition
from sde_score.models import Model, Scales, WrappedDenoiser


class Clipped(WrappedDenoiser):
    """Clip x0_hat to the range of the data: static thresholding.

    Args:
        model: anything with the model protocol.
        low: smallest value of the data.
        high: largest.

    Raises:
        ValueError: if the bounds are not finite and increasing.
        TypeError: if `model` lacks the protocol.
    """

    def __init__(self, model: Model, low: float = -1.0, high: float = 1.0) -> None:
        require_finite(low=low, high=high)
        if not low < high:
            raise ValueError(f"high={high!r} must exceed low={low!r}")
        super().__init__(model)
        self.low, self.high = low, high

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self.limit(self.model.denoise(x, at.t, condition))

    def limit(self, x0: Tensor) -> Tensor:
        """Each number in [low, high]."""
        return x0.clamp(self.low, self.high)

    @override
    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class Thresholded(WrappedDenoiser):
    r"""Dynamic thresholding of x0_hat, for data in [-bound, bound].

    .. math:: s = \max\left(bound,\ quantile(|\hat x_0|)\right), \qquad
              \hat x_0 \to \frac{bound}{s}\, \min(\max(\hat x_0, -s), s)

    with the quantile over the numbers of each example. Saturated pixels are pulled inward and the
    rest keep their contrast, where clipping would saturate them all.

    Args:
        model: anything with the model protocol.
        quantile: share of the numbers that is kept as it is, in (0, 1].
        bound: largest absolute value of the data, > 0.

    Raises:
        ValueError: for arguments outside their range.
        TypeError: if `model` lacks the protocol.

    Reference: Saharia et al. 2022 (Imagen), https://arxiv.org/abs/2205.11487, section 2.3.
    """

    def __init__(self, model: Model, quantile: float = 0.995, bound: float = 1.0) -> None:
        require_positive(quantile=quantile, bound=bound)
        if quantile > 1:
            raise ValueError(f"quantile={quantile!r} must lie in (0, 1]")
        super().__init__(model)
        self.quantile, self.bound = quantile, bound

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        return self.limit(self.model.denoise(x, at.t, condition))

    def limit(self, x0: Tensor) -> Tensor:
        """Each number in [-bound, bound]."""
        sizes = x0.reshape(len(x0), -1).abs()
        sizes = sizes.to(torch.promote_types(x0.dtype, torch.float32))
        scale = expand_like(_quantile(sizes, self.quantile).clamp(min=self.bound), x0)
        return (x0 / scale).clamp(-1, 1) * self.bound

    @override
    def extra_repr(self) -> str:
        return f"quantile={self.quantile}, bound={self.bound}"


def _quantile(sizes: Tensor, quantile: float) -> Tensor:
    """The quantile of each row of `(batch, numbers)`, between its neighbors; shape `(batch,)`."""
    place = quantile * (sizes.shape[1] - 1)
    below = int(place)
    ordered = sizes.sort(1).values[:, below : below + 2]
    return torch.lerp(ordered[:, 0], ordered[:, -1], place - below)
