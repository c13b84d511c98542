"""The likelihood of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score.likelihood.base import Estimate, independent_draws, standard_error
from sde_score.likelihood.dequantization import (
    Dequantization,
    as_dequantization,
    log_mean_exp,
)
from sde_score.likelihood.probability_flow import DIVERGENCES, log_prob
from sde_score.models import Model
from sde_score.random import PROBE_DISTRIBUTIONS
from sde_score.samplers.adaptive.ode_solvers import SOLVERS
from sde_score.scaling import Scaling


@dataclass(frozen=True)
class Flow:
    """The density of the probability-flow ODE, see `log_prob`; discrete data are dequantized.

    The defaults are those of published image results: one random probe and one dequantization for
    each example; the chance they bring is part of the standard error over examples.

    Args:
        rtol: relative tolerance of a step, > 0.
        atol: absolute tolerance of a step, > 0.
        divergence: `hutchinson`, random and unbiased, or `exact`.
        probes: random probes per draw, at least 1.
        probe_distribution: a name in `PROBE_DISTRIBUTIONS`.
        method: a name in `SOLVERS`.
        mode: `reverse` or `forward`, how the divergence is differentiated.
        dequantization: spec from `DEQUANTIZATIONS`, or an object such as
            `VariationalDequantization`.
        dequantizations: independent draws of its noise per example, at least 1.
        importance_weighted: combine the draws as the log of their mean density, a closer bound than
            the mean of their logs. With `hutchinson` the draws of an example then share their
            probes, so that the error of these, common to all, stays out of the weights.

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
        require_positive(rtol=self.rtol, atol=self.atol)
        require_choice("divergence", self.divergence, DIVERGENCES)
        require_choice("probe_distribution", self.probe_distribution, tuple(PROBE_DISTRIBUTIONS))
        require_choice("method", self.method, tuple(SOLVERS))
        require_choice("mode", self.mode, ("reverse", "forward"))
        require_count(probes=self.probes, dequantizations=self.dequantizations)
        as_dequantization(self.dequantization)

    def __call__(
        self,
        model: Model,
        raw: Tensor,
        scaling: Scaling,
        *,
        seeds: Sequence[int],
        condition: Tensor | None = None,
        progress: bool = False,
    ) -> Estimate:
        """Log-likelihood of raw data, as `Likelihood` says."""
        law, evaluations = as_dequantization(self.dequantization), model.nfe

        def one(draw_seeds: list[int]) -> tuple[Tensor, Tensor]:
            points = law(raw, scaling, model.sde, draw_seeds)
            found = log_prob(
                model,
                points.x,
                start=points.start,
                divergence=self.divergence,
                probes=self.probes,
                probe_distribution=self.probe_distribution,
                seed=list(seeds) if self.importance_weighted else draw_seeds,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                mode=self.mode,
                condition=condition,
                progress=progress,
            )
            return found.log_prob - points.log_q, found.standard_error

        rows, errors = independent_draws(one, self.dequantizations, seeds)
        if self.importance_weighted:
            weights = (rows - rows.amax(0)).exp()
            error = standard_error(weights) / weights.mean(0)
            return Estimate(log_mean_exp(rows), error, model.nfe - evaluations)
        single = len(rows) == 1 and scaling.levels is None
        error = errors[0] if single else standard_error(rows)
        return Estimate(rows.mean(0), error, model.nfe - evaluations)
