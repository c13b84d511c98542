r"""The probability flow in the coordinates in which a solver takes the longest steps.

State and clock are, with s = sigma / alpha and S^2 = alpha^2 + sigma^2,

.. math:: y = x / S, \qquad u = \mathrm{asinh}(s / 0.1) .

y has about unit variance at every time, so a tolerance means the same on every SDE. u is
proportional to s at small noise and to log s at large noise. A network is as smooth in s as it is
in x: below the finest structure it has learned, one step in s covers many e-folds of noise, which a
solver in log s would step through one by one, while a solver in t meets a root of t there. At large
noise y comes to rest exponentially in log s. With U-Nets of 8 x 8 and 28 x 28 this takes a tenth to
a third fewer evaluations to 5e-4 bits/dim than x over log s. In the new coordinates

.. math:: \frac{dy}{dt} = \frac{velocity}{S} - (\log S)' y, \qquad
          \log p(x) = \log p_{prior}(z) + D \log \frac{S(t_{max})}{S(start)}
          + \int \mathrm{div}\ velocity - D (\log S)'\, dt .
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sde_score._core.checks import require_choice
from sde_score._core.conditions import Condition
from sde_score._core.gradients import require_graph
from sde_score._core.progress import progress_bar
from sde_score.models import Model, value_and_divergence
from sde_score.samplers.adaptive.dormand_prince import Derivative, Norm, Solution, root_mean_square
from sde_score.samplers.adaptive.ode_gradients import GRADIENT_SOLVERS, leaves_of
from sde_score.samplers.adaptive.ode_solvers import SOLVERS, asked_of
from sde_score.sdes import SDE, clocks

_BEND = 0.1  # the noise-to-signal ratio, in data of about unit scale, where the clock turns
_CLOCK = clocks.asinh(_BEND)


def solve_flow(
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
    """Solve from a time to `t_max`; arguments as for `log_prob`, x and probes in float64.

    Returns:
        The latent code, like x, the integral of the divergence, shape `(n, batch)`, and the
        solution in the coordinates of this file.
    """
    sde, size, count = model.sde, x[0].numel(), 1 if probes is None else len(probes)
    ends = torch.tensor([begin, sde.t_max], dtype=torch.float64, device=x.device)
    stops, (first, last) = _CLOCK.at(sde, ends), _scale(sde, ends)
    state = torch.cat([x.reshape(len(x), size) / first, x.new_zeros(len(x), count)], 1)
    derivative = _derivative(model, x.shape[1:], probes, condition, mode)
    norm = _norm(size)
    with _bar(stops, progress) as watched:
        if grad:
            require_choice("method with grad=True", method, tuple(GRADIENT_SOLVERS))
            leaves = _leaves(model, derivative, state, stops[0])
            require_graph(grad, state, *leaves)
            solution = GRADIENT_SOLVERS[method](
                watched(derivative), state, stops, leaves, rtol=rtol, atol=atol, norm=norm
            )
        else:
            solve = SOLVERS[method]
            solution = solve(watched(derivative), state, stops, rtol=rtol, atol=atol, norm=norm)
    end, stretch = solution.path[-1], (last / first).log()
    latent = (last * end[:, :size]).reshape(x.shape)
    return latent, size * (end[:, size:].mT + stretch), solution


def _derivative(
    model: Model, event: torch.Size, probes: Tensor | None, condition: Condition, mode: str
) -> Derivative:
    """d/du of (y, integral of the divergence per dimension, less the part known from S)."""
    sde, size = model.sde, math.prod(event)

    def derivative(clock: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        t = _CLOCK.time(sde, clock)
        scale, own = _scale(sde, t)[:, None], asked_of(condition, rows)
        velocity, forms = value_and_divergence(
            lambda x: model.velocity(x, t, own),
            (scale * state[:, :size]).reshape(-1, *event),
            probes if probes is None else probes[:, rows],
            mode,
        )
        growth = _growth(sde, t)[:, None]
        slope = velocity.reshape(-1, size) / scale - growth * state[:, :size]
        change = torch.cat([slope, forms.mT / size - growth], 1)
        return change / _clock_rate(sde, t)[:, None]

    return derivative


def _leaves(
    model: Model, derivative: Derivative, state: Tensor, time: Tensor
) -> tuple[Tensor, ...]:
    """All that the derivative depends on besides time and state, by one evaluation."""
    point = state.detach().requires_grad_()
    rows = torch.arange(len(state), device=state.device)
    value = derivative(time.repeat(len(state)), point, rows)
    return tuple(leaf for leaf in leaves_of(value, model) if leaf is not point)


def _scale(sde: SDE, t: Tensor) -> Tensor:
    """S."""
    return torch.hypot(sde.alpha(t), sde.sigma(t))


def _growth(sde: SDE, t: Tensor) -> Tensor:
    """(log S)'."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    slope = alpha * sde.alpha_derivative(t) + sigma * sde.sigma_derivative(t)
    return slope / (alpha**2 + sigma**2)


def _clock_rate(sde: SDE, t: Tensor) -> Tensor:
    """du / dt."""
    ratio = sde.sigma(t) / sde.alpha(t)
    log_rate = sde.sigma_derivative(t) / sde.sigma(t) - sde.drift_rate(t)
    return ratio * log_rate / torch.hypot(ratio, torch.full_like(ratio, _BEND))


@contextmanager
def _bar(stops: Tensor, shown: bool) -> Iterator[Callable[[Derivative], Derivative]]:
    """A bar over the clock, up to the example that is furthest behind."""
    begin, end = stops.tolist()
    with progress_bar(total=end - begin, name="flow", shown=shown, rate=False) as bar:

        def watched(derivative: Derivative) -> Derivative:
            def moving(time: Tensor, state: Tensor, rows: Tensor) -> Tensor:
                if not torch.is_grad_enabled():  # on the way there, not back
                    bar.update(max(0.0, float(time.min()) - begin - bar.n))
                return derivative(time, state, rows)

            return moving if shown else derivative

        yield watched


def _norm(size: int) -> Norm:
    """Of each example: root mean square of y, or of the log density per dimension if larger."""

    def norm(error: Tensor) -> Tensor:
        return torch.maximum(root_mean_square(error[:, :size]), root_mean_square(error[:, size:]))

    return norm
