"""The flow map of Gaussian data, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.models.exact.gaussian_mixture import GaussianMixture
from sde_score.models.flow_map import BaseFlowMap, chord
from sde_score.models.parametrization import Coefficients, Scales
from sde_score.models.time_labels import angle
from sde_score.sdes import SDE


class GaussianFlowMap(BaseFlowMap, nn.Module):
    r"""The probability flow of Gaussian data between any two times, exact.

    .. math:: x_s = \alpha_s \mu + C_s^{1/2} C_t^{-1/2} (x - \alpha_t \mu), \qquad
              C_t = \alpha_t^2 \Sigma + \sigma_t^2 I

    Every objective for flow maps is zero here, up to the noise that it regresses on.

    Args:
        mean: shape `event`.
        covariance: over the flattened event, `(D, D)`; variances, shape `event`; or a number.
        sde: the forward diffusion.
        sigma_data: root mean square of the data, which sets the circle; None takes 1.

    Raises:
        ValueError: for shapes that do not agree, or a covariance that has a negative eigenvalue.
    """

    takes_condition = False

    def __init__(
        self,
        mean: Tensor | Sequence[float],
        covariance: Tensor | float,
        sde: SDE,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        spread = torch.as_tensor(covariance, dtype=torch.float64)
        center = torch.as_tensor(mean, dtype=torch.float64)
        self.data = GaussianMixture(center[None], spread[None] if spread.ndim else spread, sde)
        self._sde, self.sigma_data = self.data.sde, sigma_data

    def log_det(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, condition: Condition = None
    ) -> Tensor:
        """log |det dX_{t to s} / dx| in nats, float64 `(batch,)`: half of log det(C_s C_t^-1)."""
        if condition is not None:
            raise ValueError("GaussianFlowMap takes no condition: leave it out")
        variance = self.data.variances[0].to(x.device).expand(x[0].numel())
        ends = []
        for at in (self._scales(x, t), self._scales(x, s)):
            alpha, sigma = (scale.expand(len(x))[:, None] for scale in (at.alpha, at.sigma))
            ends.append((alpha**2 * variance + sigma**2).log().sum(1))
        self.nfe += 1
        return (ends[1] - ends[0]) / 2

    @override
    def _coefficients_to(self, at: Scales, to: Scales) -> Coefficients:
        return chord(at, to)

    @override
    def _predict_to(self, x: Tensor, at: Scales, to: Scales, condition: Condition) -> Tensor:
        """The mean velocity on the circle, without a difference of near numbers."""
        if condition is not None:
            raise ValueError("GaussianFlowMap takes no condition: leave it out")
        flat = x.flatten(1).to(torch.promote_types(x.dtype, torch.float64))
        start, end = (angle(one).to(flat).reshape(-1, 1) for one in (at, to))
        center = self.data.means[0] / self.sigma_data
        variance = self.data.variances[0] / self.sigma_data**2
        axes = None if self.data.axes is None else self.data.axes[0]
        moved = flat / at.spread.to(flat).reshape(-1, 1) - start.cos() * center
        moved = moved if axes is None else moved @ axes
        here, there = ((variance * a.cos() ** 2 + a.sin() ** 2).sqrt() for a in (start, end))
        gap, twice = start - end, start + end
        # c(start)^2 - c(end)^2 = (1 - variance) sin(gap) sin(twice), and likewise for the mean
        growth = (1 - variance) * torch.sinc(gap / torch.pi) * twice.sin() / (here + there)
        moved = growth * moved / here
        moved = moved if axes is None else moved @ axes.mT
        fall = -torch.sinc(gap / (2 * torch.pi)) * (twice / 2).sin()
        return (moved + fall * center).reshape(x.shape).to(x.dtype)
