"""The probability flow as an equation for a solver: points and log densities over log(sigma /
alpha)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sde_score.likelihood.divergence import value_and_divergence
from sde_score.models import Model
from sde_score.samplers.dormand_prince import Derivative, Norm, Solution, root_mean_square
from sde_score.samplers.solvers import SOLVERS, rows_of
from sde_score.sdes import SDE


def carry(
    model: Model,
    x: Tensor,
    begin: float,
    probes: Tensor | None,
    condition: Tensor | None,
    rtol: float,
    atol: float,
    method: str,
    mode: str,
    progress: bool,
) -> tuple[Tensor, Tensor, Solution]:
    """Solve from one time to `t_max`: the latent code, shaped like x, the integral of the
    divergence, shape `(n, batch)`, and what the solver says of its work."""
    size, count = x[0].numel(), 1 if probes is None else len(probes)
    ends = torch.tensor([begin, model.sde.t_max], dtype=torch.float64, device=x.device)
    stops = -0.5 * model.sde.log_snr(ends)
    state = torch.cat([x.reshape(len(x), size), x.new_zeros(len(x), count)], 1)
    derivative = _derivative(model, x.shape[1:], probes, condition, mode)
    with _bar(stops, progress) as watched:
        solution = SOLVERS[method](
            watched(derivative), state, stops, rtol=rtol, atol=atol, norm=_norm(size)
        )
    end = solution.path[-1]
    return end[:, :size].reshape(x.shape), size * end[:, size:].mT, solution


def _derivative(
    model: Model, event: torch.Size, probes: Tensor | None, condition: Tensor | None, mode: str
) -> Derivative:
    """d/d tau of (x, integral of the divergence / D) for tau = log(sigma / alpha)."""
    size = math.prod(event)

    def derivative(tau: Tensor, state: Tensor, rows: Tensor) -> Tensor:
        t = model.sde.time_of_log_snr(-2 * tau)
        own = rows_of(condition, rows)
        velocity, forms = value_and_divergence(
            lambda x: model.velocity(x, t, own),
            state[:, :size].reshape(-1, *event),
            probes if probes is None else probes[:, rows],
            mode,
        )
        change = torch.cat([velocity.reshape(-1, size), forms.mT / size], 1)
        return change / _tau_rate(model.sde, t)[:, None]

    return derivative


@contextmanager
def _bar(stops: Tensor, shown: bool) -> Iterator[Callable[[Derivative], Derivative]]:
    """A bar over the clock, up to the example that is furthest behind."""
    from tqdm.auto import tqdm

    begin, end = stops.tolist()
    shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with tqdm(total=end - begin, disable=not shown, delay=2, desc="flow", bar_format=shape) as bar:

        def watched(derivative: Derivative) -> Derivative:
            def moving(time: Tensor, state: Tensor, rows: Tensor) -> Tensor:
                bar.update(max(0.0, float(time.min()) - begin - bar.n))
                return derivative(time, state, rows)

            return moving if shown else derivative

        yield watched


def _tau_rate(sde: SDE, t: Tensor) -> Tensor:
    """d tau / dt for tau = log(sigma / alpha)."""
    return sde.sigma_derivative(t) / sde.sigma(t) - sde.drift_rate(t)


def _norm(size: int) -> Norm:
    """Of each example: root mean square of x, or of the log density per dimension if larger."""

    def norm(error: Tensor) -> Tensor:
        return torch.maximum(root_mean_square(error[:, :size]), root_mean_square(error[:, size:]))

    return norm
