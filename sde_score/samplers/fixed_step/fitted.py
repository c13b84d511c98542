r"""Multistep methods whose coefficients were fitted to a model, one by one.

With y = x / alpha and D_j = x0_hat(x_j, t_j), every method of one evaluation per step has the form

.. math:: y_{k+1} = c_k\, y_k + \sum_{j \le k} b_{kj}\, D_j .

The published ones follow c and b from the times by a rule that is the same for all models; here
all of them are numbers. `linear_form` writes a method by name in this form.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.conditions import Condition
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.exponential import PREDICTIONS
from sde_score.samplers.fixed_step.multistep import (
    Multistep,
    PredictionReader,
    StepCoefficients,
    take_steps,
)
from sde_score.samplers.fixed_step.one_step import DDIM
from sde_score.samplers.fixed_step.runge_kutta import RungeKutta
from sde_score.samplers.grids import Grid, NoiseRatios
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE

Rows = tuple[tuple[float, ...], ...]
"""For each step c_k and then b_kj, the newest evaluation first."""


@dataclass(frozen=True, repr=False)
class Fitted(Sampler):
    """Steps with coefficients of their own, as `samplers.tune` finds them and its file keeps them.

    Args:
        steps: as many as there are rows.
        grid: the noise ratios of the evaluations, one per step.
        rows: for each step the factor on the state and those on the denoised means, the newest
            first, all in the frame x / alpha; the last step arrives at the data.

    Raises:
        ValueError: if the numbers of steps, noise ratios and rows differ, a row is longer than its
            past, or `denoise` is False.

    Reference: Shaul et al. 2024 (bespoke non-stationary solvers), https://arxiv.org/abs/2403.01329.
    """

    grid: str | Grid = ""
    rows: Rows = ()

    ends_at_data = True
    stochastic = False
    convergence_order = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.grid, NoiseRatios) and self.rows):
            raise ValueError(
                "a fitted sampler needs the noise ratios and the rows that were found for a model: "
                "give the .json file that tune wrote"
            )
        super().__post_init__()
        counts = {self.steps, len(self.rows), len(self.grid.ratios)}
        if len(counts) > 1:
            raise ValueError(
                f"steps={self.steps}, {len(self.rows)} rows and {len(self.grid.ratios)} noise "
                "ratios do not agree: coefficients were fitted for one number of steps alone; "
                "tune again for another"
            )
        if not self.denoise:
            raise ValueError("denoise=False: the last step was fitted to arrive at the data")
        for k, row in enumerate(self.rows):
            if not 1 <= len(row) <= k + 2 or not all(map(math.isfinite, row)):
                raise ValueError(f"rows[{k}] must hold 1 to {k + 2} finite numbers, got {row!r}")

    @override
    def text(self, *left_out: str) -> str:
        """The steps, and a digest in place of the coefficients."""
        steps = "" if "steps" in left_out else f"steps={self.steps}, "
        digest = hashlib.sha256(repr((self.grid, self.rows)).encode()).hexdigest()
        return f"fitted({steps}digest={digest[:8]!r})"

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times of the noise ratios.

        Raises:
            ValueError: if the diffusion starts elsewhere than the one that was fitted to.
        """
        times, first = super().times(sde), self.time_grid.ratios[0]  # type: ignore[attr-defined]
        start = sde.noise_ratio(times[0]).item()
        if abs(math.log(start / first)) > 1e-3:
            raise ValueError(
                f"{self} was fitted to start at a noise ratio of {first:.6g}, and {sde} starts at "
                f"{start:.6g}: tune for this model"
            )
        return times

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        alpha = [*problem.sde.alpha(problem.times).tolist(), 1.0]
        steps = []
        for (before, after), (carry, *weights) in zip(pairwise(alpha), self.rows, strict=True):
            scaled = [after * weight for weight in weights]
            steps.append(StepCoefficients(carry * after / before, scaled, 0.0, []))
        reader = PredictionReader.along(PREDICTIONS["data"], problem.sde, problem.times)
        return take_steps(problem, x, reader, steps, len(steps))


class _Symbols:
    """A model in which the state is its own record: the shares of the start and of each D_j."""

    def __init__(self, sde: SDE) -> None:
        self.sde, self.nfe = sde, 0
        self.states: list[Tensor] = []
        self.times: list[float] = []

    def denoise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """The next unit vector."""
        self.states.append(x[0] / self.sde.alpha(t))
        self.times.append(float(t))
        self.nfe += 1
        return torch.nn.functional.one_hot(torch.tensor([self.nfe]), x.shape[1]).to(x)

    def noise(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """(x - alpha D) / sigma."""
        return (x - self.sde.alpha(t) * self.denoise(x, t)) / self.sde.sigma(t)

    def score(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """(alpha D - x) / sigma^2."""
        return -self.noise(x, t) / self.sde.sigma(t)

    def velocity(self, x: Tensor, t: Tensor | float, condition: Condition = None) -> Tensor:
        """alpha' D + sigma' noise."""
        noise = self.noise(x, t)
        mean = (x - self.sde.sigma(t) * noise) / self.sde.alpha(t)
        return self.sde.alpha_derivative(t) * mean + self.sde.sigma_derivative(t) * noise


def linear_form(sampler: Sampler, sde: SDE) -> Fitted | None:
    """A deterministic sampler with its coefficients as numbers, which gives the same samples.

    Args:
        sampler: of any number of evaluations per step.
        sde: the diffusion.

    Returns:
        None for one of another class than ours, or that evaluates twice at one noise ratio.
    """
    if isinstance(sampler, Fitted):
        return sampler
    if not isinstance(sampler, (Multistep, RungeKutta, DDIM)) or sampler.stochastic:
        return None
    model, count = _Symbols(sde), sampler.count_nfe(sde)
    start = torch.zeros(1, count + 1, dtype=torch.float64)
    start[0, 0] = 1.0
    end = sampler(model, start, progress=False)
    shares = torch.stack([*model.states, end[0]])
    ratios = sde.noise_ratio(torch.tensor(model.times, dtype=torch.float64))
    if len(ratios) != count or not bool((ratios.diff() < 0).all()) or not shares[:-1, 0].all():
        return None
    carry = shares[1:, 0] / shares[:-1, 0]
    weights = shares[1:, 1:] - carry[:, None] * shares[:-1, 1:]
    rows = tuple((carry[k].item(), *weights[k, : k + 1].flip(0).tolist()) for k in range(count))
    return Fitted(count, NoiseRatios(tuple(ratios.tolist())), rows=rows)
