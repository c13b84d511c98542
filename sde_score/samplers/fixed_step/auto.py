"""A sampler for every model and budget: a multistep method whose fields follow from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.models import Model, Parametrization, Scales
from sde_score.random import Noise
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.grids import Grid
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE

_CLOCK = "shift=0.6, power=0.75"
GRID = f"rectified(last=0.75, {_CLOCK})"
"""Dense where most data have their structure, with steps left for modes that are narrower."""

_ORDERS = ((7, 2), (12, 3), (25, 4))  # below so many steps this order, beyond the last 5
_MOST_FOR_NETWORKS = 3
_FEW_FOR_NOISE = 15
_WRAPPERS = 8  # models made of models, at most


@dataclass(frozen=True)
class Auto(Sampler):
    """The multistep method that suits a number of steps and a model, where nothing was tuned.

    The velocity is extrapolated in rectified time and corrected, by an order that rises with the
    steps, 2 to 5, on a grid dense around s = sigma / alpha = 0.6 that has steps for all noise
    levels. For networks the order is at most 3, which guidance does not upset; those with a
    diffusion that ends in noise alone are extrapolated in the time they were trained on, and none
    is asked below `sde.sampling_t_min`. Where a network predicts the noise alone, its error in the
    data is s times as large, so that steps are needed at high noise: `dpm-3m` below 15 steps,
    `unipc` from there on.

    One evaluation per step. The rule was chosen for the least ratio, at worst, of the errors at the
    end to those of the best method by name, on mixtures of 2 to 64 dimensions and small networks;
    `benchmarks/tuning.py` measures it on others.

    Args:
        grid: the default stands for that of the method.
    """

    steps: int = 20
    grid: str | Grid = GRID

    ends_at_data: ClassVar[bool] = True

    def suited(self, model: Model | None = None) -> Multistep:
        """The method for a model; None for one whose score is exact."""
        row = None if model is None else _parametrization(model)
        order = next((order for most, order in _ORDERS if self.steps < most), 5)
        if model is None or row is None:
            corrector = 3 if order == 2 else 4
            return self._method(self.grid, order=order, corrector=corrector, final_order=2)
        if _noise_alone(row, model.sde):
            few = self.steps < _FEW_FOR_NOISE
            fields = {"prediction": "noise"} if few else {"corrector": 3, "rule": "midpoint"}
            grid = "log_snr" if self.grid == GRID else self.grid
            return self._method(grid, **{"prediction": "data", "coordinate": "log_snr", **fields})
        timed = float(model.sde.alpha(model.sde.t_max)) < 0.5
        return self._method(
            self._within_training(model.sde),
            coordinate="time" if timed else "rectified",
            order=min(order, _MOST_FOR_NETWORKS),
            corrector=3,
            final_order=1 if timed else 2,
        )

    def _method(self, grid: str | Grid, **fields: Any) -> Multistep:
        return Multistep(self.steps, grid, self.denoise, **fields)

    def _within_training(self, sde: SDE) -> str | Grid:
        """The grid, which ends where samplers do if the default would go on."""
        beyond = self.grid == GRID and bool(self.times(sde)[-1] < sde.sampling_t_min)
        return f"rectified({_CLOCK})" if beyond else self.grid

    @property
    @override
    def stochastic(self) -> bool:
        return False

    @property
    @override
    def convergence_order(self) -> int:
        return self.suited().convergence_order

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        yield from self.suited(problem.model).iterate(problem, x)

    @override
    def _walk(
        self, model: Model, x: Tensor, noise: Noise, condition: Condition, progress: bool
    ) -> Iteration:
        yield from self.suited(model)._walk(model, x, noise, condition, progress)


def suited(sampler: Sampler, model: Model) -> Sampler:
    """The sampler itself, or what `Auto` is for the model, whose times are then its own."""
    return sampler.suited(model) if isinstance(sampler, Auto) else sampler


def _parametrization(model: Model) -> Parametrization | None:
    """That of a network, perhaps inside of models made of it; None for other models."""
    inner: object = model
    for _ in range(_WRAPPERS):
        row = getattr(inner, "parametrization", None)
        if isinstance(row, Parametrization):
            return row
        inner = getattr(inner, "model", None)
    return None


def _noise_alone(row: Parametrization, sde: SDE) -> bool:
    """Whether the answer of a network is a multiple of the noise."""
    at = Scales(sde, torch.tensor(sde.t_max, dtype=torch.float64), row.sigma_data)
    return not bool(row.output(at)[0].any())
