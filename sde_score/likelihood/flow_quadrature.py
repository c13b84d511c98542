r"""The log-likelihood of the flow with the divergence apart from the state.

The state needs many cheap evaluations, the integral of the divergence few dear ones: a derivative
costs a network two to three times an evaluation, and along the flow the divergence is a smooth
function of one variable. So the state takes 2 n steps by the method of Adams-Bashforth-Moulton,
predicted, evaluated, corrected and evaluated again, and the divergence is integrated by the
Clenshaw-Curtis rule over every second node, at whose last evaluation it is taken.

The nodes are Chebyshev's, z = -cos(pi i / 2 n), spread more evenly by the map of Kosloff and
Tal-Ezer, z -> asin(a z) / asin(a), in the clock u = asinh(s / 0.003), which is nearly log s.

Two errors are estimated for each example, both of the log density per dimension:

- of the integral, by a tenth of its difference from the rule over every second of its own nodes,
  which is six to two hundred times worse with U-Nets;
- of the state, by the Moulton corrector of one order less: the difference d of each step changes
  the log density by score . d.

An example whose errors exceed atol + rtol |integral| is solved again with half as many nodes more.
This suits the flows of networks, and of data without narrow modes: where the divergence changes
within a small part of the way, steps that adapt (`dopri5`) need fewer evaluations.

Reference: Clenshaw & Curtis 1960, https://doi.org/10.1007/BF01386223; Kosloff & Tal-Ezer 1993,
https://doi.org/10.1006/jcph.1993.1044; Hairer, Norsett & Wanner 1993, Solving Ordinary Differential
Equations I, chapter III.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score._core.conditions import Condition
from sde_score.likelihood.flow_coordinates import FlowInClock, bar
from sde_score.models import Model
from sde_score.samplers.adaptive.dormand_prince import Derivative, Solution
from sde_score.samplers.adaptive.engine import gave_up
from sde_score.samplers.adaptive.ode_gradients import GRADIENT_SOLVERS

BEND = 0.003
_SPREAD = 0.97  # a
_ORDER = 6  # points of the predictor
_SHARE = 1 / 10  # of the difference of the rules
_ROUNDS = 7  # of half as many nodes more


@dataclass(frozen=True, eq=False)
class Nodes:
    """Nodes of n intervals of a rule, and those of the state between them, on [0, 1].

    Args:
        at: increasing, shape `(2 n + 1,)`.
        weights: of the rule over every second of `at`, shape `(n + 1,)`.
        coarse: of the rule over every fourth, shape `(n / 2 + 1,)`.
        predict: for each step, weights of the slopes at the last nodes, the newest last.
        correct: the same with the slope at the end of the step.
        compare: the same through one point less.
    """

    at: Tensor
    weights: Tensor
    coarse: Tensor
    predict: list[Tensor]
    correct: list[Tensor]
    compare: list[Tensor]


@lru_cache(maxsize=64)
def nodes(intervals: int) -> Nodes:
    """Those of an even number of intervals, float64."""
    fine = torch.arange(2 * intervals + 1, dtype=torch.float64) * (math.pi / (2 * intervals))
    z, width = -torch.cos(fine), math.asin(_SPREAD)
    at = 0.5 + 0.5 * torch.asin(_SPREAD * z) / width
    slope = 0.5 * _SPREAD / width * torch.rsqrt(1 - (_SPREAD * z) ** 2)
    weights = clenshaw_curtis(intervals) * slope[::2]
    coarse = clenshaw_curtis(intervals // 2) * slope[::4]
    predict, correct, compare = list[Tensor](), list[Tensor](), list[Tensor]()
    for i in range(2 * intervals):
        first = max(0, i + 1 - _ORDER)
        predict.append(_adams(at, i, first, i + 1))
        correct.append(_adams(at, i, first, i + 2))
        compare.append(_adams(at, i, min(first + 1, i), i + 2))
    return Nodes(at, weights, coarse, predict, correct, compare)


def clenshaw_curtis(intervals: int) -> Tensor:
    """Weights of the rule on [-1, 1] over Chebyshev's extreme points, shape `(intervals + 1,)`.

    They integrate the Chebyshev polynomials T_k up to k = `intervals`: 2 / (1 - k^2) where k is
    even, and 0 where it is odd.
    """
    k = torch.arange(intervals + 1, dtype=torch.float64)
    polynomials = torch.cos(k[:, None] * (math.pi - math.pi * k / intervals))
    even = k % 2 == 0
    integrals = torch.where(even, 2 / (1 - torch.where(even, k, 0.0) ** 2), 0.0)
    weights: Tensor = torch.linalg.solve(polynomials, integrals)
    return weights


def _adams(at: Tensor, i: int, first: int, last: int) -> Tensor:
    """Weights of the integral over the i-th interval of the polynomial through nodes `first` to
    `last`, the last one excluded."""
    width = at[i + 1] - at[i]
    points = (at[first:last] - at[i]) / width
    degrees = torch.arange(len(points), dtype=at.dtype)
    weights: Tensor = torch.linalg.solve(points ** degrees[:, None], 1 / (degrees + 1))
    return width * weights


def solve_apart(
    model: Model,
    x: Tensor,
    begin: float,
    probes: Tensor | None,
    condition: Condition,
    rtol: float,
    atol: float,
    method: str,
    mode: str,
    grad: bool,
    progress: bool,
) -> tuple[Tensor, Tensor, Solution]:
    """As `solve_flow`, with tolerances of the log density per dimension.

    Raises:
        ValueError: with `grad`.
        RuntimeError: if an example needs too many nodes.
    """
    if grad:
        require_choice("method with grad=True", method, tuple(GRADIENT_SOLVERS))
    count = 1 if probes is None else len(probes)
    flow = FlowInClock(model, x.shape[1:], probes, condition, mode, BEND)
    stops, (first, last) = flow.ends(begin, x.device)
    state = torch.cat([x.flatten(1) / first, x.new_zeros(len(x), count)], 1)
    with bar(stops, progress) as watched:
        solution = _solve(flow, watched(flow.derivative), state, stops, rtol, atol)
    return *flow.read(solution.path[-1], x, first, last), solution


def _solve(
    flow: FlowInClock,
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    rtol: float,
    atol: float,
) -> Solution:
    """Carry each example from the first stop to the last, in as many nodes as it needs."""
    end, rows = torch.empty_like(state), torch.arange(len(state), device=state.device)
    evaluations, steps = torch.zeros_like(rows), torch.zeros_like(rows)
    # The rule converges geometrically: with U-Nets ten intervals are a digit.
    intervals = 2 * max(8, round(13 - 5 * math.log10(max(rtol, atol) / 1e-4)))
    for _ in range(_ROUNDS):
        found, error = _march(flow, derivative, state[rows], stops, rows, nodes(intervals))
        if not bool(error.isfinite().all()):
            raise gave_up("a log density is not finite")
        end[rows] = found
        evaluations[rows] += 1 + 4 * intervals
        steps[rows] += 2 * intervals
        allowed = atol + rtol * found[:, math.prod(flow.event) :].abs().amax(1)
        rows = rows[~(error <= allowed)]
        if len(rows) == 0:
            return Solution(torch.stack([state, end]), evaluations, steps)
        intervals = 2 * round(0.75 * intervals)
    raise gave_up(f"{steps.max().item()} steps are not enough, where 'dopri5' may need fewer")


def _march(
    flow: FlowInClock,
    derivative: Derivative,
    state: Tensor,
    stops: Tensor,
    rows: Tensor,
    plan: Nodes,
) -> tuple[Tensor, Tensor]:
    """The states at the end, and the errors of the log densities per dimension."""
    size, length = math.prod(flow.event), stops[1] - stops[0]
    y, times = state[:, :size], (stops[0] + length * plan.at.to(stops)).unbind()
    change = derivative(times[0].expand(len(y)), state, rows)
    slopes, forms, off = [change[:, :size]], [change[:, size:]], y.new_zeros(len(y))
    for i, time in enumerate(times[1:]):
        here, past, start = time.expand(len(y)), slopes[-_ORDER:], y
        predicted = start + length * _sum(plan.predict[i], past)
        past = [*past, flow.slope(here, predicted, rows)]
        y = start + length * _sum(plan.correct[i], past)
        other = start + length * _sum(plan.compare[i], past[-len(plan.compare[i]) :])
        if i % 2:
            change = derivative(here, torch.cat([y, state[:, size:]], 1), rows)
            forms.append(change[:, size:])
            slopes.append(change[:, :size])
        else:
            slopes.append(flow.slope(here, y, rows))
        slopes = slopes[-_ORDER:]
        off = off + (flow.score(here, y, slopes[-1]) * (y - other)).sum(1)
    integral = length * _sum(plan.weights, forms)
    coarse = length * _sum(plan.coarse, forms[::2])
    error = _SHARE * (integral - coarse).abs().amax(1) + off.abs() / size
    return torch.cat([y, integral], 1), error


def _sum(weights: Tensor, values: list[Tensor]) -> Tensor:
    """The weighted sum of tensors of one shape."""
    total = weights[0].item() * values[0]
    for weight, value in zip(weights[1:].tolist(), values[1:], strict=True):
        total = total + weight * value
    return total
