"""Empirical distribution: the data set itself as a model, with the ideal denoiser."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from sde_score._core.checks import require_batch, require_count
from sde_score._core.conditions import Condition
from sde_score.models import parametrization
from sde_score.models.base import KnownDensity
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.sdes import SDE, SDES

_CHUNK_NUMBERS = 1 << 23  # float64 numbers held at once beside the data: 64 MiB


class EmpiricalDistribution(nn.Module, KnownDensity):
    r"""Equal point masses at the data, diffused by any SDE.

    .. math:: p_t(x) = \frac1N \sum_i N(x;\ \alpha y_i,\ \sigma^2 I), \qquad
              E[x_0 \mid x_t = x] = \sum_i y_i\, \mathrm{softmax}_i
              \left(- \frac{\lVert x - \alpha y_i \rVert^2}{2 \sigma^2}\right)

    This is the minimizer of denoising score matching on a finite data set. The data are streamed in
    chunks, so memory stays at the data plus some hundred MiB.

    Args:
        data: shape `(examples, *event)`, floating point.
        sde: the forward diffusion.

    Raises:
        TypeError: if `data` is not floating point.
        ValueError: if it is empty or not finite.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, appendix B.3.
    """

    data: Tensor

    def __init__(self, data: Tensor, sde: SDE) -> None:
        super().__init__()
        require_batch("data", data)
        # The bounds tell as much as isfinite on every entry, without a copy of the data.
        if data.ndim < 2 or not data.numel() or not torch.stack(data.aminmax()).isfinite().all():
            raise ValueError(
                f"data of shape {tuple(data.shape)} must be (examples, *event), finite, not empty"
            )
        self._sde = SDES.resolve(sde, name="sde")
        self.register_buffer("data", data.detach())

    @override
    def _coefficients(self, at: Scales) -> Coefficients:
        return parametrization.data(at)

    @override
    def _predict(self, x: Tensor, at: Scales, condition: Condition) -> Tensor:
        if condition is not None:
            raise ValueError("EmpiricalDistribution takes no condition: leave it out")
        return self._posterior(x, at)[0].reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Exact log density of x_t in nats, shape `(batch,)`; at t = 0 there is none."""
        at = self._scales(x, t)
        log_sum = self._posterior(x, at)[1]
        log_volume = 0.5 * self.data[0].numel() * torch.log(2 * math.pi * at.sigma**2)
        return (log_sum - log_volume - math.log(len(self.data))).to(x.dtype)

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Data drawn with replacement, shape `(count, *event)`."""
        require_count(count=count)
        index = torch.randint(len(self.data), (count,), generator=generator)
        return self.data[index.to(self.data.device)]

    def _posterior(self, x: Tensor, at: Scales) -> tuple[Tensor, Tensor]:
        """Posterior mean, shape (batch, D), and log sum_i exp(-|x - alpha y_i|^2 / 2 sigma^2).

        Distances are taken in float64, as differences of large squares decide at small sigma. The
        softmax is accumulated chunk by chunk against the largest exponent met so far.
        """
        require_batch("x", x)
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}, "
                f"the data have {tuple(self.data.shape[1:])}"
            )
        flat = x.flatten(1).double()
        alpha, sigma = (s.to(flat).reshape(-1, 1) for s in (at.alpha, at.sigma))
        mean, mass = torch.zeros_like(flat), flat.new_zeros(len(flat), 1)
        top = flat.new_full((len(flat), 1), -torch.inf)
        rows = max(1, _CHUNK_NUMBERS // (flat.shape[1] + len(flat)))
        square = flat.square().sum(1, keepdim=True)
        for chunk in torch.split(self.data.flatten(1), rows):
            y = chunk.double()
            distance = square - 2 * alpha * (flat @ y.mT) + alpha**2 * y.square().sum(1)
            exponent = -0.5 * distance / sigma**2
            new_top = torch.maximum(top, exponent.amax(1, keepdim=True))
            weight, keep = (exponent - new_top).exp(), (top - new_top).exp()
            mean = keep * mean + weight @ y
            mass = keep * mass + weight.sum(1, keepdim=True)
            top = new_top
        return mean / mass, (top + mass.log()).squeeze(1)
