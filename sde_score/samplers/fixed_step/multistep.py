r"""Multistep methods of one evaluation per step.

Each step extrapolates a combination of the model's predictions (`exponential.PREDICTION_NAMES`)
by the polynomial through its last values, in a chosen coordinate (`sdes.clocks.CLOCKS`), and solves
the rest exactly. DDIM, DEIS, DPM-Solver, UniPC, SA-Solver and Adams-Bashforth on the flow's
velocity are choices of these, on any SDE: `published.METHODS` lists them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from sde_score._core.checks import require_choice, require_count
from sde_score.samplers.base import Sampler
from sde_score.samplers.fixed_step.exponential import (
    MOMENT_RULES,
    PREDICTION_NAMES,
    Prediction,
    Steps,
    exponential_steps,
    prediction_on,
    require_eta_schedule,
)
from sde_score.samplers.fixed_step.linear import Number, as_floats, weighted_sum_
from sde_score.samplers.grids import Grid
from sde_score.samplers.noise.stochasticity import EtaSchedule, eta_schedule
from sde_score.samplers.problem import Iteration, Problem
from sde_score.sdes import SDE
from sde_score.sdes.clocks import CLOCKS, FINITE, Clock

MOST = 6
"""Most points of a polynomial; beyond them extrapolation only amplifies."""


class StepCoefficients(NamedTuple):
    """The coefficients of one step, on the state x."""

    carry: Number
    """Factor on x."""
    weights: list[Number]
    """On the values of the prediction, the newest first."""
    std: Number
    """On fresh noise."""
    corrections: list[Number]
    """Added before the step, on the same values: the last step corrected by the newest value."""


def advance(x: Tensor, step: StepCoefficients, past: tuple[Tensor, ...]) -> Tensor:
    """A step without its noise; `torch.compile` makes one graph of it.

    Args:
        x: the state, overwritten unless gradients are enabled.
        step: its coefficients.
        past: values of the prediction, the newest first.
    """
    if step.corrections:
        x = weighted_sum_(x, 1.0, *zip(past, step.corrections, strict=False))
    return weighted_sum_(x, step.carry, *zip(past, step.weights, strict=False))


@dataclass(frozen=True)
class PredictionReader:
    """The prediction from the model's output m and the state x: on_x x + on_model m."""

    model: str
    on_x: list[Number]
    on_model: list[Number]

    @classmethod
    def along(cls, prediction: Prediction, sde: SDE, times: Tensor) -> PredictionReader:
        """The factors at the times of a grid.

        With m the data, eps_hat = x / sigma - m / s, so q = (r / sigma) x + (p - r / s) m.
        """
        s, sigma = sde.noise_ratio(times), sde.sigma(times)
        p, r = prediction.on_data(s), prediction.on_noise(s)
        if prediction.model == "noise" or not r.any():
            return cls(prediction.model, [], [])
        return cls(prediction.model, as_floats(r / sigma), as_floats(p - r / s))

    def take(self, problem: Problem, x: Tensor, t: Tensor, k: int) -> Tensor:
        """The prediction at the k-th time t, from one evaluation."""
        if self.model == "noise":
            return problem.expected_noise(x, t)
        data = problem.denoise(x, t)
        if not self.on_x:
            return data
        if torch.is_grad_enabled():
            return weighted_sum_(data, self.on_model[k], (x, self.on_x[k]))
        return torch.mul(data, self.on_model[k]).add_(x, alpha=self.on_x[k])


def take_steps(
    problem: Problem, x: Tensor, reader: PredictionReader, steps: list[StepCoefficients], depth: int
) -> Iteration:
    """Steps of one evaluation each, along the times of the problem.

    Args:
        problem: the model, the times and the source of noise.
        x: the first state, overwritten unless gradients are enabled.
        reader: of the prediction at these times.
        steps: their coefficients, for the first of the times.
        depth: values of the prediction that are kept.
    """
    past = deque[Tensor](maxlen=depth)
    times = [*problem.times.tolist(), 0.0]
    for k, (t, step) in enumerate(zip(problem.moments(x.device), steps, strict=False)):
        past.appendleft(reader.take(problem, x, t, k))
        x = advance(x, step, tuple(past))
        if step.std:
            x = weighted_sum_(x, 1.0, (problem.between(times[k], times[k + 1]), step.std))
        yield times[k + 1], x


@dataclass(frozen=True)
class Multistep(Sampler):
    r"""Extrapolate the model's prediction through its last `order` values.

    The general step is that of `exponential`. With lambda = log(alpha / sigma), h_i = lambda_i -
    lambda_{i-1} and the data D_i = x0_hat(x_i, t_i) as the prediction, order 2 in the clock
    `log_snr` with the rule `midpoint` is DPM-Solver++(2M),

    .. math:: x_i = \frac{\sigma_i}{\sigma_{i-1}} x_{i-1} - \alpha_i (e^{-h_i} - 1)
              \left[\Big(1 + \frac{1}{2 r_i}\Big) D_{i-1} - \frac{1}{2 r_i} D_{i-2}\right], \qquad
              r_i = \frac{h_{i-1}}{h_i} .

    The first steps have fewer points: the first is DDIM's for every prediction.

    Args:
        prediction: the quantity that is extrapolated: `"noise"`, `"data"`, `"velocity"` (noise less
            data), `"angular"` (the velocity on the circle of data and noise) or `"derivative"`
            (dx/dt in the SDE's own time).
        coordinate: clock in which it is a polynomial: `"log_snr"`, `"sigma"`, `"rectified"`,
            `"angle"`, `"time"` or `"index"`.
        order: points of the polynomial, 1 to 6.
        corrector: if not 0, each state is corrected once the model has been evaluated at it, by the
            polynomial through that value and this many before it. It costs no evaluation.
        eta: noise level, 0 the ODE and 1 the reverse SDE; a number, a name of `ETA_SCHEDULES` such
            as `"interval(eta=0.8)"`, or an `EtaSchedule`.
        rule: moments of the polynomial: `"exact"`, or those of a published method, from
            `exponential.MOMENT_RULES`.
        final_order: points of the polynomial on the last step, to zero noise; 1 is the denoised
            mean. More needs a prediction other than the data and a clock that is finite at zero
            noise.
        taper: use no more points than steps are left, the step to zero noise included.

    Raises:
        ValueError: for arguments outside their range or that do not go together.
    """

    steps: int = 20
    grid: str | Grid = "rectified"
    prediction: str = "velocity"
    coordinate: str = "rectified"
    order: int = 3
    corrector: int = 0
    eta: float | str | EtaSchedule = 0.0
    rule: str = "exact"
    final_order: int = 1
    taper: bool = False

    ends_at_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("prediction", self.prediction, PREDICTION_NAMES)
        require_choice("coordinate", self.coordinate, tuple(CLOCKS))
        require_choice("rule", self.rule, tuple(MOMENT_RULES))
        require_count(order=self.order, final_order=self.final_order)
        require_count(minimum=0, corrector=self.corrector)
        for name in ("order", "corrector", "final_order"):
            if getattr(self, name) > MOST:
                raise ValueError(f"{name}={getattr(self, name)} must be at most {MOST}")
        require_eta_schedule(self.prediction, self.eta)
        if self.final_order > 1 and (self.prediction == "data" or self.coordinate not in FINITE):
            raise ValueError(
                f"final_order={self.final_order} needs a prediction other than 'data' and one of "
                f"the coordinates {', '.join(FINITE)}; with prediction={self.prediction!r} and "
                f"coordinate={self.coordinate!r} only 1 is accepted"
            )

    @property
    @override
    def convergence_order(self) -> int:
        order = min(self.order, self.corrector) + 1 if self.corrector else self.order
        halved = "halved" in self.rule and self.order > 2
        return min(order, 2) if self.stochastic or halved or self.coordinate == "index" else order

    @property
    @override
    def stochastic(self) -> bool:
        return eta_schedule(self.eta).stochastic

    @override
    def iterate(self, problem: Problem, x: Tensor) -> Iteration:
        steps = self.coefficients(problem.sde, problem.times)
        prediction = prediction_on(self.prediction, problem.sde)
        reader = PredictionReader.along(prediction, problem.sde, problem.times)
        depth = 1 + max(self.order, self.corrector, self.final_order)
        for reached, state in take_steps(problem, x, reader, steps, depth):
            x = state
            yield reached, x
        if self.denoise and self.final_order == 1:
            yield 0.0, problem.denoise(x, problem.times[-1].to(x.device))

    def coefficients(self, sde: SDE, times: Tensor) -> list[StepCoefficients]:
        """Those of the steps along a grid, without a last one that is the denoised mean.

        Args:
            sde: the diffusion.
            times: float64, decreasing.
        """
        s, alpha = sde.noise_ratio(times), sde.alpha(times)
        ends_at_data = self.denoise and self.final_order > 1
        if ends_at_data:
            s, alpha = torch.cat([s, s.new_zeros(1)]), torch.cat([alpha, alpha.new_ones(1)])
        k = torch.arange(len(s) - 1)
        left = len(times) - (not self.denoise) - k if self.taper else torch.full_like(k, MOST)
        available = torch.minimum(k + 1, left)
        counts = available.clamp(max=self.order)
        if ends_at_data:
            counts[-1] = min(self.final_order, len(times))
        prediction, clock = prediction_on(self.prediction, sde), CLOCKS[self.coordinate](sde, s)
        solve = partial(self._solve, prediction, clock, s, alpha)
        steps = solve(k, k, counts)
        corrections = steps.weights.new_zeros(len(k), 0)
        if self.corrector and len(k) > 1:
            old = k[: len(times) - 1]
            again = solve(old, old + 1, available[old].clamp(max=self.corrector) + 1)
            width = 1 + max(self.order, self.corrector, self.final_order)
            change = _wide(again.weights, 0, width) - _wide(steps.weights[old], 1, width)
            corrections = torch.cat([change.new_zeros(1, width), change])[: len(k)]
        rows = (steps.carry, steps.weights, steps.std, corrections)
        return [StepCoefficients(*row) for row in zip(*map(as_floats, rows), strict=True)]

    def _solve(
        self,
        prediction: Prediction,
        clock: Clock,
        s: Tensor,
        alpha: Tensor,
        k: Tensor,
        newest: Tensor,
        counts: Tensor,
    ) -> Steps:
        """Steps on x from points k to the next, by polynomials through `counts` points of which the
        newest is given."""
        most = int(counts.max()) if len(counts) else 1
        points = s[(newest[:, None] - torch.arange(most)).clamp(min=0)]
        found = exponential_steps(
            prediction, eta_schedule(self.eta), clock, s[k], s[k + 1], points, counts, self.rule
        )
        after = alpha[k + 1]
        return Steps(
            found.carry * after / alpha[k], found.weights * after[:, None], found.std * after
        )


def _wide(weights: Tensor, left: int, width: int) -> Tensor:
    """Padded by `left` columns of zeros on the left, and on the right to `width` columns."""
    return pad(weights, (left, width - left - weights.shape[1]))
