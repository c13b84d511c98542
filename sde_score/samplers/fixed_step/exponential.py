r"""Exponential integrators: the linear part of a step exactly, the model's part by a polynomial.

With y = x / alpha and s = sigma / alpha, all samplers between the probability-flow ODE and the
reverse SDE, of stochasticity tau (`noise.stochasticity`), solve

.. math:: dy = (1 + \tau^2)\, \hat\epsilon\, ds + \sqrt{2 s |ds|}\, \tau\, z .

A step extrapolates a combination q = p x0_hat + r eps_hat of the model's two predictions, called
`prediction`. With y = x0_hat + s eps_hat the equation becomes linear in y with q as its source,

.. math:: \frac{dy}{ds} = (1 + \tau^2) \frac{q - p\, y}{r - p\, s} + noise ,

and with an integrating factor I of its linear part the step from s_0 to s_1 is

.. math:: y_1 = \frac{I_0}{I_1} y_0 + \frac{1}{I_1} \int_{s_0}^{s_1} \frac{1 + \tau^2}{r - p s}\,
          I\, q\, ds + \Big( \frac{1}{I_1^2} \int_{s_1}^{s_0} 2 \tau^2 s\, I^2 ds \Big)^{1/2} z .

q is replaced by the polynomial, in some clock, through the points where it is known. The integrals
are taken by Gauss-Legendre quadrature in float64: to rounding, however short the step.

| prediction | q | I without noise | natural clock |
|---|---|---|---|
| `noise` | eps_hat | 1 | s |
| `data` | x0_hat | 1 / s | 1 / s |
| `velocity` | eps_hat - x0_hat | 1 / (1 + s) | s / (1 + s) |
| `angular` | cos(a) eps_hat - sin(a) x0_hat, a = atan s | 1 / sqrt(1 + s^2) | a |
| `derivative` | sigma' eps_hat + alpha' x0_hat = dx/dt | alpha | t |

Reference: Zhang & Chen 2022 (DEIS), https://arxiv.org/abs/2204.13902; Lu et al. 2022
(DPM-Solver++), https://arxiv.org/abs/2211.01095; the predictions in one frame are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.quadrature import legendre
from sde_score.samplers.noise.stochasticity import EtaSchedule, eta_schedule
from sde_score.sdes import SDE
from sde_score.sdes.clocks import Clock

_NODES = 64  # of each integral over a step

Function = Callable[[Tensor], Tensor]
"""Of the noise ratio s, entry by entry."""


@dataclass(frozen=True)
class Prediction:
    """A combination q = p x0_hat + r eps_hat that a sampler extrapolates.

    Args:
        on_data: p as a function of the noise ratio s.
        on_noise: r.
        source: 1 / (r - p s).
        log_factor: log I without noise; with tau constant within the step, the factor is
            I^(1 + tau^2).
        model: the prediction of the model that it is computed from, `"noise"` or `"data"`.
    """

    on_data: Function
    on_noise: Function
    source: Function
    log_factor: Function
    model: str = "data"


def _root(s: Tensor) -> Tensor:
    return torch.rsqrt(1 + s**2)


PREDICTIONS: Mapping[str, Prediction] = {
    "noise": Prediction(
        on_data=torch.zeros_like,
        on_noise=torch.ones_like,
        source=torch.ones_like,
        log_factor=torch.zeros_like,
        model="noise",
    ),
    "data": Prediction(
        on_data=torch.ones_like,
        on_noise=torch.zeros_like,
        source=lambda s: -1 / s,
        log_factor=lambda s: -torch.log(s),
    ),
    "velocity": Prediction(
        on_data=lambda s: -torch.ones_like(s),
        on_noise=torch.ones_like,
        source=lambda s: 1 / (1 + s),
        log_factor=lambda s: -torch.log1p(s),
    ),
    "angular": Prediction(
        on_data=lambda s: -s * _root(s),
        on_noise=_root,
        source=_root,
        log_factor=lambda s: -0.5 * torch.log1p(s**2),
    ),
}
"""The predictions that are functions of the noise ratio alone, by name."""


def _derivative(sde: SDE) -> Prediction:
    """dx/dt of the probability-flow ODE, in the time of an SDE: steps in it are plain ones on x."""

    def at(function: Callable[[Tensor], Tensor]) -> Function:
        return lambda s: function(sde.time_of_noise_ratio(s).flatten()).reshape(s.shape)

    on_data, on_noise, alpha = map(at, (sde.alpha_derivative, sde.sigma_derivative, sde.alpha))
    return Prediction(
        on_data=on_data,
        on_noise=on_noise,
        source=lambda s: 1 / (on_noise(s) - on_data(s) * s),
        log_factor=lambda s: torch.log(alpha(s)),
    )


PREDICTION_NAMES = (*PREDICTIONS, "derivative")
"""All predictions: those of `PREDICTIONS`, and dx/dt in the SDE's own time."""


def prediction_on(name: str, sde: SDE) -> Prediction:
    """The prediction of a name in `PREDICTION_NAMES` on an SDE."""
    return PREDICTIONS[name] if name in PREDICTIONS else _derivative(sde)


def require_eta_schedule(prediction: str, eta: float | str | EtaSchedule) -> EtaSchedule:
    """The schedule of tau, if steps that extrapolate the prediction can be solved with it.

    Raises:
        ValueError: for an unknown schedule, or one that varies within a step where the prediction
            needs it constant.
    """
    schedule = eta_schedule(eta)
    if not schedule.constant and prediction not in ("data", "noise"):
        raise ValueError(
            f"eta={eta!r} varies within a step, which prediction={prediction!r} does not allow; "
            "accepted: 'data', 'noise'"
        )
    return schedule


@dataclass(frozen=True)
class Steps:
    """Steps y_1 = carry y_0 + sum over points of weight q + std z, all float64.

    Args:
        carry: shape `(steps,)`.
        weights: shape `(steps, points)`.
        std: shape `(steps,)`.
    """

    carry: Tensor
    weights: Tensor
    std: Tensor


def exponential_steps(
    prediction: Prediction,
    schedule: EtaSchedule,
    clock: Clock,
    start: Tensor,
    stop: Tensor,
    points: Tensor,
    counts: Tensor,
    rule: str = "exact",
) -> Steps:
    """The steps from noise ratios `start` down to `stop`.

    Args:
        prediction: q, the combination that is extrapolated.
        schedule: tau. No noise is added on a step to zero noise.
        clock: q is a polynomial in it.
        start: shape `(steps,)`, > 0.
        stop: shape `(steps,)`, below start; 0 only for the last, and not where q is the data.
        points: noise ratios of the points that the polynomial goes through, shape
            `(steps, points)`.
        counts: how many of them it goes through in each step, the first ones; shape `(steps,)`.
        rule: how the moments of the polynomial are taken, from `MOMENT_RULES`.

    Raises:
        ValueError: if a step has coefficients that are not finite.
    """
    s, measure, length = _lattice(start, stop)
    begin, end = start[:, None], stop[:, None]

    def rate_at(s: Tensor) -> Tensor:
        return torch.where(end > 0, schedule.rate(s, begin), 0.0)

    def log_factor(s: Tensor) -> Tensor:
        if prediction is PREDICTIONS["data"]:
            return -schedule.log_phi(s, begin)
        return (1 + rate_at(s)) * prediction.log_factor(s)

    arrived, rate = log_factor(end), rate_at(s)
    carry = torch.exp(log_factor(begin) - arrived)
    factor = log_factor(s) - arrived
    density = (1 + rate) * prediction.source(s) * torch.exp(factor)
    origin, width = clock.forward(begin), clock.forward(end) - clock.forward(begin)
    within, of_points = ((clock.forward(v) - origin) / width for v in (s, points))
    degrees = torch.arange(points.shape[1], dtype=s.dtype)
    powers = within[..., None] ** degrees
    moments = ((density * measure)[..., None] * powers).sum(1)
    last = (1 + rate_at(end)) * prediction.source(end) * end * length
    used = degrees < counts[:, None]
    moments = torch.where(used, MOMENT_RULES[rule](moments, last, counts[:, None]), 0.0)
    system = (of_points[..., None] ** degrees).mT
    both = used[:, None] & used[..., None]
    padded = torch.where(both, system, torch.eye(len(degrees), dtype=s.dtype))
    weights = torch.linalg.solve(padded, moments[..., None]).squeeze(-1)
    variance = (-2 * rate * s * torch.exp(2 * factor) * measure).sum(1)
    noisy = variance > 0  # the root has no slope at 0
    std = torch.where(noisy, torch.where(noisy, variance, 1.0).sqrt(), 0.0)
    steps = Steps(carry[:, 0], weights, std)
    _require_finite(steps, start, stop)
    return steps


def _require_finite(steps: Steps, start: Tensor, stop: Tensor) -> None:
    """Refuse steps that are no numbers, as from points that coincide or a clock that stands.

    Raises:
        ValueError: naming the first such step.
    """
    finite = steps.carry.isfinite() & steps.weights.isfinite().all(1) & steps.std.isfinite()
    if not bool(finite.all()):
        k = int((~finite).nonzero()[0])
        raise ValueError(
            f"step {k + 1} of {len(finite)}, from a noise ratio of {start[k].item():g} to "
            f"{stop[k].item():g}, has coefficients that are not finite: are the times of the SDE "
            "and its noise ratios inverse to each other, and strictly monotonic?"
        )


def _lattice(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quadrature points and weights of integrals over s, shape `(steps, nodes)`, even in log s but
    for a step to zero, which is even in s; and the length in log s, `(steps, 1)`."""
    place, share = legendre(_NODES)
    begin, end = start[:, None], stop[:, None]
    length = torch.log(torch.where(end > 0, end, begin) / begin)
    s = begin * torch.exp(place * length)
    ending = end == 0
    return (
        torch.where(ending, begin * (1 - place), s),
        torch.where(ending, -begin, s * length) * share,
        length,
    )


Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the moments of steps, `(steps, points)`, the integrand at the end of each in log-SNR and the
number of points, both `(steps, 1)`, to the moments that a published method uses."""


def _replace(moments: Tensor, degree: int, where: Tensor, value: Tensor) -> Tensor:
    chosen = where & (torch.arange(moments.shape[1]) == degree)
    return torch.where(chosen, value, moments)


def _exact(moments: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    return moments


def _midpoint(moments: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    return _replace(moments, 1, counts == 2, 0.5 * moments[:, :1])


def _arrival(moments: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    return _replace(moments, 1, counts == 2, 0.5 * last)


def _halved(moments: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    return _replace(moments, 2, counts == 3, 0.5 * moments)


def _midpoint_halved(moments: Tensor, last: Tensor, counts: Tensor) -> Tensor:
    return _halved(_midpoint(moments, last, counts), last, counts)


MOMENT_RULES: Mapping[str, Rule] = {
    "exact": _exact,
    "midpoint": _midpoint,
    "arrival": _arrival,
    "halved": _halved,
    "midpoint-halved": _midpoint_halved,
}
r"""How the moments M_j, the integrals of the j-th power of the share of the step, are taken.

- `exact`: as they are;
- `midpoint`: with two points M_1 = M_0 / 2 (DPM-Solver++'s default, UniPC's B_2);
- `arrival`: with two points M_1 is half the integrand at the end of the step (UniPC's B_1);
- `halved`: with three points M_2 is half of what it is: the second difference of the published
  third-order DPM-Solver++, which makes it a second-order method;
- `midpoint-halved`: both.
"""
