r"""DPM-Solver's singlestep methods: Runge-Kutta steps that use a budget of evaluations up.

Steps are of one order, the last of lower ones, so that any number of evaluations is met:
3, 3, ..., 3, 2, 1 or 3, ..., 3, 1 or 3, ..., 3, 2; and 2, ..., 2 or 2, ..., 2, 1.

Reference: Lu et al. 2022, https://arxiv.org/abs/2206.00927, section 3.4 (DPM-Solver-fast); Lu et
al. 2022, https://arxiv.org/abs/2211.01095 (DPM-Solver++), on the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.butcher import TABLEAUX, Stage, Tableau
from sde_score.samplers.fixed_step.exponential import PREDICTIONS
from sde_score.samplers.fixed_step.runge_kutta import (
    RunCoefficients,
    StageCoefficients,
    march,
    stage_coefficients,
)
from sde_score.samplers.grids import Grid
from sde_score.samplers.noise.stochasticity import eta_schedule
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE
from sde_score.sdes.clocks import LOG_SNR

FAMILIES: Mapping[str, tuple[Tableau, ...]] = {
    "dpmsolver": (
        TABLEAUX["euler"],
        Tableau(2, (0, 1), (Stage(1 / 2, (0,)),), rule="midpoint"),
        TABLEAUX["heun-3"],
    ),
    "taylor": (TABLEAUX["euler"], TABLEAUX["half-line"], TABLEAUX["thirds-parabola"]),
}
"""The methods of orders 1 to 3 of the two families of the published code, by their names in it: a
line through the start and the last stage, or the polynomial through all stages."""


@dataclass(frozen=True)
class Singlestep(Sampler):
    r"""DPM-Solver of one order in log-SNR, lower at the end, so that `steps` are evaluations.

    A step of order k has k evaluations. They stand either between the times of the grid, evenly in
    log-SNR (`stages="between"`, the published code on its grid `logSNR`), or at the times of the
    grid themselves, k of them to a step (`"grid"`, the published code on `time_uniform` and
    `time_quadratic`: here the grids `uniform` and `polynomial`).

    Args:
        steps: evaluations, the final denoising included.
        prediction: `"noise"`, DPM-Solver, or `"data"`, DPM-Solver++.
        order: of most steps, 1, 2 or 3.
        stages: `"between"` the times of the grid or at the times of the `"grid"`.
        family: a name of `FAMILIES`.
        fixed: all steps are of the order, and evaluations that fill none are not made; the
            published code's `singlestep_fixed`.

    Raises:
        ValueError: for arguments outside their range.
    """

    steps: int = 20
    grid: str | Grid = "log_snr"
    prediction: str = "noise"
    order: int = 3
    stages: str = "between"
    family: str = "dpmsolver"
    fixed: bool = False

    stochastic = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("prediction", self.prediction, ("noise", "data"))
        require_choice("stages", self.stages, ("between", "grid"))
        require_choice("family", self.family, tuple(FAMILIES))
        if self.order not in (1, 2, 3):
            raise ValueError(f"order={self.order!r} is not known; accepted: 1, 2, 3")

    @property
    @override
    def convergence_order(self) -> int:
        return self.order

    @property
    @override
    def total(self) -> int:
        return len(self.orders)

    @property
    def orders(self) -> tuple[int, ...]:
        """Those of the steps, whose sum is the number of evaluations."""
        left, order = self.steps - self.denoise, self.order
        whole, rest = divmod(left, order)
        if self.fixed:
            return (order,) * whole
        if order == 3 and rest == 0 and whole:
            return (*(3,) * (whole - 1), 2, 1)
        return (*(order,) * whole, *(rest,) * (rest > 0))

    @override
    def times(self, sde: SDE) -> Tensor:
        """The ends of the steps, or with `stages="grid"` the times of all evaluations, and the last
        time; decreasing, float64."""
        orders = self.orders
        count = sum(orders) if self.stages == "grid" else len(orders)
        return self.time_grid.times(sde, count + 1)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        run, ends = self.coefficients(problem.sde, problem.times), problem.times
        if self.stages == "grid":
            ends = ends[[0, *accumulate(self.orders)]]
        return march(problem, x, self.prediction, run, ends)

    def coefficients(self, sde: SDE, times: Tensor) -> RunCoefficients:
        """Those of all steps along a grid.

        Args:
            sde: the diffusion.
            times: as those of `times`, float64, decreasing.
        """
        orders, most = self.orders, max(self.orders, default=1)
        stages = list[list[StageCoefficients]]()
        instants = times.new_zeros(len(orders), most)
        for k, order in enumerate(orders):
            at = self._instants(sde, times, k)
            instants[k, :order] = at[:-1]
            tableau, s = FAMILIES[self.family][order - 1], sde.noise_ratio(at)[None]
            stages += stage_coefficients(
                tableau, PREDICTIONS[self.prediction], eta_schedule(0.0), LOG_SNR, s,
                sde.alpha(at)[None],
            )  # fmt: skip
        return RunCoefficients(instants, [(1.0, 0.0)] * len(orders), stages)

    def _instants(self, sde: SDE, times: Tensor, k: int) -> Tensor:
        """The times of the evaluations of the k-th step, and its end."""
        order = self.orders[k]
        if self.stages == "grid":
            first = sum(self.orders[:k])
            return times[first : first + order + 1]
        share = torch.arange(1, order, dtype=times.dtype) / order
        first, last = LOG_SNR.at(sde, times[k : k + 2])
        between = LOG_SNR.time(sde, first + share * (last - first))
        return torch.cat([times[k : k + 1], between, times[k + 1 : k + 2]])
