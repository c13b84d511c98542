r"""Log-likelihood by few steps, with its error: refused where step doubling finds it wrong.

A flow that is integrated in too few steps still gives a number, and nothing in it says that it is
nonsense: a few Euler steps of an image model print negative bits per dimension. So the density is
computed with n steps and with n / 2 from the same probes, and

.. math:: error = \left| \log p_n(x) - \log p_{n/2}(x) \right|,

root mean square over the batch and per dimension, must not exceed the tolerance. For a method of
order 4 that is up to 15 times the error; of Euler's method, which is not offered, the difference
was found at a third of the error.

The learned steps of a flow map with a log-determinant may agree on what is wrong. Some examples are
therefore solved as by `log_prob`, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import expand_like, require_choice, require_count, require_positive
from sde_score._core.conditions import Condition, rows_of
from sde_score.likelihood.base import Likelihood, Problem, standard_error, start_time
from sde_score.likelihood.dequantization import DEQUANTIZATIONS, Dequantization
from sde_score.likelihood.flow import draw_probes, log_prob
from sde_score.models import (
    LogDetModel,
    Model,
    Scales,
    angle_rate,
    checked_inputs,
    stretch_clock,
    value_and_divergence,
)
from sde_score.objectives.flow_map.base import Circle
from sde_score.random import example_seeds

STEP_METHODS = ("rk4", "flow-map")

_MOST_EXACT = 64  # dimensions up to which examples are checked by the exact divergence
_CHECK_PROBES, _CHECK_TOLERANCE = 8, 1e-4


class SteppedLogProb(NamedTuple):
    """Log densities by few steps, with their errors.

    Attributes:
        log_prob: log density at the start in model space, in nats, shape `(batch,)`, float64.
        error: its difference from that with half as many steps, shape `(batch,)`.
        rms: the root mean square of `error`, and of that of the examples that were solved, in bits
            per dimension.
        nfe: calls of the model.
    """

    log_prob: Tensor
    error: Tensor
    rms: float
    nfe: int


def log_prob_by_steps(
    model: Model,
    x: Tensor,
    steps: int = 32,
    *,
    method: str = "rk4",
    tolerance: float | None = 0.02,
    checked: int = 4,
    start: float | None = None,
    divergence: str = "exact",
    probes: int = 1,
    seed: int | Sequence[int] | None = 0,
    condition: Condition = None,
) -> SteppedLogProb:
    r"""Log density of x by a given number of steps, even in asinh(tan(theta) / 0.1).

    Args:
        model: a model that is differentiable in x; for `flow-map` one with `log_det`.
        x: points in model space, shape `(batch, *event)`.
        steps: an even number, at least 2; with their halves 6 evaluations each, of `flow-map` 3.
        method: `rk4`, Runge and Kutta's on the probability flow, or `flow-map`, the steps of a flow
            map with the log-determinant of each.
        tolerance: largest error in bits per dimension, root mean square over x, > 0; None for any,
            which leaves it to you to look at `rms`.
        checked: with `flow-map`, how many of the first examples are also solved with adaptive steps
            to 1e-4 on the diagonal of the map, at about 70 evaluations each; 0 for none.
        start: time at which x lives; None is `t_min`.
        divergence: as for `log_prob`; without effect on `flow-map`, as are the next two.
        probes: as for `log_prob`.
        seed: as for `log_prob`.
        condition: passed to the model unchanged.

    Raises:
        TypeError: for a model without the protocol, or without a log-determinant for `flow-map`.
        ValueError: for an unknown name, odd steps, or arguments out of range.
        RuntimeError: where the error is above the tolerance: the figure would be nonsense.

    Reference: Hairer, Norsett & Wanner 1993, https://doi.org/10.1007/978-3-540-78862-1, section
    II.4, for step doubling.
    """
    x, condition = checked_inputs("x", model, x, condition)
    _require_steps(steps, method, tolerance, checked)
    require_choice("divergence", divergence, ("exact", "hutchinson"))
    begin, before, point = start_time(model.sde, start), model.nfe, x.detach().double()
    probe = None if divergence == "exact" else draw_probes(probes, point, seed=seed)
    with torch.no_grad():
        fine, coarse = (
            _walk(model, point, _times(model, begin, count), method, probe, condition)
            for count in (steps, steps // 2)
        )
    error, size = (fine - coarse).abs(), x[0].numel()
    worst = float(error.square().mean().sqrt())
    if method == "flow-map" and checked:
        rows = slice(0, checked)
        off = _solved(model, point[rows], begin, rows_of(condition, rows)) - fine[None, rows]
        worst = max(worst, _beyond_noise(off))
    rms = worst / (size * math.log(2))
    if tolerance is not None and not rms <= tolerance:
        raise RuntimeError(
            f"{steps} steps of {method} leave an error of {rms:.3g} bits per dimension (by half as "
            f"many{' and exact solves' * (method == 'flow-map')}), more than "
            f"tolerance={tolerance:g}: take more steps, or log_prob, whose steps adapt"
        )
    return SteppedLogProb(fine, error, rms, model.nfe - before)


def _require_steps(steps: int, method: str, tolerance: float | None, checked: int) -> None:
    require_choice("method", method, STEP_METHODS)
    require_count(2, steps=steps)
    require_count(0, checked=checked)
    if steps % 2:
        raise ValueError(f"steps={steps} must be even: half as many tell the error")
    if tolerance is not None:
        require_positive(tolerance=tolerance)


def _times(model: Model, begin: float, steps: int) -> Tensor:
    """Times from data to noise, even in the clock, float64 `(steps + 1,)`."""
    clock = stretch_clock(_scale_of(model))
    ends = torch.tensor([begin, model.sde.t_max], dtype=torch.float64)
    first, last = clock.at(model.sde, ends)
    times = clock.time(model.sde, torch.lerp(first, last, torch.linspace(0, 1, steps + 1).double()))
    times[0], times[-1] = begin, model.sde.t_max
    return times


def _scale_of(model: Model) -> float:
    return float(getattr(model, "sigma_data", 1.0))


def _walk(
    model: Model,
    x: Tensor,
    times: Tensor,
    method: str,
    probes: Tensor | None,
    condition: Condition,
) -> Tensor:
    """Log density of x along given times."""
    if method != "flow-map":
        latent, stretch = _integrated(model, x, times, probes, condition)
        return model.sde.prior(x.shape).log_prob(latent) + stretch
    if not isinstance(model, LogDetModel):
        raise TypeError(
            f"model is a {type(model).__name__} without a log-determinant, which method='flow-map' "
            "needs: make one by models.LogDetFlowMap, or take method='rk4'"
        )
    total = x.new_zeros(len(x))
    for t, s in pairwise(times.tolist()):
        total += model.log_det(x, t, s, condition)
        x = model.flow(x, t, s, condition).double()
    return model.sde.prior(x.shape).log_prob(x) + total


def _integrated(
    model: Model,
    x: Tensor,
    times: Tensor,
    probes: Tensor | None,
    condition: Condition,
) -> tuple[Tensor, Tensor]:
    """The latent code, and the log-determinant of the way to it.

    z = x / S moves by dz / d theta on the circle, in steps of the clock.
    """
    sde, scale, size = model.sde, _scale_of(model), x[0].numel()
    circle, clock = Circle(sde, scale), stretch_clock(scale)
    spread = [float(Scales(sde, times[k], scale).spread) for k in (0, -1)]

    def slope(u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        t = clock.time(sde, u).expand(len(z)).to(z.device)
        value, forms = value_and_divergence(
            lambda point: circle.velocity(model, point, t, condition), z, probes
        )
        rate = angle_rate(Scales(sde, t, scale))
        return expand_like(rate, z) * value.double(), rate * forms.double().mean(0)

    z, total = x / spread[0], x.new_zeros(len(x))
    for u, later in pairwise(clock.at(sde, times)):
        step, slopes = later - u, [slope(u, z)]
        for share in (0.5, 0.5, 1.0):
            slopes.append(slope(u + share * step, z + share * step * slopes[-1][0]))
        moves, growths = zip(*slopes, strict=True)
        z = z + step / 6 * (moves[0] + 2 * moves[1] + 2 * moves[2] + moves[3])
        total = total + step / 6 * (growths[0] + 2 * growths[1] + 2 * growths[2] + growths[3])
    return spread[1] * z, total + size * math.log(spread[1] / spread[0])


def _solved(model: Model, x: Tensor, begin: float, condition: Condition) -> Tensor:
    """Log densities with adaptive steps, a row for each probe; one where there are none."""
    exact = {"start": begin, "rtol": _CHECK_TOLERANCE, "atol": _CHECK_TOLERANCE}
    if x[0].numel() <= _MOST_EXACT:
        return log_prob(model, x, condition=condition, **exact).log_prob[None]  # type: ignore[arg-type]
    rows = [
        log_prob(
            model,
            x,
            divergence="hutchinson",
            seed=example_seeds(probe, len(x)),
            condition=condition,
            **exact,  # type: ignore[arg-type]
        ).log_prob
        for probe in range(_CHECK_PROBES)
    ]
    return torch.stack(rows)


def _beyond_noise(off: Tensor) -> float:
    """Root mean square of the means of rows, beyond what the noise of the rows explains."""
    squares = off.mean(0).square()
    if len(off) > 1:
        squares = squares - standard_error(off).square()
    return math.sqrt(max(0.0, float(squares.mean())))


@dataclass(frozen=True)
class FewSteps(Likelihood):
    """The density of the flow by a fixed number of steps, refused where they are too few; see
    `log_prob_by_steps`.

    Args:
        steps: an even number, at least 2.
        method: `rk4`, or `flow-map` for a flow map with a log-determinant.
        tolerance: largest error in bits per dimension, > 0.
        checked: with `flow-map`, examples of each batch that are solved as well.
        divergence: `hutchinson`, random and unbiased, or `exact`.
        probes: random probes, at least 1.
        dequantization: a name in `DEQUANTIZATIONS` with its arguments, or an object.

    Raises:
        ValueError: for an argument outside its range.
    """

    steps: int = 32
    method: str = "rk4"
    tolerance: float = 0.02
    checked: int = 4
    divergence: str = "hutchinson"
    probes: int = 1
    dequantization: str | Dequantization = "uniform"

    def __post_init__(self) -> None:
        check_fields(self)
        _require_steps(self.steps, self.method, self.tolerance, self.checked)
        require_choice("divergence", self.divergence, ("exact", "hutchinson"))
        require_count(probes=self.probes)
        DEQUANTIZATIONS.resolve(self.dequantization, name="dequantization")

    def estimate(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Log-likelihoods and their standard errors, each of shape `(batch,)`.

        Raises:
            ValueError: where a gradient is asked for: `flow` has one.
            RuntimeError: where the error is above the tolerance.
        """
        if problem.grad:
            raise ValueError("grad=True: few steps have no gradient here, take by='flow'")
        model, dequantization = problem.model, DEQUANTIZATIONS.resolve(self.dequantization)
        points = dequantization(problem.raw, problem.scaling, model.sde, problem.seeds)
        found = log_prob_by_steps(
            model,
            points.x,
            self.steps,
            method=self.method,
            tolerance=self.tolerance,
            checked=self.checked,
            start=points.start,
            divergence=self.divergence,
            probes=self.probes,
            seed=problem.seeds,
            condition=problem.condition,
        )
        values = found.log_prob - points.log_q
        drawn = problem.scaling.levels is not None or self.divergence == "hutchinson"
        return values, torch.full_like(values, torch.nan if drawn else 0.0)
