r"""Log-likelihood under the probability-flow ODE, exact up to the solver's tolerance.

The flow dx/dt = velocity(x, t) carries a point x at `t_min` to a latent code z at `t_max`, and

.. math:: \log p(x) = \log p_{prior}(z)
                      + \int_{t_{min}}^{t_{max}} \mathrm{div}\ \mathrm{velocity}(x_t, t)\, dt .

It is the density of the distribution from which the same flow samples, at `t_min`. From the
marginal of the forward SDE it differs as far as the score does, and as the prior from p at `t_max`.

Errors in bits/dim (root mean square) and mean evaluations of an example, by the tolerance of
`log_prob`, with float32 U-Nets:

============ ========= ========= ========= ========= ========= ==========
rtol = atol  1e-3      3e-4      1e-4      3e-5      1e-5      1e-6
============ ========= ========= ========= ========= ========= ==========
8 x 8, VP    2e-3, 50  4e-4, 58  3e-4, 67  2e-4, 78  1e-4, 95  3e-5, 162
8 x 8, VE    1e-3, 48  5e-4, 51  2e-4, 61  8e-5, 69  5e-5, 80  6e-6, 126
28 x 28, VP  2e-3, 61  8e-4, 67  4e-4, 90  4e-4, 115 7e-5, 135 7e-6, 216
28 x 28, VE  2e-3, 58  8e-4, 69  4e-4, 75  2e-4, 87  9e-5, 111 8e-6, 171
============ ========= ========= ========= ========= ========= ==========

The method `quadrature` (`flow_quadrature`) takes the divergence apart from the state, and its
tolerances are those of the log density per dimension. With the 28 x 28 U-Net on VP it takes half of
the time of `dopri5` at equal error, see `benchmarks/likelihood.py`.

For images 1e-4, the default of `Flow`, keeps every image within 1e-3 bits/dim; 3e-4 just fails to.
The default of `log_prob`, 1e-7, is within 1e-4 nats up to 64 dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.conditions import Condition, rows_of
from sde_score._core.gradients import require_gradients
from sde_score.likelihood.base import (
    Likelihood,
    Problem,
    independent_draws,
    standard_error,
    start_time,
)
from sde_score.likelihood.dequantization import DEQUANTIZATIONS, Dequantization, log_mean_exp
from sde_score.likelihood.flow_coordinates import solve_flow
from sde_score.likelihood.flow_quadrature import solve_apart
from sde_score.likelihood.gaussian_control import gaussian_excess
from sde_score.models import (
    DERIVATIVE_MODES,
    BaseEnergy,
    Model,
    checked_inputs,
    require_forward_mode,
)
from sde_score.random import PROBE_DISTRIBUTIONS, ExampleStreams, example_seeds, require_probes
from sde_score.samplers.adaptive.ode_solvers import SOLVERS

DIVERGENCES = ("exact", "hutchinson")
METHODS = (*SOLVERS, "quadrature")

_EXACT_LIMIT = 4096


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log densities of a batch under the flow, with the latent codes and the solver's work.

    Args:
        log_prob: log density at the start in model space, in nats, shape `(batch,)`, float64.
        standard_error: of `log_prob` over the probes, shape `(batch,)`: 0 for the exact
            divergence, NaN for a single probe.
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
    condition: Condition = None,
    grad: bool = False,
    progress: bool = False,
    covariance: Tensor | None = None,
) -> LogLikelihood:
    r"""Log density of x under the probability flow of a model.

    An example's value depends on no other. The error of a step is the larger of the root mean
    square over x (with `scipy` over the batch) and that of the log density per dimension; the
    module has a table of the errors that tolerances leave.

    Args:
        model: a model that is differentiable in x; call its `eval()` first if it holds dropout.
        x: points in model space, shape `(batch, *event)`.
        start: time of x, in [t_min, t_max); None is `t_min`.
        divergence: `exact`, a derivative per dimension, or `hutchinson`, unbiased, one per probe.
        probes: their number, or the probes of the whole solve, shape `(n, batch, *event)`.
        probe_distribution: `rademacher`, which has the smaller variance, or `gaussian`.
        seed: of the probes, see `random.example_seeds`; those of an example depend on no other.
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        method: `dopri5`, with steps of each example's own; `quadrature`, faster for networks;
            `torchdiffeq`, with steps that the batch shares; or `scipy`, an independent reference.
        mode: of derivatives, `reverse`, or the slower `forward`, see `models.value_and_forms`.
        condition: passed to the model unchanged, shape `(batch, ...)`.
        grad: let results carry gradients to all that they depend on but probes and step sizes:
            `dopri5` by steps evaluated again on the way back, `torchdiffeq` by the adjoint.
        progress: show a bar over the clock.
        covariance: of the data, `(D, D)`: a control variate of `hutchinson`, `gaussian_control`.

    Raises:
        TypeError: for a model without the protocol, or x that is not floating point.
        ValueError: for an unknown name, shapes that do not agree, x that is not finite, a time out
            of range, an exact divergence in more than 4096 dimensions, forward mode through an
            energy, input that requires a gradient without `grad`, `grad` in vain or with `scipy`.
        RuntimeError: if the solver gives up, as it does when the model returns NaN.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, eq. 39 and appendix D.2.
    """
    x, condition = checked_inputs("x", model, x, condition)
    _require_settings(divergence, probe_distribution, rtol, atol, method, mode)
    _require_probes(x, divergence, probes, covariance)
    require_gradients(grad, x=x, condition=condition)
    begin, evaluations = start_time(model.sde, start), model.nfe
    # Outside inference mode: the divergence needs a graph, whatever the caller's mode.
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        point = (x if grad else x.detach()).to(torch.float64, copy=True)
        _require_mode(mode, model, point[:1].detach(), begin, condition)
        vectors = _vectors(point, divergence, probes, probe_distribution, seed)
        latent, integral, solution = (solve_apart if method == "quadrature" else solve_flow)(
            model, point, begin, vectors, condition, rtol, atol, method, mode, grad, progress
        )
        samples = model.sde.prior(x.shape).log_prob(latent) + integral
        samples = samples - gaussian_excess(vectors, covariance, model.sde, begin)
    error = torch.zeros_like(samples[0]) if vectors is None else standard_error(samples)
    counts = (model.nfe - evaluations, solution.evaluations, solution.steps)
    return LogLikelihood(samples.mean(0), error.detach(), latent, *counts)


def _vectors(
    like: Tensor,
    divergence: str,
    probes: int | Tensor,
    distribution: str,
    seed: int | Sequence[int] | None,
) -> Tensor | None:
    """The probes of a solve, given or drawn; None for the exact divergence."""
    if divergence == "exact":
        return None
    return (
        probes.to(like)
        if isinstance(probes, Tensor)
        else draw_probes(probes, like, distribution, seed)
    )


def draw_probes(
    count: int,
    like: Tensor,
    distribution: str = "rademacher",
    seed: int | Sequence[int] | None = 0,
) -> Tensor:
    """Random probes, those of each example a function of the example's seed alone.

    Args:
        count: number of probes per example, at least 1.
        like: a batch `(batch, *event)` that gives shape, dtype and device.
        distribution: a name in `PROBE_DISTRIBUTIONS`.
        seed: as for `sde_score.random.example_seeds`.

    Returns:
        Probes of shape `(count, batch, *event)`.

    Raises:
        ValueError: for an unknown distribution or a count below 1.
    """
    require_probes(count, distribution)
    streams = ExampleStreams(example_seeds(seed, len(like)), like)
    return torch.stack([PROBE_DISTRIBUTIONS[distribution](streams()) for _ in range(count)])


@dataclass(frozen=True)
class Flow(Likelihood):
    """The density of the probability-flow ODE, see `log_prob`; discrete data are dequantized.

    The defaults are those of published image results: one random probe and one dequantization for
    each example; the variance they bring is part of the standard error over examples.

    Args:
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        divergence: `hutchinson`, random and unbiased, or `exact`.
        probes: random probes per draw, at least 1.
        probe_distribution: a name in `PROBE_DISTRIBUTIONS`.
        method: as for `log_prob`; `quadrature` is the fastest for networks.
        mode: `reverse` or `forward`, as for `log_prob`.
        dequantization: a name in `DEQUANTIZATIONS` with its arguments, or an object such as
            `VariationalDequantization`.
        dequantizations: independent draws of its noise per example, at least 1.
        importance_weighted: combine the draws as the log of their mean density, a closer bound than
            the mean of their logs. With `hutchinson` the draws of an example then share their
            probes, so that their common error stays out of the weights.

    Raises:
        ValueError: for an argument outside its range.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    divergence: str = "hutchinson"
    probes: int = 1
    probe_distribution: str = "rademacher"
    method: str = "dopri5"
    mode: str = "reverse"
    dequantization: str | Dequantization = "uniform"
    dequantizations: int = 1
    importance_weighted: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _require_settings(
            self.divergence, self.probe_distribution, self.rtol, self.atol, self.method, self.mode
        )
        require_count(probes=self.probes, dequantizations=self.dequantizations)
        DEQUANTIZATIONS.resolve(self.dequantization, name="dequantization")

    def estimate(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Log-likelihoods and their standard errors, each of shape `(batch,)`."""
        rows, errors = independent_draws(
            lambda seeds: self._draw(problem, seeds), self.dequantizations, problem.seeds
        )
        if self.importance_weighted:
            weights = (rows - rows.amax(0)).exp()
            return log_mean_exp(rows), standard_error(weights) / weights.mean(0)
        if len(rows) == 1 and problem.scaling.levels is None:
            return rows[0], errors[0]
        return rows.mean(0), standard_error(rows)

    def _draw(self, problem: Problem, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """log p(x) - log q(x) of one point for each example, and its error over the probes."""
        model, dequantization = problem.model, DEQUANTIZATIONS.resolve(self.dequantization)
        points = dequantization(problem.raw, problem.scaling, model.sde, seeds)
        found = log_prob(
            model,
            points.x,
            start=points.start,
            divergence=self.divergence,
            probes=self.probes,
            probe_distribution=self.probe_distribution,
            seed=problem.seeds if self.importance_weighted else seeds,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            mode=self.mode,
            condition=problem.condition,
            grad=problem.grad,
            progress=problem.progress,
        )
        return found.log_prob - points.log_q, found.standard_error


def _require_settings(
    divergence: str, probe_distribution: str, rtol: float, atol: float, method: str, mode: str
) -> None:
    require_positive(rtol=rtol, atol=atol)
    require_choice("divergence", divergence, DIVERGENCES)
    require_choice("probe_distribution", probe_distribution, tuple(PROBE_DISTRIBUTIONS))
    require_choice("method", method, METHODS)
    require_choice("mode", mode, DERIVATIVE_MODES)


def _require_probes(
    x: Tensor, divergence: str, probes: int | Tensor, covariance: Tensor | None
) -> None:
    if divergence == "exact":
        if covariance is not None:
            raise ValueError("covariance is for divergence='hutchinson'; 'exact' has no variance")
        if isinstance(probes, Tensor) or probes != 1:
            raise ValueError(
                "probes are for divergence='hutchinson'; divergence='exact' takes none"
            )
        if x[0].numel() > _EXACT_LIMIT:
            raise ValueError(
                f"divergence='exact' needs {x[0].numel()} derivatives per evaluation, more than "
                f"{_EXACT_LIMIT}: use divergence='hutchinson'"
            )
    elif isinstance(probes, Tensor) and (
        probes.ndim != x.ndim + 1 or probes.shape[1:] != x.shape or len(probes) == 0
    ):
        raise ValueError(
            f"probes has shape {tuple(probes.shape)}; accepted: a number, or a tensor "
            f"(n, {', '.join(map(str, x.shape))})"
        )


def _require_mode(mode: str, model: Model, x: Tensor, begin: float, condition: Condition) -> None:
    """Refuse a model on which forward mode would be silently wrong."""
    if mode != "forward":
        return
    if isinstance(model, BaseEnergy):
        raise ValueError(
            f"mode='forward' does not reach through {type(model).__name__}, whose score is a "
            "gradient by autograd; use mode='reverse'"
        )
    own = rows_of(condition, slice(1))
    require_forward_mode(lambda y: model.velocity(y, begin, own), x)
