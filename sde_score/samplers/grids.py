"""Time grids: at which noise levels a sampler stops on its way from noise to data.

A grid runs from `sde.t_max` down to `end` and never to zero noise: the last step, from `end` to
the data, is the denoised mean, which is explicit in every sampler (`denoise`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._checks import require_count, require_positive
from sde_score._registry import Registry
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
class UniformLogSNR(Grid):
    """Evenly spaced in log(alpha / sigma).

    Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, section 4.1.
    """

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the log signal-to-noise ratio."""
        first, last = sde.log_snr(sde.t_max), sde.log_snr(end)
        return sde.time_of_log_snr(first + u * (last - first))


@dataclass(frozen=True)
class Karras(Grid):
    r"""Evenly spaced in (sigma / alpha)^(1/rho): dense where the noise is small.

    Args:
        rho: 1 spaces the noise evenly, infinity its logarithm; > 0.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, eq. 5.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        require_positive(rho=self.rho)

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Linear in the rho-th root of sigma / alpha."""
        first, last = (torch.exp(-0.5 * sde.log_snr(t) / self.rho) for t in (sde.t_max, end))
        return sde.time_of_log_snr(-2 * self.rho * torch.log(first + u * (last - first)))


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


GRIDS: Registry[Grid] = Registry(
    "grid",
    {"native": Native, "uniform": UniformTime, "log_snr": UniformLogSNR, "karras": Karras},
)
