r"""Decoder of a hierarchical VAE: steps back with the model's denoised mean in place of the data.

.. math:: p(x_{0:n}) = p(x_n) \prod_i p(x_{i-1} \mid x_i), \qquad
          p(x_{i-1} \mid x_i) = q(x_{i-1} \mid x_i, x_0 = \hat x_0(x_i))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sde_score._core.checks import expand_like, require_positive
from sde_score._core.conditions import Condition
from sde_score.discrete.ddpm.encoder import Encoder, Layer
from sde_score.distributions import Normal
from sde_score.models import Model
from sde_score.samplers import VARIANCES, ReverseVariance


@dataclass(frozen=True, eq=False)
class Decoder:
    """The conditionals p(x_{i-1} | x_i) of a model, from the prior down to the data.

    Args:
        encoder: the layers.
        variance: of p(x_{i-1} | x_i), i >= 2; a name or an object.
        data_std: standard deviation of p(x_0 | x_1), > 0; None for sigma_1 / alpha_1.

    Raises:
        ValueError: for an unknown variance or a `data_std` that is not positive.
    """

    encoder: Encoder
    variance: str | ReverseVariance = "posterior"
    data_std: float | None = None

    def __post_init__(self) -> None:
        VARIANCES.resolve(self.variance)
        if self.data_std is not None:
            require_positive(decoder_std=self.data_std)

    @cached_property
    def stds(self) -> Tensor:
        """Standard deviation of p(x_{i-1} | x_i), float64, shape `(n,)`; that of p(x_0 | x_1) is
        first."""
        layers = self.encoder
        first = self.data_std or float(layers.sigmas[0] / layers.alphas[0])
        steps = VARIANCES.resolve(self.variance).std(
            layers.sde, layers.times[:-1], layers.times[1:]
        )
        return torch.cat([torch.tensor([first], dtype=torch.float64), steps])

    def prior(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Normal:
        """p(x_n) = N(0, prior_std^2 I) over `(batch, *event)`.

        Raises:
            ValueError: if the last layer is not at `sde.t_max`, to which `prior_std` belongs.
        """
        sde, last = self.encoder.sde, float(self.encoder.times[-1])
        if not last >= sde.t_max * (1 - 1e-6):
            raise ValueError(
                f"the last layer is at t={last:.6g}, but the prior is that of t_max={sde.t_max:g}: "
                "put the last layer there"
            )
        std = torch.tensor(sde.prior_std, dtype=torch.float64)
        return Normal(torch.zeros(tuple(shape), dtype=dtype, device=device), std)

    def denoise(self, model: Model, x: Tensor, layer: Layer, condition: Condition = None) -> Tensor:
        """The model's denoised mean of x_i = x, like x.

        Raises:
            ValueError: if the model lives on another SDE.
        """
        layers = self.encoder
        if model.sde != layers.sde:
            raise ValueError(
                f"the model lives on {model.sde}, the layers on {layers.sde}: give the model the "
                "SDE of the layers, or make the layers from `model.sde`"
            )
        return model.denoise(x, layers.at(layers.times, layer), condition)

    def given_estimate(
        self, x: Tensor, estimate: Tensor, layer: Layer, std: Tensor | None = None
    ) -> Normal:
        """p(x_{i-1} | x_i = x) for an estimate of the data; for i = 1 the distribution of the data.

        Args:
            x: state at the layer.
            estimate: stands for x_0 in the mean of the posterior, like x.
            layer: i.
            std: replaces that of `variance`; a scalar, `(batch,)`, or one per entry.
        """
        layers = self.encoder
        on_x0, on_x = (expand_like(layers.at(t, layer), x) for t in layers.posteriors[:2])
        mean = on_x0 * estimate + on_x * x
        return Normal(mean, layers.at(self.stds, layer) if std is None else std)

    def step(
        self,
        model: Model,
        x: Tensor,
        layer: Layer,
        condition: Condition = None,
        *,
        std: Tensor | None = None,
    ) -> Normal:
        """p(x_{i-1} | x_i = x), i >= 2; `std`, such as that of a learned variance by
        `samplers.interpolated_std`, replaces that of `variance`."""
        self.encoder.at(self.encoder.times, layer, 2)
        return self.given_estimate(x, self.denoise(model, x, layer, condition), layer, std)

    def data(
        self,
        model: Model,
        x: Tensor,
        condition: Condition = None,
        *,
        std: Tensor | None = None,
    ) -> Normal:
        """p(x_0 | x_1 = x); `Quantization.discretize` gives the probabilities of levels."""
        return self.given_estimate(x, self.denoise(model, x, 1, condition), 1, std)


class Autoencoder(Protocol):
    """An encoder and a decoder of the same layers."""

    @property
    def encoder(self) -> Encoder:
        """The conditionals q."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The conditionals p."""
        ...
