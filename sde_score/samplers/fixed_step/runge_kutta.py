r"""One-step methods of several evaluations: Runge-Kutta with any prediction in any clock.

Like a multistep method (`multistep`), each step replaces a combination of the model's predictions
(`exponential.PREDICTION_NAMES`) by a polynomial in a chosen clock and solves the rest exactly. Here
the polynomial goes through evaluations within the step, the *stages* of a tableau in `butcher`, and
nothing is remembered from earlier steps. In a prediction's natural clock these are the classical
Runge-Kutta methods; in log-SNR they are DPM-Solver's. `published.METHODS` lists them.

Noise comes in three ways, all with the marginals of the diffusion:

- a noise level `eta`: the step is one of the reverse SDE. Its noise enters all stages as one
  Brownian motion: the integrals between the stages are drawn one by one and carried on;
- `ancestral`: a step of the ODE beyond the goal, from s_0 down to s_down, and back up by noise,

  .. math:: s_{up} = a\, s_1 \sqrt{1 - s_1^2 / s_0^2}, \qquad s_{down}^2 = s_1^2 - s_{up}^2 ;

- `churn`: noise first, from s_0 up to (1 + gamma) s_0, and a step of the ODE down from there.

EDM's published code churns two steps more. The first goes beyond the noise of `sde.t_max`, where
the model is not defined, so churn is capped there. The last, to zero noise, is the denoised mean of
every sampler. With a window `churn_min` to `churn_max` inside the grid, as in all settings of the
paper, neither step would churn, and the samples are those of the published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from sde_score._core.checks import require_choice, require_positive
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.butcher import TABLEAUX, Tableau
from sde_score.samplers.fixed_step.exponential import (
    PREDICTION_NAMES,
    Prediction,
    exponential_steps,
    prediction_on,
    require_eta_schedule,
)
from sde_score.samplers.fixed_step.linear import Number, as_floats, weighted_sum_
from sde_score.samplers.grids import Grid
from sde_score.samplers.noise.stochasticity import EtaSchedule, eta_schedule
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE
from sde_score.sdes.clocks import CLOCKS, Clock

PLACEMENTS = ("log_snr", "sigma", "rectified", "angle", "time")
"""The clocks in which stages can be placed within a step."""

NATURAL = {"noise": "sigma", "velocity": "rectified", "angular": "angle", "derivative": "time"}
"""The clock of each prediction in which its steps are those of a classical Runge-Kutta method."""


class StageCoefficients(NamedTuple):
    """Coefficients of one stage, from the start of the step to the stage or to the step's end."""

    carry: Number
    """On the state x at the start of the step."""
    on_model: list[tuple[int, Number]]
    """On evaluations of the model within the step: index and coefficient."""
    on_noise: list[Number]
    """On the draws of the step so far, the last one made for this stage."""


@dataclass(frozen=True, eq=False)
class _Held(EtaSchedule):
    """A schedule whose step is the whole one, wherever in it an integral starts."""

    schedule: EtaSchedule
    first: Tensor

    def rate(self, s: Tensor, start: Tensor) -> Tensor:
        return self.schedule.rate(s, self.first)

    def log_phi(self, s: Tensor, start: Tensor) -> Tensor:
        return self.schedule.log_phi(s, self.first)


class RunCoefficients(NamedTuple):
    """All coefficients of a run, computed before it.

    Args:
        times: of the evaluations, float64 of shape `(steps, evaluations)`.
        lifts: per step, factors on x and on the noise of churn.
        stages: per step, one entry for each stage and one for the end.
    """

    times: Tensor
    lifts: list[tuple[Number, Number]]
    stages: list[list[StageCoefficients]]


@dataclass(frozen=True)
class RungeKutta(Sampler):
    r"""Extrapolate the model's prediction through evaluations within the step.

    The general step is that of `exponential`. With y = x / alpha and s = sigma / alpha, `heun` with
    the noise eps_hat as the prediction in the clock `sigma` is EDM's sampler,

    .. math:: y' = y_0 + (s_1 - s_0)\, \hat\epsilon(y_0, s_0), \qquad
              y_1 = y_0 + \tfrac{s_1 - s_0}{2}
              \left[\hat\epsilon(y_0, s_0) + \hat\epsilon(y', s_1)\right],

    and `midpoint` in the clock `log_snr`, with step size h in log(alpha / sigma) and the stage m in
    the middle, is DPM-Solver-2,

    .. math:: x_m &= \frac{\alpha_m}{\alpha_0} x_0 - \sigma_m (e^{h/2} - 1)\, \hat\epsilon(x_0), \\
              x_1 &= \frac{\alpha_1}{\alpha_0} x_0 - \sigma_1 (e^h - 1)\, \hat\epsilon(x_m) .

    The last step, to zero noise, is the denoised mean and costs one evaluation.

    Args:
        prediction: the quantity that is extrapolated: `"noise"`, `"data"`, `"velocity"` (noise less
            data), `"angular"` (the velocity on the circle of data and noise) or `"derivative"`
            (dx/dt in the SDE's own time).
        coordinate: clock in which it is a polynomial and the stages are placed: `"log_snr"`,
            `"sigma"`, `"rectified"`, `"angle"` or `"time"`.
        method: a name of `TABLEAUX`, or a `Tableau` such as `butcher.second_order(0.6)`.
        eta: noise level, 0 the ODE and 1 the reverse SDE; a number, a name of `ETA_SCHEDULES` such
            as `"interval(eta=0.8)"`, or an `EtaSchedule`.
        ancestral: share of the noise of ancestral sampling, in [0, 1], that is added after each
            step, which goes down so much further; 0 is the ODE.
        churn: overall amount of noise put back before the steps, >= 0: it raises s to (1 + gamma) s
            with gamma = min(churn / steps, sqrt(2) - 1); 0 is the ODE.
        churn_min: churn only where s is at least this.
        churn_max: churn only where s is at most this. The noise is never raised beyond that of the
            first time.
        churn_noise: standard deviation of the fresh noise of churn, near 1.

    Raises:
        ValueError: for arguments outside their range or that do not go together.
    """

    steps: int = 20
    grid: str | Grid = "rectified"
    prediction: str = "velocity"
    coordinate: str = "rectified"
    method: str | Tableau = "heun"
    eta: float | str | EtaSchedule = 0.0
    ancestral: float = 0.0
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("prediction", self.prediction, PREDICTION_NAMES)
        require_choice("coordinate", self.coordinate, PLACEMENTS)
        if isinstance(self.method, str):
            require_choice("method", self.method, tuple(TABLEAUX))
        require_positive(churn_noise=self.churn_noise)
        if not 0 <= self.ancestral <= 1:
            raise ValueError(f"ancestral={self.ancestral} must lie in [0, 1]; 0 is the ODE")
        if not self.churn >= 0:
            raise ValueError(f"churn={self.churn} must be at least 0; 0 is the ODE")
        if not 0 <= self.churn_min <= self.churn_max:
            raise ValueError(
                f"churn_min={self.churn_min} and churn_max={self.churn_max} must be increasing"
            )
        level = require_eta_schedule(self.prediction, self.eta)
        if level.stochastic + (self.ancestral > 0) + (self.churn > 0) > 1:
            raise ValueError(
                f"eta={self.eta!r}, ancestral={self.ancestral} and churn={self.churn} are three "
                "ways to add noise: at most one of them can be other than 0"
            )
        if self.ancestral and self.coordinate == "time":
            raise ValueError(
                f"ancestral={self.ancestral} goes below the last time, where coordinate='time' "
                "does not reach; try 'log_snr'"
            )

    @property
    @override
    def convergence_order(self) -> int:
        if eta_schedule(self.eta).stochastic:
            return min(self.tableau.order, 2)
        natural = NATURAL.get(self.prediction) == self.coordinate
        return self.tableau.order if natural else min(self.tableau.order, 3)

    @property
    @override
    def stochastic(self) -> bool:
        return eta_schedule(self.eta).stochastic or self.ancestral > 0 or self.churn > 0

    @property
    def tableau(self) -> Tableau:
        """The method as an object."""
        return TABLEAUX[self.method] if isinstance(self.method, str) else self.method

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        run = self.coefficients(problem.sde, problem.times)
        return march(problem, x, self.prediction, run, problem.times)

    def coefficients(self, sde: SDE, times: Tensor) -> RunCoefficients:
        """Those of all steps along a grid.

        Args:
            sde: the diffusion.
            times: float64, decreasing.
        """
        here, raised = sde.noise_ratio(times), self._raise(sde.noise_ratio(times))
        first = torch.where(raised > here, sde.time_of_noise_ratio(raised), times)[:-1]
        start, stop, last = raised[:-1], here[1:], times[1:]
        scale, end = sde.alpha(first), sde.alpha(times[1:])
        churned = scale * self.churn_noise * _rest(start, here[:-1])
        fresh = None
        if self.ancestral:
            down = self._below(sde, start, stop)
            fresh = end * _rest(stop, down)
            stop, last = down, sde.time_of_noise_ratio(down)
        ratios, clock = self._places(sde, start, stop, first, last)
        within = sde.alpha(clock.flatten()).reshape(clock.shape)
        stages = stage_coefficients(
            self.tableau, prediction_on(self.prediction, sde), eta_schedule(self.eta),
            CLOCKS[self.coordinate](sde, start), torch.cat([ratios, stop[:, None]], 1),
            torch.cat([within, end[:, None]], 1), fresh,
        )  # fmt: skip
        lifts = as_floats(scale / sde.alpha(times[:-1]))
        return RunCoefficients(clock, [*zip(lifts, as_floats(churned), strict=True)], stages)

    def _raise(self, ratio: Tensor) -> Tensor:
        """Noise levels after churn; shape and dtype of `ratio`."""
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        churned = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        return torch.where(churned, (1 + gamma) * ratio, ratio).clamp(max=ratio[0])

    def _below(self, sde: SDE, start: Tensor, stop: Tensor) -> Tensor:
        """The noise ratio s_down before ancestral noise, bounded by the range of the model."""
        up = self.ancestral * stop * torch.sqrt(1 - (stop / start) ** 2)
        down = torch.sqrt(stop**2 - up**2)
        farthest = max([stage.at for stage in self.tableau.stages], default=0.0)
        if not farthest:
            return down
        clock = CLOCKS[self.coordinate](sde, start)
        first, least = clock.forward(start), sde.noise_ratio(start.new_tensor(sde.t_min))
        limit = first + (clock.forward(least) - first) / farthest
        return torch.fmax(down, clock.inverse(limit))

    def _places(
        self, sde: SDE, start: Tensor, stop: Tensor, first: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noise ratios and times of the evaluations, `(steps, evaluations)`, between a first time
        and a last one."""
        clock = CLOCKS[self.coordinate](sde, start)
        begin, width = clock.forward(start), clock.forward(stop) - clock.forward(start)
        ratios, times = [start], [first]
        for stage in self.tableau.stages:
            ratios.append(clock.inverse(begin + stage.at * width))
            times.append(last if stage.at == 1 else sde.time_of_noise_ratio(ratios[-1]))
        return torch.stack(ratios, 1), torch.stack(times, 1)


def march(
    problem: Problem, x: Tensor, prediction: str, run: RunCoefficients, times: Tensor
) -> Iteration:
    """The steps of a run.

    Args:
        problem: the model and the source of noise.
        x: state at the first time.
        prediction: the quantity that is extrapolated.
        run: the coefficients of the steps.
        times: ends of the steps, the first one's start included.
    """
    of_noise = prediction_on(prediction, problem.sde).model == "noise"
    predict = problem.expected_noise if of_noise else problem.denoise
    stops, instants = times.tolist(), run.times.tolist()
    moments = [row.unbind() for row in run.times.to(x.device).unbind()]
    buffer, evaluated = torch.empty_like(x), [x] * run.times.shape[1]
    for k, ((lift, churned), stages) in enumerate(zip(run.lifts, run.stages, strict=True)):
        if churned:
            x = weighted_sum_(x, lift, (problem.noise(), churned))
        ends, last = [*instants[k][1:], stops[k + 1]], stops[k]
        state, draws = x, list[Tensor]()
        for n, stage in enumerate(stages):
            evaluated[n] = predict(state, moments[k][n])
            if len(stage.on_noise) > len(draws) and stage.on_noise[-1]:
                draws.append(problem.between(last, ends[n]))
                last = ends[n]
            terms = [(evaluated[i], weight) for i, weight in stage.on_model]
            if draws:
                terms += zip(draws, stage.on_noise, strict=False)
            if stage is stages[-1]:
                x = weighted_sum_(x, stage.carry, *terms)
            else:
                state = _apart(buffer, x, stage.carry, *terms)
        yield stops[k + 1], x


def stage_coefficients(
    tableau: Tableau,
    prediction: Prediction,
    schedule: EtaSchedule,
    clock: Clock,
    s: Tensor,
    alpha: Tensor,
    fresh: Tensor | None = None,
) -> list[list[StageCoefficients]]:
    """Coefficients of the stages of each step and of its end.

    All states of a step are linear in its start, the evaluations of the model and the draws;
    they are computed as vectors of coefficients on these.

    Args:
        tableau: the method.
        prediction: q, the combination that is extrapolated.
        schedule: tau.
        clock: q is a polynomial in it.
        s: noise ratios of the evaluations and of the end, `(steps, evaluations + 1)`.
        alpha: signal scales, the same shape.
        fresh: factor on noise added at the end, `(steps,)`.
    """
    goals = tableau.goals
    solve = partial(exponential_steps, prediction, _Held(schedule, s[:, :1]), clock)
    on_x, on_model = _reading(prediction, s, alpha)
    unit = torch.eye(1 + 2 * len(goals), dtype=s.dtype)
    states, values, noise = [unit[0].expand(len(s), -1)], list[Tensor](), 0 * unit[0]
    found, drawn, before, at = list[list[StageCoefficients]](), 0, 0, 0.0
    for n, goal in enumerate(goals, 1):
        values.append(on_x[:, n - 1, None] * states[-1] + on_model[:, n - 1, None] * unit[n])
        nodes = [(p,) if isinstance(p, int) else p for p in goal.nodes]
        points = torch.stack([s[:, node[0]] for node in nodes], 1)
        counts = torch.full((len(s),), len(nodes))
        rule = tableau.rule if n == len(goals) else "exact"
        step = solve(s[:, 0], s[:, n], points, counts, rule)
        state = (step.carry / alpha[:, 0])[:, None] * unit[0]
        for weight, node in zip(step.weights.unbind(1), nodes, strict=True):
            state = state + weight[:, None] * sum(values[i] for i in node) / len(node)
        if schedule.stochastic and goal.at > at:
            piece = solve(s[:, before], s[:, n], points[:, :1], counts.clamp(max=1))
            drawn, before, at = drawn + 1, n, goal.at
            noise = piece.carry[:, None] * noise + piece.std[:, None] * unit[-drawn]
        states.append(alpha[:, n, None] * (state + noise))
        if fresh is not None and n == len(goals):
            drawn, states[n] = 1, states[n] + fresh[:, None] * unit[-1]
        row = states[n][:, 0], states[n][:, 1 : n + 1], states[n].flip(1)[:, :drawn]
        found.append([_used(*stage) for stage in zip(*map(as_floats, row), strict=True)])
    return [list(step) for step in zip(*found, strict=True)]


def _reading(prediction: Prediction, s: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Factors on the state and on the model's output that make the prediction.

    With m the data, eps_hat = (x / alpha - m) / s, so q = (r / (alpha s)) x + (p - r / s) m.
    """
    p, r = prediction.on_data(s), prediction.on_noise(s)
    if prediction.model == "noise":
        return torch.zeros_like(s), r
    return r / (alpha * s), p - r / s


def _used(carry: Number, on_model: list[Number], on_noise: list[Number]) -> StageCoefficients:
    """The coefficients of a stage, without evaluations that play no part."""
    return StageCoefficients(
        carry, [(i, weight) for i, weight in enumerate(on_model) if weight], on_noise
    )


def _rest(high: Tensor, low: Tensor) -> Tensor:
    """Standard deviation of the noise from a lower noise ratio to a higher; slope 0 where equal."""
    gap = high**2 - low**2
    return torch.where(gap > 0, torch.where(gap > 0, gap, 1.0).sqrt(), 0.0)


def _apart(
    buffer: Tensor, x: Tensor, scale: Number, first: tuple[Tensor, Number],
    *rest: tuple[Tensor, Number],
) -> Tensor:  # fmt: skip
    """`weighted_sum_` that leaves x as it is and writes to `buffer`, unless gradients are
    enabled."""
    if torch.is_grad_enabled():
        return weighted_sum_(x, scale, first, *rest)
    if scale == 1:
        torch.add(x, first[0], alpha=first[1], out=buffer)
        return weighted_sum_(buffer, 1, *rest)
    torch.mul(x, scale, out=buffer)
    return weighted_sum_(buffer, 1, first, *rest)
