"""Grids by a rule: even steps in t, in a power of t, or in a clock of the noise.

Even steps in a clock, a function of the noise ratio s = sigma / alpha, mean the same noise levels
on every SDE. Names in the literature: the ladder of NCSN, even in log s, is `log_snr`; EDM's own
is `karras`, on EDM's own range of noise; the quadratic steps of DDIM and DPM-Solver are
`polynomial(power=2)`.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_finite, require_positive
from sde_score.samplers.grids.base import GRIDS, Grid
from sde_score.sdes import SDE
from sde_score.sdes.clocks import (
    ANGLE,
    LOG_SNR,
    RECTIFIED,
    Clock,
    powered,
    quantile,
    root,
    shifted,
)


@dataclass(frozen=True)
class Native(Grid):
    """The SDE's own grid, `sde.native_grid`: Karras for EDM, uniform in t for the others."""

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """The times of the SDE's own grid."""
        return GRIDS.create(sde.native_grid).place(sde, u, end)


@dataclass(frozen=True)
class UniformTime(Grid):
    """Evenly spaced in t: on VE the geometric ladder, on VP the steps of DDPM."""

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """t_max + u (end - t_max)."""
        return sde.t_max + u * (end - sde.t_max)


@dataclass(frozen=True)
class Polynomial(Grid):
    r"""Evenly spaced in t^(1/power): dense near the data, on the SDE's own time.

    .. math:: t_i = \left[(1 - u_i)\, t_{max}^{1/power} + u_i\, end^{1/power}\right]^{power}

    With `power=2` they are the quadratic steps of DDIM, on VP; with 1 they are uniform.

    Args:
        power: > 0; below 1 the times are dense near the noise.

    Reference: Song et al. 2020, https://arxiv.org/abs/2010.02502, appendix D.2; Zhang & Chen 2022,
    https://arxiv.org/abs/2204.13902, section 3.3.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(power=self.power)

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the power-th root of t."""
        first, last = sde.t_max ** (1 / self.power), end ** (1 / self.power)
        times: Tensor = (first + u * (last - first)) ** self.power
        return times


@dataclass(frozen=True)
class NoiseGrid(Grid):
    """Evenly spaced in a clock of `sde_score.sdes.clocks`; a subclass chooses the clock.

    Raises:
        ValueError: for `last` not greater than 0, or given together with `end`.
    """

    @property
    @abstractmethod
    def clock(self) -> Clock:
        """The function of the noise ratio in which steps are even."""

    @property
    def last(self) -> float | None:
        """Length of the last step, to zero noise, as a share of the others, in place of `end`; a
        field of the grids whose clock is 0 there. Without either the grid ends at
        `sde.sampling_t_min`, and the last step is hardly one."""
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.last is None:
            return
        require_positive(last=self.last)
        if self.end is not None:
            raise ValueError(f"end={self.end} and last={self.last} both say where to end: give one")

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the clock."""
        first, last = self.clock.at(sde, sde.t_max), self.clock.at(sde, end)
        return self.clock.time(sde, first + u * (last - first))

    @override
    def stop(self, sde: SDE, count: int) -> float:
        """The last time: by `last`, or as for other grids."""
        if self.last is None:
            return super().stop(sde, count)
        ending = self.clock.at(sde, sde.t_max) * self.last / (count - 1 + self.last)
        return min(self.clock.time(sde, ending).item(), 0.999 * sde.t_max)


@dataclass(frozen=True)
class UniformLogSNR(NoiseGrid):
    """Evenly spaced in log s, half the log signal-to-noise ratio: the ladder of NCSN.

    Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, section 4.1.
    """

    clock = LOG_SNR


@dataclass(frozen=True)
class PolyExponential(Grid):
    r"""Steps in log s that shrink or grow as a power of the way that is left.

    .. math:: \log s_i = \log s_{end} + (1 - u_i)^{rho}\, (\log s_{max} - \log s_{end})

    With `rho=1` it is `log_snr`.

    Args:
        rho: > 0; above 1 steps are dense near the data, below 1 near the noise.

    Reference: `get_sigmas_polyexponential` of k-diffusion,
    https://github.com/crowsonkb/k-diffusion.
    """

    rho: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rho=self.rho)

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in log s after (1 - u)^rho."""
        first, last = LOG_SNR.at(sde, sde.t_max), LOG_SNR.at(sde, end)
        return LOG_SNR.time(sde, last + (1 - u) ** self.rho * (first - last))


@dataclass(frozen=True)
class Karras(NoiseGrid):
    r"""Evenly spaced in s^(1/rho): dense where the noise is small.

    On EDM's range of noise, 80 to 0.002, it is EDM's own grid.

    Args:
        rho: 1 spaces the noise evenly, infinity its logarithm; > 0.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, eq. 5.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rho=self.rho)

    @property
    @override
    def clock(self) -> Clock:
        return root(self.rho)


@dataclass(frozen=True)
class RectifiedTime(NoiseGrid):
    r"""Evenly spaced in rectified time s / (1 + s) = sigma / (alpha + sigma).

    The time of rectified flow, in which noise becomes data along a straight line. Few steps are
    spent where there is little noise, which suits few evaluations.

    Args:
        last: length of the last step, to zero noise, as a share of the others, in place of `end`.
        shift: > 0; the noise ratios of the steps are `shift` times those of even ones, as large
            images need: even steps in s / (shift + s).
        power: > 0; even steps in r / (1 + r) with r = (s / shift)^power. Below 1 there are more
            steps where there is little noise or much, and towards 0 they are even in log s.

    Reference: Liu et al. 2022, https://arxiv.org/abs/2209.03003; the shift is that of Esser et al.
    2024, https://arxiv.org/abs/2403.03206, section 5.3.2.
    """

    last: float | None = None
    shift: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(shift=self.shift, power=self.power)

    @property
    @override
    def clock(self) -> Clock:
        return shifted(RECTIFIED if self.power == 1 else powered(RECTIFIED, self.power), self.shift)


@dataclass(frozen=True)
class Angle(NoiseGrid):
    r"""Evenly spaced in the angle atan(s), along which signal and noise turn into each other.

    On a variance-preserving SDE alpha and sigma are its cosine and sine. Even steps in t of the
    cosine schedule are nearly even in it.

    Args:
        last: length of the last step, to zero noise, as a share of the others, in place of `end`.

    Reference: Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """

    last: float | None = None

    clock = ANGLE


@dataclass(frozen=True)
class LogitNormal(NoiseGrid):
    r"""Quantiles of a logit-normal distribution of rectified time: dense around one noise level.

    The logit of rectified time is log s, so this is even spacing in

    .. math:: F(s) = \Phi\left(\frac{\log s - mean}{std}\right)

    Rectified flows and EDM are trained at noise levels of this distribution. The ends stay those
    of the SDE, and beyond a few `std` of the mean there is hardly a step.

    Args:
        mean: the log noise ratio around which steps are dense.
        std: > 0; the wider, the nearer to even steps in log s.

    Reference: Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1; Karras et al. 2022,
    https://arxiv.org/abs/2206.00364, table 1.
    """

    mean: float = 0.0
    std: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(mean=self.mean)
        require_positive(std=self.std)

    @property
    @override
    def clock(self) -> Clock:
        return quantile(self.mean, self.std)
