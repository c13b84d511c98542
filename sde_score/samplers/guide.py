"""Which sampler for what: the family of each name and the budgets at which it is worth its cost.

The budgets are read off `sde-score benchmark` on laws with exact scores; a network's own error
blurs the differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Advice(NamedTuple):
    """What to know of a sampler before trying it."""

    family: str
    """What kind of method it is."""
    nfe: str
    """Evaluations per sample at which it is worth trying."""


_SDE, _STEP, _MULTI = "reverse SDE", "one step", "multistep"
_MULTI_SDE, _RK, _RK_SDE = "multistep SDE", "Runge-Kutta", "Runge-Kutta SDE"

GUIDE: Mapping[str, Advice] = {
    "euler-maruyama": Advice(_SDE, "500-2000"),
    "reverse-diffusion": Advice(_SDE, "250-2000"),
    "ancestral": Advice(_SDE, "100-1000"),
    "ddim": Advice(_STEP, "20-100"),
    "heun": Advice(_RK, "30-100"),
    "midpoint": Advice(_RK, "10-100"),
    "rk4": Advice(_RK, "40-200"),
    "dpm-2s": Advice(_RK, "20-100"),
    "dpm-3s": Advice(_RK, "30-100"),
    "dpmpp-2s": Advice(_RK, "20-100"),
    "dpmpp-3s": Advice(_RK, "30-100"),
    "res-2s": Advice(_RK, "20-100"),
    "dpm-2s-ancestral": Advice(_RK_SDE, "50-250"),
    "dpmpp-2s-ancestral": Advice(_RK_SDE, "50-250"),
    "dpmpp-sde": Advice(_RK_SDE, "50-250"),
    "seeds-1": Advice(_RK_SDE, "100-1000"),
    "seeds-2": Advice(_RK_SDE, "50-250"),
    "seeds-3": Advice(_RK_SDE, "90-300"),
    "stochastic-heun": Advice(_RK_SDE, "50-250"),
    "runge-kutta": Advice(_RK, "any"),
    "adams": Advice(_MULTI, "8-100"),
    "adams-time": Advice(_MULTI, "8-100"),
    "flow-ab": Advice(_MULTI, "5-50"),
    "angular-ab": Advice(_MULTI, "5-50"),
    "sigma-ab": Advice(_MULTI, "20-100"),
    "ipndm": Advice(_MULTI, "5-15"),
    "deis": Advice(_MULTI, "10-50"),
    "dpm-2m": Advice(_MULTI, "15-100"),
    "dpm-3m": Advice(_MULTI, "10-100"),
    "dpmpp-2m": Advice(_MULTI, "10-50"),
    "dpmpp-3m": Advice(_MULTI, "15-100"),
    "dpmpp-3m-published": Advice(_MULTI, "15-50"),
    "unipc": Advice(_MULTI, "10-100"),
    "dpmpp-1-sde": Advice(_MULTI_SDE, "100-1000"),
    "dpmpp-2m-sde": Advice(_MULTI_SDE, "30-250"),
    "dpmpp-3m-sde": Advice(_MULTI_SDE, "30-250"),
    "sa-solver": Advice(_MULTI_SDE, "30-250"),
    "adams-sde": Advice(_MULTI_SDE, "15-250"),
    "er-sde": Advice(_MULTI_SDE, "20-250"),
    "multistep": Advice(_MULTI, "any"),
    "ode": Advice("adaptive", "40-200"),
    "dpm-adaptive": Advice("adaptive", "30-150"),
    "adaptive-sde": Advice("adaptive SDE", "40-300"),
    "restart": Advice("Runge-Kutta SDE", "40-500"),
    "parallel": Advice("parallel in time", "10-30 calls in turn"),
    "pc": Advice("predictor-corrector", "200-2000"),
    "annealed-langevin": Advice("Langevin", "500-5000"),
    "mcmc": Advice("Markov chain", "1000-"),
}
"""By the names of `SAMPLERS`."""
