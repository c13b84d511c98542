"""A sampler for every model and budget: a multistep method whose fields follow from both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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

GRID = "rectified(last=0.75, shift=0.6, power=0.75)"
"""Dense where most data have their structure, with steps left for modes that are narrower."""

_ORDERS = ((7, 2), (12, 3), (25, 4))  # below so many steps this order, beyond the last 5
_FEW_FOR_NOISE = 15
_WRAPPERS = 8  # models made of models, at most


@dataclass(frozen=True)
class Auto(Sampler):
    """The multistep method that suits a number of steps and a model, where nothing was tuned.

    The velocity is extrapolated in rectified time and corrected, by an order that rises with the
    steps, 2 to 5, on a grid dense around s = sigma / alpha = 0.6 that has steps for all noise
    levels. Where a network predicts the noise alone, its error in the data is s times as large, so
    that steps are needed at high noise: `dpm-3m` below 15 steps, `unipc` from there on.

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
        """The method for a model; None for one that does not predict the noise alone."""
        steps, denoise = self.steps, self.denoise
        if model is not None and _predicts_noise(model):
            grid = "log_snr" if self.grid == GRID else self.grid
            few = steps < _FEW_FOR_NOISE
            return Multistep(
                steps, grid, denoise, "noise" if few else "data", "log_snr",
                corrector=0 if few else 3, rule="exact" if few else "midpoint",
            )  # fmt: skip
        order = next((order for most, order in _ORDERS if steps < most), 5)
        return Multistep(
            steps, self.grid, denoise, order=order, corrector=3 if order == 2 else 4, final_order=2
        )

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


def _predicts_noise(model: Model) -> bool:
    """Whether a network, perhaps inside of models made of it, predicts a multiple of the noise."""
    inner: object = model
    for _ in range(_WRAPPERS):
        row = getattr(inner, "parametrization", None)
        if isinstance(row, Parametrization):
            at = Scales(model.sde, torch.tensor(model.sde.t_max).double(), row.sigma_data)
            return not bool(row.output(at)[0].any())
        inner = getattr(inner, "model", None)
    return False
