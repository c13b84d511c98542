"""The contract of a time grid: decreasing times from `sde.t_max` to an end above zero noise.

A sampler of n steps stops at n times. Its last step, from the end of the grid to the data, is
explicit in every sampler (`denoise`): the denoised mean or, for a multistep method, one more step
of its own. So the size of the last step is the noise at the end of the grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count
from sde_score._core.registry import Registry
from sde_score.sdes import SDE


@dataclass(frozen=True)
class Grid(ABC):
    """A rule for spacing times.

    Args:
        end: last time, in `[sde.t_min, sde.t_max)`; None takes `sde.sampling_t_min`.
    """

    end: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """Times at the shares u of the way, 0 at `sde.t_max` and 1 at `end`; float64."""

    def stop(self, sde: SDE, count: int) -> float:
        """The last of `count` times: `end`, or where samplers stop on this SDE."""
        return sde.sampling_t_min if self.end is None else self.end

    def times(self, sde: SDE, count: int) -> Tensor:
        """Decreasing times, float64 of shape `(count,)`; the ends are exact.

        Raises:
            ValueError: if `end` lies outside the times of the SDE, count < 1, or two times do not
                decrease, as where the SDE's inverse of the noise is wrong.
        """
        require_count(count=count)
        end = self.stop(sde, count)
        if not sde.t_min <= end < sde.t_max:
            raise ValueError(
                f"end={end} must lie in [{sde.t_min}, {sde.t_max}), the times of {sde}"
            )
        if count == 1:
            return torch.tensor([sde.t_max], dtype=torch.float64)
        times = self.place(sde, torch.linspace(0, 1, count, dtype=torch.float64), end)
        times[0], times[-1] = sde.t_max, end
        falls = times.diff() < 0
        if not bool(falls.all()):
            k = int((~falls).nonzero()[0])
            raise ValueError(
                f"grid {self!r} goes from t={times[k].item():g} to t={times[k + 1].item():g} at "
                f"step {k + 1} of {count - 1} where times must decrease: is time_of_log_snr of "
                f"{sde} the inverse of its log_snr, and are all noise levels within its range?"
            )
        return times


GRIDS: Registry[Grid] = Registry("grid", base=Grid)
"""The grids by name; filled in `sde_score.samplers.grids`."""
