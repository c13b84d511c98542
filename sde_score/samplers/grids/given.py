"""Grids whose times or noise ratios are given one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.arguments import checked
from sde_score._core.checks import require_finite
from sde_score._core.registry import parse_spec
from sde_score.samplers.grids.base import Grid
from sde_score.samplers.grids.files import GridFile, read_grid_file
from sde_score.sdes import SDE


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
        super().__post_init__()
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
        made_for: named when another number of steps is asked for, such as a sampler's spec.

    Raises:
        ValueError: if they are not positive and decreasing.
    """

    end: None = field(default=None, init=False, repr=False)
    ratios: tuple[float, ...]
    made_for: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(**{f"ratios[{i}]": ratio for i, ratio in enumerate(self.ratios)})
        falling = all(late > early for late, early in pairwise(self.ratios))
        if not self.ratios or not falling or not self.ratios[-1] > 0:
            raise ValueError(
                "ratios must be strictly decreasing noise ratios sigma / alpha, all greater than 0"
            )

    def place(self, sde: SDE, u: Tensor, end: float) -> Tensor:
        """The times of the ratios, whatever the shares."""
        return sde.time_of_noise_ratio(torch.tensor(self.ratios, dtype=torch.float64))

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
            reach = [sde.noise_ratio(t).item() for t in (sde.t_min, sde.t_max)]
            raise ValueError(
                f"the grid's noise ratios, {self.ratios[-1]:.4g} to {self.ratios[0]:.4g}, lie "
                f"outside {reach[0]:.4g} to {reach[1]:.4g}, those of {sde}"
            )
        return times


@checked
def from_file(path: str | Path) -> NoiseRatios:
    """The grid of a file, as `optimise_grid` returns it and `sde-score optimise-grid` writes it.

    Raises:
        ValueError: if the file is damaged, or no grid.
        OSError: if it cannot be read.
    """
    return _ratios(read_grid_file(path))


def _ratios(content: GridFile) -> NoiseRatios:
    return NoiseRatios(content.ratios, f"{content.sampler}, {content.nfe} NFE")


def sampler_of_file(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the sampler that a grid file was made for, the grid among them.

    Raises:
        ValueError: if the file is damaged, no grid, or names no sampler.
        OSError: if it cannot be read.
    """
    content = read_grid_file(path)
    name, arguments = parse_spec(content.sampler)
    if not name or name.endswith(".json"):
        raise ValueError(f"{path} names no sampler for its grid: sampler={content.sampler[:80]!r}")
    if content.rows:
        return name, {**arguments, "rows": content.rows, "grid": NoiseRatios(content.ratios)}
    return name, {**arguments, "grid": _ratios(content)}
