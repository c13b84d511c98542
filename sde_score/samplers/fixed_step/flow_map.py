"""Steps of a flow map: from one time of the grid to the next by one evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import expand_like
from sde_score.models import FlowMapModel, GaussianFlowMap, Model
from sde_score.samplers.base import Sampler
from sde_score.samplers.grids import Grid
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE, VP


@dataclass(frozen=True)
class FlowMapSteps(Sampler):
    r"""Follow a flow map along the grid: `steps` evaluations, 1, 2 or 4 of a trained one.

    .. math:: x_{k+1} = X_{t_k \to t_{k+1}}(x_k)

    It is exact for an exact flow map, whatever the steps, and works on flow maps alone. A grid that
    says nothing else ends at `sde.t_min`, the time of the data that maps are trained to go to; the
    samples end at the last time of the grid.

    Args:
        renoise: for maps that were trained to go to the data alone, as by `consistency`: every step
            goes to the last time, and noise takes it back to the next one of the grid.

    Reference: Boffi et al. 2024, https://arxiv.org/abs/2406.07507; Song et al. 2023,
    https://arxiv.org/abs/2303.01469, algorithm 1, for `renoise`.
    """

    steps: int = 2
    grid: str | Grid = "angle"
    denoise: bool = False
    renoise: bool = False
    name: str = field(default="flow-map", kw_only=True, repr=False, compare=False)

    @override
    def times(self, sde: SDE) -> Tensor:
        """The times from one to the next of which the steps go, decreasing, float64."""
        grid = self.time_grid
        given = not any(f.name == "end" and f.init for f in fields(grid))  # times one by one
        if not given and grid.end is None and getattr(grid, "last", None) is None:
            grid = replace(grid, end=sde.t_min)
        return grid.times(sde, self.steps if self.denoise else self.steps + 1)

    @property
    @override
    def stochastic(self) -> bool:
        return self.renoise and self.steps > 1

    @override
    def count_nfe(self, model: Model | SDE | None = None) -> int:
        """Network evaluations per sample, counted on the flow map of a Gaussian.

        Args:
            model: whose diffusion is meant, or the diffusion; None for `VP()`.
        """
        sde = model if isinstance(model, SDE) else VP() if model is None else model.sde
        counted = GaussianFlowMap([0.3], 0.5, sde)
        return round(self.run(counted, (1, 1), seed=0, progress=False).nfe)

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        model = problem.model
        if not isinstance(model, FlowMapModel):
            raise ValueError(
                f"model is a {type(model).__name__} and knows no flow between two times, which "
                f"{self} follows: train one by objective='mean-flow', or take another sampler, "
                "such as dpmpp-2m"
            )
        times, sde = problem.moments(x.device), problem.sde
        last = len(times) - 1
        for k, (t, s) in enumerate(pairwise(times), 1):
            x = model.flow(x, t, times[last] if self.renoise else s, problem.condition)
            if self.renoise and k < last:
                scale, std = sde.transition(times[last], s)
                x = expand_like(scale, x) * x + expand_like(std, x) * problem.noise()
            yield float(problem.times[k]), x
