r"""Log-likelihood under the probability-flow ODE, exact up to the solver's tolerance.

The flow dx/dt = velocity(x, t) carries a point x at `t_min` to a latent code z at `t_max`, and

.. math:: \log p(x) = \log p_{prior}(z)
                      + \int_{t_{min}}^{t_{max}} \mathrm{div}\ \mathrm{velocity}(x_t, t)\, dt .

It is the density of the law from which the same flow samples, at `t_min`: it differs from the
marginal of the forward SDE as far as the score does, and as the prior differs from p at `t_max`.

The clock of the solver is tau = log(sigma / alpha). A network's noise does not vanish at small
noise as the exact one does, so the velocity grows like 1 / sqrt(t) near t_min on a VP diffusion,
and a solver in t loses its accuracy there; in tau the flow is smooth from end to end. With a
network trained on 4 dimensions (errors in nats, model evaluations in brackets):

========= ========== ========== =============== ================
tolerance VP, t      VP, tau    rectified, t    rectified, tau
========= ========== ========== =============== ================
1e-4      4e-1 (104) 5e-3 (85)  5e-1 (260)      6e-2 (127)
1e-5      2e-2 (152) 7e-4 (115) 7e-1 (254)      9e-3 (175)
1e-6      1e-3 (200) 9e-5 (163) 5e-2 (338)      9e-4 (229)
========= ========== ========== =============== ================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._checks import require_batch, require_choice, require_positive
from sde_score.likelihood.divergence import draw_probes, value_and_divergence
from sde_score.likelihood.solvers import SOLVERS, Derivative
from sde_score.models import Model
from sde_score.sdes import SDE

DIVERGENCES = ("exact", "hutchinson")

_EXACT_LIMIT = 4096


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What `log_prob` returns.

    Args:
        log_prob: log density at `t_min` in model space, in nats, shape `(batch,)`, float64.
        standard_error: of `log_prob` over the probes, shape `(batch,)`: 0 for the exact
            divergence, NaN for a single probe, which tells nothing of its error.
        latent: x at `t_max`, shape `(batch, *event)`, float64.
        nfe: evaluations of the model, the same for every example of the batch.
        steps: steps that the solver accepted.
    """

    log_prob: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int
    steps: int


def log_prob(
    model: Model,
    x: Tensor,
    *,
    divergence: str = "exact",
    probes: int | Tensor = 1,
    probe_law: str = "rademacher",
    seed: int | Sequence[int] | None = 0,
    rtol: float = 1e-7,
    atol: float = 1e-7,
    method: str = "dopri5",
    condition: Tensor | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Log density of x under the probability flow of a model.

    The error of a step is measured example by example, so that none hides behind the others: the
    root mean square over the entries of x, or that of the log density per dimension if it is
    larger, and the worst example decides (`scipy` takes the root mean square over the batch).
    What a tolerance buys, with a float32 U-Net on 8 x 8 digits:

    ================= ============== ============== ============== ==============
    rtol = atol       1e-4           1e-5           1e-6           1e-7 (default)
    ================= ============== ============== ============== ==============
    VP: bits/dim, nfe 4e-3, 73       3e-4, 103      2e-5, 145      2e-6, 223
    VE: bits/dim, nfe 1e-3, 79       2e-4, 127      2e-5, 193      2e-6, 283
    ================= ============== ============== ============== ==============

    The default is within 1e-4 nats up to 64 dimensions; for images and random probes, whose own
    error is far larger, 1e-5 is enough.

    Args:
        model: anything with the model protocol, differentiable in x. Its mode is left alone: call
            `eval()` first if it holds dropout.
        x: points in model space at `t_min`, shape `(batch, *event)`.
        divergence: `exact`, as many backward passes per evaluation as dimensions, or `hutchinson`,
            one per probe and unbiased.
        probes: for `hutchinson`: how many, or the probes themselves, shape `(n, batch, *event)`.
            One set serves the whole solve.
        probe_law: `rademacher`, which has the smaller variance, or `gaussian`.
        seed: of the probes: a whole number for a family of examples, one number per example, or
            None; see `sde_score.random.example_seeds`. The probes of an example do not depend on
            its batch.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        method: `dopri5`, on the device of x, or `scipy`, RK45 as an independent reference.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        progress: show a bar over log(sigma / alpha).

    Returns:
        A `LogLikelihood`.

    Raises:
        TypeError: for a model without the protocol, or x that is not floating point.
        ValueError: for an unknown name, shapes that do not agree, x that is not finite, or an exact
            divergence in more than 4096 dimensions.
        RuntimeError: if the solver gives up, as it does when the model returns NaN.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 39 and appendix D.2.
    """
    _check(model, x, divergence, rtol, atol, method, condition)
    if divergence == "exact" and (isinstance(probes, Tensor) or probes != 1):
        raise ValueError("probes are for divergence='hutchinson'; divergence='exact' takes none")
    evaluations = model.nfe
    # Outside inference mode: the divergence needs a graph, whatever the caller's mode.
    with torch.inference_mode(False), torch.no_grad():
        start = x.detach().to(torch.float64, copy=True)
        vectors = None
        if divergence == "hutchinson":
            vectors = _probes(start, probes, probe_law, seed)
        latent, integral, steps = _flow(
            model, start, vectors, condition, rtol, atol, method, progress
        )
        samples = model.sde.prior(x.shape).log_prob(latent) + integral
        error = _standard_error(samples) if vectors is not None else torch.zeros_like(samples[0])
    return LogLikelihood(samples.mean(0), error, latent, model.nfe - evaluations, steps)


def _flow(
    model: Model,
    x: Tensor,
    probes: Tensor | None,
    condition: Tensor | None,
    rtol: float,
    atol: float,
    method: str,
    progress: bool,
) -> tuple[Tensor, Tensor, int]:
    """The latent code, the integral of the divergence, shape (n, batch), and accepted steps."""
    from tqdm.auto import tqdm

    size, rows = x[0].numel(), 1 if probes is None else len(probes)
    low, high = model.sde.log_snr_range
    start, end = -0.5 * high, -0.5 * low
    state = torch.cat([x.reshape(len(x), size), x.new_zeros(len(x), rows)], 1)
    shape = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with tqdm(
        total=end - start, disable=not progress, delay=2, desc="flow", bar_format=shape
    ) as bar:
        derivative = _derivative(model, x.shape, probes, condition)

        def shown(time: Tensor, state: Tensor) -> Tensor:
            if progress:
                bar.update(max(0.0, float(time) - start - bar.n))
            return derivative(time, state)

        state, steps = SOLVERS[method](
            shown, state, start, end, rtol, atol, lambda error: _worst_example(error, size)
        )
    return state[:, :size].reshape(x.shape), size * state[:, size:].mT, steps


def _derivative(
    model: Model, shape: torch.Size, probes: Tensor | None, condition: Tensor | None
) -> Derivative:
    """d/d tau of (x, integral of the divergence / D) for tau = log(sigma / alpha)."""
    size = math.prod(shape[1:])

    def derivative(tau: Tensor, state: Tensor) -> Tensor:
        t = model.sde.time_of_log_snr(-2 * tau)
        velocity, forms = value_and_divergence(
            lambda x: model.velocity(x, t, condition), state[:, :size].reshape(shape), probes
        )
        change = torch.cat([velocity.reshape(len(state), size), forms.mT / size], 1)
        return change / _tau_rate(model.sde, t)

    return derivative


def _tau_rate(sde: SDE, t: Tensor) -> Tensor:
    """d tau / dt for tau = log(sigma / alpha)."""
    return sde.sigma_derivative(t) / sde.sigma(t) - sde.drift_rate(t)


def _worst_example(error: Tensor, size: int) -> Tensor:
    """The largest error of an example: root mean square of x, or of the log density per
    dimension."""
    x, log_density = error[:, :size], error[:, size:]
    squares = torch.maximum(x.square().mean(1), log_density.square().mean(1))
    return squares.max().sqrt()


def _probes(x: Tensor, probes: int | Tensor, law: str, seed: int | Sequence[int] | None) -> Tensor:
    if not isinstance(probes, Tensor):
        return draw_probes(probes, x, law, seed)
    if probes.ndim != x.ndim + 1 or probes.shape[1:] != x.shape or len(probes) == 0:
        raise ValueError(
            f"probes has shape {tuple(probes.shape)}; accepted: a number, or a tensor "
            f"(n, {', '.join(map(str, x.shape))})"
        )
    return probes.to(x)


def _standard_error(samples: Tensor) -> Tensor:
    """Standard error of the mean over rows; NaN for a single row."""
    if len(samples) == 1:
        return torch.full_like(samples[0], torch.nan)
    return samples.std(0) / math.sqrt(len(samples))


def _check(
    model: Model,
    x: Tensor,
    divergence: str,
    rtol: float,
    atol: float,
    method: str,
    condition: Tensor | None,
) -> None:
    if not isinstance(model, Model):
        raise TypeError(
            f"model is a {type(model).__name__}; accepted: a ScoreModel, an exact model, or "
            "anything else with sde, nfe, score, denoise, noise and velocity"
        )
    require_batch("x", x)
    require_choice("divergence", divergence, DIVERGENCES)
    require_choice("method", method, tuple(SOLVERS))
    require_positive(rtol=rtol, atol=atol)
    if x.numel() == 0 or not bool(x.isfinite().all()):
        raise ValueError(f"x of shape {tuple(x.shape)} must be finite and not empty")
    if divergence == "exact" and x[0].numel() > _EXACT_LIMIT:
        raise ValueError(
            f"divergence='exact' needs {x[0].numel()} backward passes per evaluation, more than "
            f"{_EXACT_LIMIT}: use divergence='hutchinson'"
        )
    if condition is not None and (condition.ndim == 0 or len(condition) != len(x)):
        raise ValueError(
            f"condition has shape {tuple(condition.shape)} for {len(x)} examples: "
            "give one entry per example"
        )
