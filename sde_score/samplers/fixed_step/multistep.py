r"""Multistep methods of one evaluation per step: one driver, and a table of methods.

Each step extrapolates a combination of the model's predictions (`exponential.PREDICTIONS`) by the
polynomial through its last values, in a chosen coordinate (`sdes.clocks.CLOCKS`), and solves
the rest exactly. DDIM, DEIS, DPM-Solver, UniPC, SA-Solver and Adams-Bashforth on the flow's
velocity are choices of these, on any SDE: `ROWS` lists them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from sde_score._core.checks import require_choice, require_count
from sde_score.samplers.base import Iteration, Problem, Sampler
from sde_score.samplers.fixed_step.exponential import (
    MOMENT_RULES,
    PREDICTIONS,
    Prediction,
    Steps,
    exponential_steps,
    require_eta_schedule,
)
from sde_score.samplers.fixed_step.linear import Number, as_floats, weighted_sum_
from sde_score.samplers.fixed_step.published import DPM, DPMPP, EDM, FLOW, ON_DATA, ON_NOISE, row
from sde_score.samplers.grids import Grid
from sde_score.samplers.noise.stochasticity import EtaSchedule, eta_schedule
from sde_score.sdes import SDE
from sde_score.sdes.clocks import CLOCKS, FINITE, Clock

_EXPONENTIAL = "Zhang & Chen 2022, https://arxiv.org/abs/2204.13902"

MOST = 6
"""Most points of a polynomial; beyond them extrapolation only amplifies."""


class StepCoefficients(NamedTuple):
    """The numbers of one step, on the state x."""

    carry: Number
    """Factor on x."""
    weights: list[Number]
    """On the values of the prediction, the newest first."""
    std: Number
    """On fresh noise."""
    corrections: list[Number]
    """Added before the step, on the same values: what the newest says about the last step."""


def advance(x: Tensor, move: StepCoefficients, past: tuple[Tensor, ...]) -> Tensor:
    """A step but for its noise; `torch.compile` makes one graph of it.

    Args:
        x: the state, overwritten unless gradients are enabled.
        move: the numbers of the step.
        past: values of the prediction, the newest first.
    """
    if move.corrections:
        x = weighted_sum_(x, 1.0, *zip(past, move.corrections, strict=False))
    return weighted_sum_(x, move.carry, *zip(past, move.weights, strict=False))


@dataclass(frozen=True)
class PredictionReader:
    """How the prediction comes from the model: on_x x + on_model m."""

    model: str
    on_x: list[Number]
    on_model: list[Number]

    @classmethod
    def along(cls, form: Prediction, sde: SDE, times: Tensor) -> PredictionReader:
        """The factors at times of a grid.

        With m the data, eps_hat = x / sigma - m / s, so q = (r / sigma) x + (p - r / s) m.
        """
        s, sigma = sde.noise_ratio(times), sde.sigma(times)
        p, r = form.on_data(s), form.on_noise(s)
        if form.model == "noise" or not r.any():
            return cls(form.model, [], [])
        return cls(form.model, as_floats(r / sigma), as_floats(p - r / s))

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


@dataclass(frozen=True)
class Multistep(Sampler):
    """Extrapolate the model's prediction through its last `order` values.

    Sampling starts with fewer points, since there are no more: the first step is DDIM's on every
    form.

    Args:
        prediction: what is extrapolated: `"noise"`, `"data"`, `"velocity"` (noise less data) or
            `"angular"` (the velocity on the circle of data and noise).
        coordinate: in which it is a polynomial: `"log_snr"`, `"sigma"`, `"rectified"`, `"angle"`,
            `"time"` or `"index"`.
        order: points of the polynomial, 1 to 6.
        corrector: if not 0, each state is corrected once the model has been evaluated at it, by the
            polynomial through that value and this many before it. It costs no evaluation.
        eta: noise level, 0 the ODE and 1 the reverse SDE; a number, a name of `ETA_SCHEDULES` such
            as `"interval(eta=0.8)"`, or an `EtaSchedule`.
        rule: how the integrals are taken: `"exact"`, or as a published method does (see
            `exponential.MOMENT_RULES`).
        final_order: points of the polynomial on the last step, to zero noise; 1 is the denoised
            mean. More needs a prediction other than the data and a coordinate that is finite at
            zero noise.
        taper: use no more points than steps are left, the step to zero noise included.
        reference: the paper.

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
    reference: str = field(default=_EXPONENTIAL, repr=False)

    ends_at_data = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("prediction", self.prediction, tuple(PREDICTIONS))
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
        past = deque[Tensor](maxlen=1 + max(self.order, self.corrector, self.final_order))
        times, moves = [*problem.times.tolist(), 0.0], self.moves(problem.sde, problem.times)
        reading = PredictionReader.along(PREDICTIONS[self.prediction], problem.sde, problem.times)
        for k, t in enumerate(problem.moments(x.device)):
            if k == len(moves):
                if self.denoise:
                    yield 0.0, problem.denoise(x, t)
                return
            value, move = reading.take(problem, x, t, k), moves[k]
            past.appendleft(value)
            x = advance(x, move, tuple(past))
            if move.std:
                x = weighted_sum_(x, 1.0, (problem.between(times[k], times[k + 1]), move.std))
            yield times[k + 1], x

    def moves(self, sde: SDE, times: Tensor) -> list[StepCoefficients]:
        """The steps along a grid, but for a last one that is the denoised mean.

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
        solve = partial(self._solve, CLOCKS[self.coordinate](sde, s), s, alpha)
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
        self, clock: Clock, s: Tensor, alpha: Tensor, k: Tensor, newest: Tensor, counts: Tensor
    ) -> Steps:
        """Steps on x from points k to the next, by polynomials through `counts` points of which the
        newest is given."""
        most = int(counts.max()) if len(counts) else 1
        points = s[(newest[:, None] - torch.arange(most)).clamp(min=0)]
        form, level = PREDICTIONS[self.prediction], eta_schedule(self.eta)
        found = exponential_steps(form, level, clock, s[k], s[k + 1], points, counts, self.rule)
        after = alpha[k + 1]
        return Steps(
            found.carry * after / alpha[k], found.weights * after[:, None], found.std * after
        )


def _wide(weights: Tensor, left: int, width: int) -> Tensor:
    """Zeros on both sides, as many as said on the left and `width` columns in all."""
    return pad(weights, (left, width - left - weights.shape[1]))


_PNDM = "Liu et al. 2022 (PNDM), https://arxiv.org/abs/2202.09778"
_UNIPC = "Zhao et al. 2023, https://arxiv.org/abs/2302.04867"
_ER = "Cui et al. 2023, https://arxiv.org/abs/2309.06169"
_SA = "Xue et al. 2023, https://arxiv.org/abs/2309.05019"


_data_in_sigma: dict[str, Any] = {**ON_DATA, "coordinate": "sigma"}
_flow: dict[str, Any] = {"grid": "rectified(last=0.5)", "final_order": 3}

ROWS: Mapping[str, Callable[..., Multistep]] = {
    "adams": row(Multistep, FLOW, **_flow, coordinate="angle", order=4, corrector=3),
    "adams-time": row(Multistep, FLOW, coordinate="time", corrector=2, grid="polynomial"),
    "flow-ab": row(Multistep, FLOW, **_flow),
    "angular-ab": row(Multistep, FLOW, **_flow, prediction="angular", coordinate="angle"),
    "sigma-ab": row(Multistep, EDM, prediction="noise", coordinate="sigma", grid="karras", order=4),
    "ipndm": row(Multistep, _PNDM, **_flow, prediction="noise", coordinate="index"),
    "deis": row(Multistep, _EXPONENTIAL, prediction="noise", coordinate="time", grid="polynomial"),
    "dpm-2m": row(Multistep, DPM, **ON_NOISE, order=2, rule="midpoint"),
    "dpm-3m": row(Multistep, DPM, **ON_NOISE),
    "dpmpp-2m": row(Multistep, DPMPP, **ON_DATA, order=2, rule="midpoint"),
    "dpmpp-3m": row(Multistep, DPMPP, **ON_DATA),
    "dpmpp-3m-published": row(Multistep, DPMPP, **ON_DATA, rule="midpoint-halved"),
    "unipc": row(Multistep, _UNIPC, **ON_DATA, corrector=3, rule="midpoint"),
    "dpmpp-1-sde": row(Multistep, DPMPP, **ON_DATA, order=1, eta=1.0),
    "dpmpp-2m-sde": row(Multistep, DPMPP, **ON_DATA, order=2, eta=1.0, rule="midpoint"),
    "dpmpp-3m-sde": row(Multistep, DPMPP, **ON_DATA, eta=1.0),
    "sa-solver": row(Multistep, _SA, **ON_DATA, corrector=2, eta="interval"),
    "adams-sde": row(Multistep, _SA, **_data_in_sigma, order=2, corrector=2, eta=0.7),
    "er-sde": row(Multistep, _ER, **_data_in_sigma, eta="extended"),
}
"""Named methods, each a choice of `Multistep`'s fields that can still be changed.

`adams`, `adams-time` and `adams-sde` are ours: Adams-Bashforth and its corrector on the flow's
velocity, in the angle or the SDE's own time, and on the data with noise. The first suits laws with
exact scores, the second networks on VP, whose predictions are smoothest in the clock they were
trained on.
`dpmpp-3m` is of third order. The published code halves the second difference, which makes it a
method of second order; that one is `dpmpp-3m-published`.
"""
