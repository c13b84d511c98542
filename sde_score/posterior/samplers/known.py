"""Known parts of a state: what an operator measures of it, overwritten by a noised observation."""

from __future__ import annotations

import torch
from torch import Tensor

from sde_score._core.checks import shown
from sde_score._core.errors import ArgumentError
from sde_score.posterior.observations import Measurement
from sde_score.sdes import SDE


class KnownPart:
    r"""The part of x that is measured, where all of it is measured equally: A A^T = c I.

    Masks are such operators, mean-pooling, and the gray value of an image. Given x0, the measured
    part of x_t is A x_t ~ N(\alpha A x0, \sigma^2 c I), and y ~ N(A x0, R), so that

    .. math:: \alpha y + \sqrt{\sigma^2 c - \alpha^2 R}\, z

    is a draw of it. Where the noise of y is above that of x_t there is none, and x_t keeps its own.

    Args:
        measurement: the observation, its noise independent in all entries.
        method: that asks, for messages.

    Raises:
        TypeError: for another operator, or noise with a covariance.
    """

    def __init__(self, measurement: Measurement, method: str) -> None:
        self.operator, self.y = measurement.operator, measurement.y.double()
        if measurement.variance is None:
            raise ArgumentError(
                f"observation has noise with a covariance: {method} needs std=, one number or one "
                "for each entry of y; take Posterior(model, observation, 'mmps') for others"
            )
        self.variance = measurement.variance
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(1, *self.y.shape, generator=generator, dtype=torch.float64)
        back = self.operator(self.operator.adjoint(probe))
        self.gain = float((back * probe).sum() / (probe * probe).sum())
        if not torch.allclose(back, self.gain * probe, rtol=1e-4, atol=1e-6):
            raise ArgumentError(
                f"observation={shown(measurement)}: {method} overwrites what is known, and needs "
                "an operator that measures entries by themselves, as Mask or MeanPool does "
                f"(A A^T = c I), not {type(self.operator).__name__}; any operator goes with "
                "Posterior(model, observation, 'mmps')"
            )

    def deviations(self, sde: SDE, times: Tensor) -> Tensor:
        """Factors of a draw A z at each time, NaN where the noise of y is above that of x_t; shape
        `(times,)` or `(times, *measured_shape)`, float64."""
        ratio = (sde.noise_ratio(times) ** 2).reshape(-1, *[1] * self.variance.ndim)
        alpha = sde.alpha(times).reshape(ratio.shape)
        left = ratio - self.variance / self.gain
        return torch.where(left >= -1e-9 * ratio, alpha * left.clamp(min=0).sqrt(), torch.nan)

    def with_crossing(self, sde: SDE, times: Tensor) -> Tensor:
        """The times, that nearest to where y and x_t are equally noisy moved there; none where that
        is nearest to the start."""
        noise = (self.variance.min() / self.gain).sqrt()
        ratios = sde.noise_ratio(times)
        nearest = int((ratios.log() - noise.log()).abs().argmin())
        if nearest == 0 or noise < ratios[-1]:
            return times
        moved = times.clone()
        moved[nearest] = sde.time_of_noise_ratio(noise)
        return moved

    def overwrite(self, x: Tensor, alpha: float, deviation: Tensor, z: Tensor) -> Tensor:
        """x with its measured part replaced, in place.

        Args:
            x: state, changed in place.
            alpha: signal scale of the state.
            deviation: the entry of `deviations` at its time.
            z: a standard normal draw, like x.
        """
        factor = deviation.to(x)
        known = alpha * self.y.to(x) + factor * self.operator(z.to(x))
        change = known - self.operator(x)
        change = torch.where(factor.isnan(), torch.zeros_like(change), change)
        return x.add_(self.operator.adjoint(change), alpha=1 / self.gain)
