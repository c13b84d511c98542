r"""Time grids: at which noise levels a sampler stops on its way from noise to data.

A grid runs from `sde.t_max` down to `end` and never to zero noise: the last step, from `end` to
the data, is explicit in every sampler (`denoise`). It is the denoised mean, or for methods that
extrapolate through earlier evaluations, one more step of their own, which they take at the noise
level `end` and not at the one before. So n steps stop at n times, and the size of the last step
is the noise at `end`: the smallest the SDE offers, unless the grid is told otherwise. A coordinate
that could go on to zero noise, such as the angle, still ends there.

Most grids are even in some function of the noise ratio s = sigma / alpha, which is the same for
every SDE, so that a grid means the same noise levels whatever the clock. Names that others use:
the ladder of NCSN, even in log s, is `log_snr`; EDM's own is `karras`, on EDM's own range of noise;
the quadratic steps of DDIM and DPM-Solver are `polynomial(power=2)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_count, require_finite, require_positive
from sde_score._core.registry import Registry
from sde_score.samplers.grids.files import read_grid_file
from sde_score.sdes import SDE


@dataclass(frozen=True)
class Grid(ABC):
    """A rule for spacing times.

    Args:
        end: last time, in `[sde.t_min, sde.t_max)`; None takes `sde.sampling_t_min`.
    """

    end: float | None = None

    @abstractmethod
    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Times at the shares u of the way, 0 at `sde.t_max` and 1 at `end`; float64."""

    def times(self, sde: SDE, count: int) -> Tensor:
        """Decreasing times, float64 of shape `(count,)`; the ends are exact.

        Raises:
            ValueError: if `end` lies outside the times of the SDE, or count < 1.
        """
        require_count(count=count)
        end = sde.sampling_t_min if self.end is None else self.end
        if not sde.t_min <= end < sde.t_max:
            raise ValueError(
                f"end={end} must lie in [{sde.t_min}, {sde.t_max}), the times of {sde}"
            )
        if count == 1:
            return torch.tensor([sde.t_max], dtype=torch.float64)
        times = self.place(sde, torch.linspace(0, 1, count, dtype=torch.float64), end)
        times[0], times[-1] = sde.t_max, end
        return times


@dataclass(frozen=True)
class UniformTime(Grid):
    """Evenly spaced in t: on VE the geometric ladder, on VP the steps of DDPM."""

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """t_max + u (end - t_max)."""
        return sde.t_max + u * (end - sde.t_max)


@dataclass(frozen=True)
class Polynomial(Grid):
    r"""Evenly spaced in t^(1/power): dense near the data, on the SDE's own clock.

    .. math:: t_i = \left[(1 - u_i)\, t_{max}^{1/power} + u_i\, end^{1/power}\right]^{power}

    With `power=2` they are the quadratic steps of DDIM, on VP; with 1 they are uniform.

    Args:
        power: > 0; below 1 the times are dense near the noise.

    Reference: Song et al. 2020, https://arxiv.org/abs/2010.02502, appendix D.2; Zhang & Chen 2022,
    https://arxiv.org/abs/2204.13902, section 3.3.
    """

    power: float = 2.0

    def __post_init__(self) -> None:
        require_positive(power=self.power)

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the power-th root of t."""
        first, last = sde.t_max ** (1 / self.power), end ** (1 / self.power)
        times: Tensor = (first + u * (last - first)) ** self.power
        return times


@dataclass(frozen=True)
class NoiseGrid(Grid):
    """Evenly spaced in a function of the noise ratio s = sigma / alpha.

    The two maps are given in log s, which neither overflows nor loses digits at small noise.
    """

    @abstractmethod
    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """The function in which steps are even, at log s; monotone."""

    @abstractmethod
    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """The inverse: log s."""

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the coordinate."""
        first, last = (self.coordinate(-0.5 * sde.log_snr(t)) for t in (sde.t_max, end))
        return sde.time_of_log_snr(-2 * self.log_ratio(first + u * (last - first)))


@dataclass(frozen=True)
class UniformLogSNR(NoiseGrid):
    """Evenly spaced in log s, half the log signal-to-noise ratio: the ladder of NCSN.

    Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, section 4.1.
    """

    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """log s."""
        return log_ratio

    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """Itself."""
        return coordinate


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
        require_positive(rho=self.rho)

    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """s^(1/rho)."""
        return torch.exp(log_ratio / self.rho)

    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """rho log of the root."""
        return self.rho * torch.log(coordinate)


@dataclass(frozen=True)
class ToData(NoiseGrid):
    """Evenly spaced in a function of s that is 0 without noise, where steps can go on to the data.

    Args:
        last: length of the last step, to zero noise, as a share of the others, in place of `end`.
            Without either the grid ends at `sde.sampling_t_min`, and the last step is hardly one.

    Raises:
        ValueError: for `last` not greater than 0, or given together with `end`.
    """

    last: float | None = None

    def __post_init__(self) -> None:
        if self.last is None:
            return
        require_positive(last=self.last)
        if self.end is not None:
            raise ValueError(f"end={self.end} and last={self.last} both say where to end: give one")

    @override
    def times(self, sde: SDE, count: int) -> Tensor:
        """Decreasing times, float64 of shape `(count,)`."""
        require_count(count=count)
        if self.last is None:
            return super().times(sde, count)
        first = self.coordinate(-0.5 * sde.log_snr(torch.tensor(sde.t_max, dtype=torch.float64)))
        ending = self.log_ratio(first * self.last / (count - 1 + self.last))
        end = min(sde.time_of_log_snr(-2 * ending).item(), 0.999 * sde.t_max)
        return replace(self, end=end, last=None).times(sde, count)


@dataclass(frozen=True)
class RectifiedTime(ToData):
    r"""Evenly spaced in rectified time s / (1 + s) = sigma / (alpha + sigma).

    The clock of rectified flow, in which noise becomes data along a straight line. Few steps are
    spent where there is little noise, which suits few evaluations.

    Args:
        shift: > 0; the noise ratios of the steps are `shift` times those of even ones, as large
            images need: even steps in s / (shift + s).

    Reference: Liu et al. 2022, https://arxiv.org/abs/2209.03003; the shift is that of Esser et al.
    2024, https://arxiv.org/abs/2403.03206, section 5.3.2.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(shift=self.shift)

    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """s / (shift + s)."""
        return torch.sigmoid(log_ratio - math.log(self.shift))

    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """The logit and the logarithm of the shift."""
        return torch.logit(coordinate) + math.log(self.shift)


@dataclass(frozen=True)
class Angle(ToData):
    r"""Evenly spaced in the angle atan(s), along which signal and noise turn into each other.

    On a variance-preserving SDE alpha and sigma are its cosine and sine. Even steps in t of the
    cosine schedule are nearly even in it.

    Reference: Salimans & Ho 2022, https://arxiv.org/abs/2202.00512, appendix D.
    """

    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """atan(s)."""
        return torch.atan(torch.exp(log_ratio))

    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """The logarithm of the tangent."""
        return torch.log(torch.tan(coordinate))


@dataclass(frozen=True)
class LogitNormal(NoiseGrid):
    r"""Quantiles of a logit-normal law of rectified time: dense around one noise level.

    The logit of rectified time is log s, so this is even spacing in

    .. math:: F(s) = \Phi\left(\frac{\log s - mean}{std}\right)

    The law is that of the noise levels at which rectified flows and EDM are trained; the ends stay
    those of the SDE, and beyond a few `std` of the mean there is hardly a step.

    Args:
        mean: the log noise ratio around which steps are dense.
        std: > 0; the wider, the nearer to even steps in log s.

    Reference: Esser et al. 2024, https://arxiv.org/abs/2403.03206, section 3.1; Karras et al. 2022,
    https://arxiv.org/abs/2206.00364, table 1.
    """

    mean: float = 0.0
    std: float = 2.0

    def __post_init__(self) -> None:
        require_finite(mean=self.mean)
        require_positive(std=self.std)

    def coordinate(self, log_ratio: Tensor) -> Tensor:
        """The distance from noise as a probability, 1 - F(s)."""
        share: Tensor = torch.special.ndtr((self.mean - log_ratio) / self.std)
        return share

    def log_ratio(self, coordinate: Tensor) -> Tensor:
        """The quantile."""
        deviate: Tensor = torch.special.ndtri(coordinate)
        return self.mean - self.std * deviate


@dataclass(frozen=True)
class Native(Grid):
    """The SDE's own grid, `sde.native_grid`: Karras for EDM, uniform in t for the others."""

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """As the SDE's own grid does."""
        return GRIDS.create(sde.native_grid).place(sde, u, end)


@dataclass(frozen=True)
class Times(Grid):
    """Times given one by one, such as those of the layers of a hierarchical VAE.

    Args:
        at: strictly decreasing times. The first need not be `sde.t_max` where sampling starts from
            a state.

    Raises:
        ValueError: if they do not decrease.
    """

    end: None = field(default=None, init=False, repr=False)
    at: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.at or any(not late > early for late, early in pairwise(self.at)):
            raise ValueError("at must be strictly decreasing times, from noise to data")

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """The times themselves, whatever the shares."""
        return torch.tensor(self.at, dtype=torch.float64)

    @override
    def times(self, sde: SDE, count: int) -> Tensor:
        """The times themselves.

        Raises:
            ValueError: if `count` is not their number, or they leave the range of the SDE.
        """
        if count != len(self.at):
            raise ValueError(
                f"the sampler stops at {count} times and at has {len(self.at)}: set "
                "steps=len(at), or steps=len(at) - 1 with denoise=False"
            )
        return sde.check_time(self.place(sde, torch.empty(0), self.at[-1]))


@dataclass(frozen=True)
class NoiseRatios(Grid):
    r"""Noise ratios sigma / alpha given one by one, which any SDE turns into its own times.

    A grid found by `optimise_grid` is one. The first time is `sde.t_max` on every SDE, whatever
    the first ratio: sampling starts where the SDE does.

    Args:
        ratios: positive and strictly decreasing, one per step, zero noise not among them.
        made_for: said when another number of steps is asked for, such as a sampler's spec.

    Raises:
        ValueError: if they are not positive and decreasing.
    """

    end: None = field(default=None, init=False, repr=False)
    ratios: tuple[float, ...]
    made_for: str = ""

    def __post_init__(self) -> None:
        require_finite(**{f"ratios[{i}]": ratio for i, ratio in enumerate(self.ratios)})
        falling = all(late > early for late, early in pairwise(self.ratios))
        if not self.ratios or not falling or not self.ratios[-1] > 0:
            raise ValueError(
                "ratios must be strictly decreasing noise ratios sigma / alpha, all greater than 0"
            )

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """The times of the ratios, whatever the shares."""
        ratios = torch.tensor(self.ratios, dtype=torch.float64)
        return sde.time_of_log_snr(-2 * ratios.log())

    @override
    def times(self, sde: SDE, count: int) -> Tensor:
        """The times of the ratios, the first of them `sde.t_max`.

        Raises:
            ValueError: if `count` is not their number, or the SDE does not reach them.
        """
        if count != len(self.ratios):
            steps = len(self.ratios)
            made_for = f", made for {self.made_for}" if self.made_for else ""
            raise ValueError(
                f"the sampler stops at {count} times and this grid has {steps}{made_for}: set "
                f"steps={steps}, or steps={steps - 1} with denoise=False"
            )
        times = self.place(sde, torch.empty(0), sde.t_min)
        times[0] = sde.t_max
        if not bool((times.diff() < 0).all()):
            reach = [torch.exp(-0.5 * sde.log_snr(t)).item() for t in (sde.t_min, sde.t_max)]
            raise ValueError(
                f"the grid's noise ratios, {self.ratios[-1]:.4g} to {self.ratios[0]:.4g}, lie "
                f"outside {reach[0]:.4g} to {reach[1]:.4g}, those of {sde}"
            )
        return times


def from_file(path: str | Path) -> NoiseRatios:
    """The grid of a file, such as `optimise_grid` finds and `sde-score optimise-grid` writes.

    Raises:
        ValueError: if the file is damaged, or no grid.
        OSError: if it cannot be read.
    """
    record = read_grid_file(path)
    return NoiseRatios(ratios=record.ratios, made_for=f"{record.sampler}, {record.nfe} NFE")


GRIDS: Registry[Grid] = Registry(
    "grid",
    {
        "native": Native,
        "uniform": UniformTime,
        "polynomial": Polynomial,
        "log_snr": UniformLogSNR,
        "karras": Karras,
        "rectified": RectifiedTime,
        "angle": Angle,
        "logit_normal": LogitNormal,
        "file": from_file,
    },
)
