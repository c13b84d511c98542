r"""Log-likelihood under the probability-flow ODE, exact up to the solver's tolerance.

The flow dx/dt = velocity(x, t) carries a point x at `t_min` to a latent code z at `t_max`, and

.. math:: \log p(x) = \log p_{prior}(z)
                      + \int_{t_{min}}^{t_{max}} \mathrm{div}\ \mathrm{velocity}(x_t, t)\, dt .

It is the density of the law from which the same flow samples, at `t_min`: it differs from the
marginal of the forward SDE as far as the score does, and as the prior differs from p at `t_max`.

The solver works in the coordinates of `sde_score.likelihood.flow_coordinates`, a scaled point over
a clock that is proportional to sigma / alpha at small noise and to its logarithm at large noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_choice, require_positive
from sde_score.likelihood._validation import require_inputs, start_time
from sde_score.likelihood.base import standard_error
from sde_score.likelihood.divergence import MODES, draw_probes, require_forward_mode
from sde_score.likelihood.flow_coordinates import carry
from sde_score.models import BaseEnergy, Model
from sde_score.samplers.adaptive.ode_solvers import SOLVERS

DIVERGENCES = ("exact", "hutchinson")

_EXACT_LIMIT = 4096


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """What `log_prob` returns.

    Args:
        log_prob: log density at the start in model space, in nats, shape `(batch,)`, float64.
        standard_error: of `log_prob` over the probes, shape `(batch,)`: 0 for the exact
            divergence, NaN for a single probe, which tells nothing of its error.
        latent: x at `t_max`, shape `(batch, *event)`, float64.
        nfe: calls of the model, each for the examples that are still on their way.
        evaluations: of the model, for each example, int64 of shape `(batch,)`.
        steps: that the solver accepted, for each example, int64 of shape `(batch,)`.
    """

    log_prob: Tensor
    standard_error: Tensor
    latent: Tensor
    nfe: int
    evaluations: Tensor
    steps: Tensor


def log_prob(
    model: Model,
    x: Tensor,
    *,
    start: float | None = None,
    divergence: str = "exact",
    probes: int | Tensor = 1,
    probe_distribution: str = "rademacher",
    seed: int | Sequence[int] | None = 0,
    rtol: float = 1e-7,
    atol: float = 1e-7,
    method: str = "dopri5",
    mode: str = "reverse",
    condition: Tensor | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""Log density of x under the probability flow of a model.

    Every example has its own steps, so its value depends on no other. The error of a step is the
    root mean square over the entries of x, or that of the log density per dimension if it is larger
    (with `scipy` the root mean square over all numbers of the batch). What both tolerances buy with
    float32 U-Nets, errors in bits/dim (root mean square) and mean evaluations of an example:

    ============ ========= ========= ========= ========= ========= ==========
    rtol = atol  1e-3      3e-4      1e-4      3e-5      1e-5      1e-6
    ============ ========= ========= ========= ========= ========= ==========
    8 x 8, VP    2e-3, 50  4e-4, 58  3e-4, 67  2e-4, 78  1e-4, 95  3e-5, 162
    8 x 8, VE    1e-3, 48  5e-4, 51  2e-4, 61  8e-5, 69  5e-5, 80  6e-6, 126
    28 x 28, VP  2e-3, 61  8e-4, 67  4e-4, 90  4e-4, 115 7e-5, 135 7e-6, 216
    28 x 28, VE  2e-3, 58  8e-4, 69  4e-4, 75  2e-4, 87  9e-5, 111 8e-6, 171
    ============ ========= ========= ========= ========= ========= ==========

    So for images 1e-4, the default of `Flow`, keeps every image within 1e-3 bits/dim, as 3e-4 just
    fails to. The default here is within 1e-4 nats up to 64 dimensions.

    Args:
        model: anything with the model protocol, differentiable in x. Its mode is left alone: call
            `eval()` first if it holds dropout.
        x: points in model space, shape `(batch, *event)`.
        start: time at which x lives, in [t_min, t_max); None is `t_min`.
        divergence: `exact`, as many derivatives per evaluation as dimensions, or `hutchinson`, one
            per probe and unbiased.
        probes: for `hutchinson`: how many, or the probes themselves, shape `(n, batch, *event)`.
            One set serves the whole solve.
        probe_distribution: `rademacher`, which has the smaller variance, or `gaussian`.
        seed: of the probes: a whole number for a family of examples, one number per example, or
            None; see `sde_score.random.example_seeds`. The probes of an example do not depend on
            its batch.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        method: `dopri5`, on the device of x, or `scipy`, RK45 as an independent reference.
        mode: how derivatives are taken, `reverse` or `forward`, see `value_and_divergence`; reverse
            is the faster. Forward is for models whose score is no gradient by autograd; one example
            is evaluated twice to see that both agree.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        progress: show a bar over the clock.

    Returns:
        A `LogLikelihood`.

    Raises:
        TypeError: for a model without the protocol, or x that is not floating point.
        ValueError: for an unknown name, shapes that do not agree, x that is not finite, a time out
            of range, an exact divergence in more than 4096 dimensions, or forward mode through an
            energy.
        RuntimeError: if the solver gives up, as it does when the model returns NaN.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 39 and appendix D.2.
    """
    _check(model, x, divergence, rtol, atol, method, mode, condition)
    begin = start_time(model.sde, start)
    if divergence == "exact" and (isinstance(probes, Tensor) or probes != 1):
        raise ValueError("probes are for divergence='hutchinson'; divergence='exact' takes none")
    evaluations = model.nfe
    # Outside inference mode: the divergence needs a graph, whatever the caller's mode.
    with torch.inference_mode(False), torch.no_grad():
        point = x.detach().to(torch.float64, copy=True)
        if mode == "forward":
            _require_forward_mode(model, point[:1], begin, condition)
        vectors = None
        if divergence == "hutchinson":
            vectors = _probes(point, probes, probe_distribution, seed)
        latent, integral, solution = carry(
            model, point, begin, vectors, condition, rtol, atol, method, mode, progress
        )
        samples = model.sde.prior(x.shape).log_prob(latent) + integral
        error = standard_error(samples) if vectors is not None else torch.zeros_like(samples[0])
    return LogLikelihood(
        samples.mean(0),
        error,
        latent,
        model.nfe - evaluations,
        solution.evaluations,
        solution.steps,
    )


def _probes(x: Tensor, probes: int | Tensor, law: str, seed: int | Sequence[int] | None) -> Tensor:
    if not isinstance(probes, Tensor):
        return draw_probes(probes, x, law, seed)
    if probes.ndim != x.ndim + 1 or probes.shape[1:] != x.shape or len(probes) == 0:
        raise ValueError(
            f"probes has shape {tuple(probes.shape)}; accepted: a number, or a tensor "
            f"(n, {', '.join(map(str, x.shape))})"
        )
    return probes.to(x)


def _require_forward_mode(model: Model, x: Tensor, begin: float, condition: Tensor | None) -> None:
    """Refuse a model that forward mode would be silently wrong on."""
    if isinstance(model, BaseEnergy):
        raise ValueError(
            f"mode='forward' does not reach through {type(model).__name__}, whose score is a "
            "gradient by autograd; use mode='reverse'"
        )
    own = None if condition is None else condition[:1]
    require_forward_mode(lambda y: model.velocity(y, begin, own), x)


def _check(
    model: Model,
    x: Tensor,
    divergence: str,
    rtol: float,
    atol: float,
    method: str,
    mode: str,
    condition: Tensor | None,
) -> None:
    require_inputs("x", model, x, condition)
    require_choice("divergence", divergence, DIVERGENCES)
    require_choice("method", method, tuple(SOLVERS))
    require_choice("mode", mode, tuple(MODES))
    require_positive(rtol=rtol, atol=atol)
    if divergence == "exact" and x[0].numel() > _EXACT_LIMIT:
        raise ValueError(
            f"divergence='exact' needs {x[0].numel()} derivatives per evaluation, more than "
            f"{_EXACT_LIMIT}: use divergence='hutchinson'"
        )
