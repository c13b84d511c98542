r"""Thresholding: models whose denoised mean stays within the range of the data.

Far from the data a network's x0_hat may leave the range that images have, more so under guidance,
and a sampler carries that along. Here it is put back, and noise, score and velocity follow from it:

.. math:: \hat\epsilon = \frac{x - \alpha \hat x_0}{\sigma}, \qquad
          score = -\hat\epsilon / \sigma, \qquad
          velocity = \alpha' \hat x_0 + \sigma' \hat\epsilon .

So all samplers work with it, those that ask for noise or velocity too. Samples stay in the range if
the last step is the denoised mean; multistep methods that extrapolate on it (`final_order` above 1)
may overshoot by a little. The result is no longer the score of any distribution: likelihoods need
the model inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.checks import expand_like, require_finite, require_positive
from sde_score._core.conditions import Condition
from sde_score.models import Model, require_model
from sde_score.sdes import SDE


class LimitedDenoiser(nn.Module, ABC):
    """A model with its denoised mean passed through `limit`; each call is one of the inner model.

    Args:
        model: anything with the model protocol; a module's parameters become this model's. Both
            count evaluations.

    Raises:
        TypeError: if `model` lacks the protocol.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        require_model(model)
        self.model = model
        self.nfe = 0

    @abstractmethod
    def limit(self, x0: Tensor) -> Tensor:
        """The denoised mean within its range, like x0, shape `(batch, *event)`."""

    def require_condition(self, condition: Condition) -> None:
        """Refuse labels that the inner model refuses."""
        if check := getattr(self.model, "require_condition", None):
            check(condition)

    @property
    def sde(self) -> SDE:
        """The inner model's diffusion."""
        return self.model.sde

    def denoise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The inner model's E[x0 | x_t = x], limited; shaped like x."""
        self.nfe += 1
        return self.limit(self.model.denoise(x, t, condition))

    def noise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """(x - alpha x0_hat) / sigma, shaped like x."""
        return self._noise(x, self.denoise(x, t, condition), self._time(x, t))

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """-noise / sigma, shaped like x."""
        time = self._time(x, t)
        noise = self._noise(x, self.denoise(x, t, condition), time)
        return noise / expand_like(-self.sde.sigma(time), x)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """alpha' x0_hat + sigma' noise, shaped like x."""
        time, x0 = self._time(x, t), self.denoise(x, t, condition)
        on_data, on_noise = self.sde.alpha_derivative(time), self.sde.sigma_derivative(time)
        return expand_like(on_data, x) * x0 + expand_like(on_noise, x) * self._noise(x, x0, time)

    def _time(self, x: Tensor, t: Tensor | float) -> Tensor:
        """t in float64 on the device of x."""
        return self.sde.check_time(t).to(x.device).double()

    def _noise(self, x: Tensor, x0: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = self.sde.alpha(time), self.sde.sigma(time)
        return expand_like(1 / sigma, x) * x - expand_like(alpha / sigma, x) * x0


class Clipped(LimitedDenoiser):
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
    def limit(self, x0: Tensor) -> Tensor:
        """Each number in [low, high]."""
        return x0.clamp(self.low, self.high)

    @override
    def extra_repr(self) -> str:
        return f"low={self.low}, high={self.high}"


class Thresholded(LimitedDenoiser):
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
