"""Known parts of a state: what an operator measures of it, overwritten by a noised observation."""

from __future__ import annotations

import torch
from torch import Tensor

from sde_score.posterior.observations import Measurement
from sde_score.sdes import SDE


class KnownPart:
    r"""The coordinates of x that are measured, V^T x of A = U S V^T.

    Of x_t they are N(\alpha V^T x0, \sigma^2 I), and those of y are
    \bar y = S^{-1} U^T y ~ N(V^T x0, R / s^2), so that

    .. math:: \alpha \bar y + \sqrt{\sigma^2 - \alpha^2 R / s^2}\, z

    is a draw of x_t. Where the noise of y is above that of x_t there is none, and x_t keeps its
    own.

    Args:
        measurement: the observation.
    """

    def __init__(self, measurement: Measurement) -> None:
        part = measurement.spectral
        self.operator, self.spectrum = measurement.operator, part.spectrum
        self.y, self.noise_ratio = part.value, part.std

    def with_crossing(self, sde: SDE, times: Tensor) -> Tensor:
        """The times, that nearest to where x_t is as noisy as the best of y moved there."""
        ratios, noise = sde.noise_ratio(times), self.noise_ratio.min()
        nearest = int((ratios.log() - noise.log()).abs().argmin())
        if nearest == 0 or noise < ratios[-1]:
            return times
        moved = times.clone()
        moved[nearest] = sde.time_of_noise_ratio(noise)
        return moved

    def deviations(self, sde: SDE, times: Tensor) -> Tensor:
        """Factors of z at each time, NaN where the noise of y is above that of x_t; float64 of
        shape `(times, coordinates)`."""
        ratio = sde.noise_ratio(times)[:, None] ** 2
        left = ratio - self.noise_ratio**2
        left = torch.where(left.abs() < 1e-9 * ratio, 0.0, left)
        return torch.where(left >= 0, sde.alpha(times)[:, None] * left.abs().sqrt(), torch.nan)

    def overwrite(self, x: Tensor, alpha: float, deviation: Tensor, z: Tensor) -> Tensor:
        """x with its measured part replaced, in place.

        Args:
            x: state, changed in place.
            alpha: signal scale of the state.
            deviation: the entry of `deviations` at its time, on the device of x.
            z: a standard normal draw, like x.
        """
        factor, own = deviation.to(x), self.spectrum.of_event(x)
        known = alpha * self.y.to(x) + factor * self.spectrum.of_event(z.to(x))
        return x.add_(self.spectrum.to_event(torch.where(factor.isnan(), 0.0, known - own)))
