"""The published methods by name: class, fields, family, budget, paper and aliases in one table.

A method is a class of samplers with chosen fields, which can still be changed. The
*first tier* are the methods that the benchmarks recommend and the baseline, `ddim`.

Budgets are read off `sde-score benchmark` on distributions with exact scores; a network's own error
blurs the differences.

Of the names that are ours, `auto` is a multistep method that follows from the steps and the model;
`adams` and `adams-time` are Adams-Bashforth-Moulton on the flow's velocity, in the angle or in the
SDE's own time, and `adams-sde` the same on the data with noise. The first suits exact scores, the
second networks on VP, whose predictions are smoothest in the time they were trained on. `flow-ab`,
`angular-ab` and `sigma-ab` are Adams-Bashforth in rectified time, in the angle and in sigma.

`dpmpp-3m` is of third order. The published code halves the second difference, which makes it a
method of second order; that one is `dpmpp-3m-published`. In `-2s` and `-3s` the digit counts
stages, in `-2m` and `-3m` points of the past. All stages of a stochastic step share one Brownian
motion with exact covariances, which makes `seeds-2`, `seeds-3`, `dpmpp-sde` and `stochastic-heun`
methods of weak order 2; code that draws the noise of the stages of `dpmpp-sde` independently is of
order 1. Its `eta` is the tau of the reverse SDE; the `eta` of k-diffusion is the share of ancestral
noise in the stage and in the step. They agree at 0 and at 1; for shares between, add the noise once
per step, with `dpmpp-2s-ancestral(ancestral=0.5)`.

The names of others lead to the same method under ours. `euler` of k-diffusion and diffusers is
Euler's method on the probability-flow ODE in sigma, which for one evaluation per step is DDIM on
every SDE; Euler's method in the time of a rectified flow is the same step. `euler-a` puts ancestral
noise back after it, which is ancestral sampling with the posterior variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from sde_score.samplers.adaptive.dpm_solver import DPMAdaptive
from sde_score.samplers.adaptive.probability_flow import ProbabilityFlowODE
from sde_score.samplers.adaptive.reverse_sde import AdaptiveSDE
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.composite.parallel import Parallel
from sde_score.samplers.composite.restart import Restart
from sde_score.samplers.fixed_step.auto import Auto
from sde_score.samplers.fixed_step.flow_map import FlowMapSteps
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.fixed_step.one_step import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ReverseDiffusion,
)
from sde_score.samplers.fixed_step.runge_kutta import RungeKutta
from sde_score.samplers.fixed_step.singlestep import Singlestep
from sde_score.samplers.langevin.annealed import AnnealedLangevin
from sde_score.samplers.langevin.markov_chain import MCMC
from sde_score.samplers.langevin.predictor_corrector import PredictorCorrector


@dataclass(frozen=True)
class Method:
    """A published method.

    Args:
        sampler: the class.
        family: the kind of method.
        good_at: evaluations per sample at which it is worth trying.
        paper: where it was published.
        fields: of the class, where they differ from its defaults.
        aliases: names that others use for it.
        first_tier: whether it is among those to try first.
    """

    sampler: type[Sampler]
    family: str
    good_at: str
    paper: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    first_tier: bool = False

    @property
    def constructor(self) -> Callable[..., Sampler]:
        """The class with the fields as defaults."""
        return partial(self.sampler, **self.fields) if self.fields else self.sampler


_DDPM = "Ho et al. 2020, https://arxiv.org/abs/2006.11239"
_DDIM = "Song et al. 2020, https://arxiv.org/abs/2010.02502"
_SCORE_SDE = "Song et al. 2021, https://arxiv.org/abs/2011.13456"
_EDM = "Karras et al. 2022, https://arxiv.org/abs/2206.00364"
_FLOW = "Lipman et al. 2022, https://arxiv.org/abs/2210.02747"
_DPM = "Lu et al. 2022, https://arxiv.org/abs/2206.00927"
_DPMPP = "Lu et al. 2022, https://arxiv.org/abs/2211.01095"
_RES = "Zhang et al. 2023, https://arxiv.org/abs/2308.02157"
_SEEDS = "Gonzalez et al. 2023, https://arxiv.org/abs/2305.14267"
_HEUN = "Kloeden & Platen 1992, https://doi.org/10.1007/978-3-662-12616-5"
_PNDM = "Liu et al. 2022, https://arxiv.org/abs/2202.09778"
_DEIS = "Zhang & Chen 2022, https://arxiv.org/abs/2204.13902"
_UNIPC = "Zhao et al. 2023, https://arxiv.org/abs/2302.04867"
_SA = "Xue et al. 2023, https://arxiv.org/abs/2309.05019"
_ER = "Cui et al. 2023, https://arxiv.org/abs/2309.06169"
_GOTTA_GO_FAST = "Jolicoeur-Martineau et al. 2021, https://arxiv.org/abs/2105.14080"
_RESTART = "Xu et al. 2023, https://arxiv.org/abs/2306.14878"
_PARADIGMS = "Shih et al. 2023, https://arxiv.org/abs/2305.16317"
_NCSN = "Song & Ermon 2020, https://arxiv.org/abs/2006.09011"
_FLOW_MAP = "Boffi et al. 2024, https://arxiv.org/abs/2406.07507"
_MALA = "Roberts & Tweedie 1996, https://doi.org/10.2307/3318418"

# Extrapolated, in which coordinate, and the grid: the noise as DPM-Solver, the data as DPM-Solver++
# in log-SNR; the noise as EDM and the data in sigma; the velocity with a last step to zero noise.
_noise: dict[str, Any] = {"prediction": "noise", "coordinate": "log_snr", "grid": "log_snr"}
_data: dict[str, Any] = {"prediction": "data", "coordinate": "log_snr", "grid": "log_snr"}
_sigma: dict[str, Any] = {"prediction": "noise", "coordinate": "sigma", "grid": "karras"}
_data_in_sigma: dict[str, Any] = {**_data, "coordinate": "sigma"}
_flow: dict[str, Any] = {"grid": "rectified(last=0.5)", "final_order": 3}
_angle: dict[str, Any] = {**_flow, "coordinate": "angle"}
_time: dict[str, Any] = {"coordinate": "time", "grid": "polynomial"}

_rk = partial(Method, RungeKutta, "Runge-Kutta")
_rk_sde = partial(Method, RungeKutta, "Runge-Kutta SDE")
_multi = partial(Method, Multistep, "multistep")
_multi_sde = partial(Method, Multistep, "multistep SDE")

METHODS: Mapping[str, Method] = {
    "auto": Method(Auto, "multistep", "5-100", _FLOW, first_tier=True),
    "euler-maruyama": Method(EulerMaruyama, "reverse SDE", "500-2000", _SCORE_SDE),
    "reverse-diffusion": Method(ReverseDiffusion, "reverse SDE", "250-2000", _SCORE_SDE),
    "ancestral": Method(
        Ancestral, "reverse SDE", "100-1000", _DDPM, aliases=("ddpm", "euler-a", "euler-ancestral")
    ),
    "ddim": Method(DDIM, "one step", "20-100", _DDIM, aliases=("euler",), first_tier=True),
    "heun": _rk("30-100", _EDM, {**_sigma, "steps": 18}, ("edm",)),
    "midpoint": _rk("10-100", _FLOW, {"method": "midpoint"}),
    "rk4": _rk("40-200", _FLOW, {"method": "rk4"}),
    "dpm-2s": _rk("20-100", _DPM, {**_noise, "method": "midpoint"}, ("dpm2", "dpm-solver-2")),
    "dpm-3s": _rk("30-100", _DPM, {**_noise, "method": "heun-3"}, ("dpm-solver-3",)),
    "dpmpp-2s": _rk("20-100", _DPMPP, {**_data, "method": "midpoint"}),
    "dpmpp-3s": _rk("30-100", _DPMPP, {**_data, "method": "heun-3"}),
    "singlestep": Method(
        Singlestep, "Runge-Kutta", "10-50", _DPM, aliases=("dpm-fast", "dpm-solver-fast")
    ),
    "res-2s": _rk("20-100", _RES, {**_data, "method": "half-line"}),
    "dpm-2s-ancestral": _rk_sde(
        "50-250",
        _DPM,
        {**_noise, "method": "midpoint", "ancestral": 1.0},
        ("dpm2-a", "dpm2-ancestral"),
    ),
    "dpmpp-2s-ancestral": _rk_sde(
        "50-250", _DPMPP, {**_data, "method": "midpoint", "ancestral": 1.0}, ("dpmpp-2s-a",)
    ),
    "dpmpp-sde": _rk_sde("50-250", _DPMPP, {**_data, "method": "midpoint", "eta": 1.0}),
    "seeds-1": _rk_sde("100-1000", _SEEDS, {**_noise, "method": "euler", "eta": 1.0}),
    "seeds-2": _rk_sde("50-250", _SEEDS, {**_noise, "method": "midpoint", "eta": 1.0}),
    "seeds-3": _rk_sde("90-300", _SEEDS, {**_noise, "method": "heun-3", "eta": 1.0}),
    "stochastic-heun": _rk_sde("50-250", _HEUN, {**_data, "method": "heun", "eta": 1.0}),
    "runge-kutta": _rk("any", _FLOW),
    "adams": _multi("8-100", _FLOW, {**_angle, "order": 4, "corrector": 3}, first_tier=True),
    "adams-time": _multi("8-100", _FLOW, {**_time, "corrector": 2}, first_tier=True),
    "flow-ab": _multi("5-50", _FLOW, _flow),
    "angular-ab": _multi("5-50", _FLOW, {**_angle, "prediction": "angular"}),
    "sigma-ab": _multi("20-100", _EDM, {**_sigma, "order": 4}, ("lms",)),
    "ipndm": _multi(
        "5-15", _PNDM, {**_flow, "prediction": "noise", "coordinate": "index"}, ("plms", "pndm")
    ),
    "deis": _multi("10-50", _DEIS, {**_time, "prediction": "noise"}, first_tier=True),
    "dpm-2m": _multi("15-100", _DPM, {**_noise, "order": 2, "rule": "midpoint"}, ("dpm-solver",)),
    "dpm-3m": _multi("10-100", _DPM, _noise),
    "dpmpp-2m": _multi(
        "10-50",
        _DPMPP,
        {**_data, "order": 2, "rule": "midpoint"},
        ("dpm-solver++",),
        first_tier=True,
    ),
    "dpmpp-3m": _multi("15-100", _DPMPP, _data),
    "dpmpp-3m-published": _multi("15-50", _DPMPP, {**_data, "rule": "midpoint-halved"}),
    "unipc": _multi(
        "10-100", _UNIPC, {**_data, "corrector": 3, "rule": "midpoint"}, first_tier=True
    ),
    "dpmpp-1-sde": _multi_sde("100-1000", _DPMPP, {**_data, "order": 1, "eta": 1.0}),
    "dpmpp-2m-sde": _multi_sde(
        "30-250", _DPMPP, {**_data, "order": 2, "eta": 1.0, "rule": "midpoint"}, first_tier=True
    ),
    "dpmpp-3m-sde": _multi_sde("30-250", _DPMPP, {**_data, "eta": 1.0}),
    "sa-solver": _multi_sde("30-250", _SA, {**_data, "corrector": 2, "eta": "interval"}),
    "adams-sde": _multi_sde(
        "15-250", _SA, {**_data_in_sigma, "order": 2, "corrector": 2, "eta": 0.7}, first_tier=True
    ),
    "er-sde": _multi_sde("20-250", _ER, {**_data_in_sigma, "eta": "extended"}),
    "multistep": _multi("any", _DEIS),
    "ode": Method(
        ProbabilityFlowODE,
        "adaptive",
        "40-200",
        _SCORE_SDE,
        aliases=("probability-flow", "dopri5", "rk45"),
        first_tier=True,
    ),
    "dpm-adaptive": Method(DPMAdaptive, "adaptive", "30-150", _DPM),
    "adaptive-sde": Method(AdaptiveSDE, "adaptive SDE", "40-300", _GOTTA_GO_FAST),
    "restart": Method(Restart, "Runge-Kutta SDE", "40-500", _RESTART),
    "parallel": Method(
        Parallel, "parallel in time", "10-30 calls", _PARADIGMS, aliases=("paradigms",)
    ),
    "pc": Method(
        PredictorCorrector,
        "predictor-corrector",
        "200-2000",
        _SCORE_SDE,
        aliases=("predictor-corrector",),
    ),
    "annealed-langevin": Method(AnnealedLangevin, "Langevin", "500-5000", _NCSN),
    "mcmc": Method(MCMC, "Markov chain", "1000-", _MALA),
}
"""All methods, each family from the simplest to the most advanced."""

FOR_FLOW_MAPS: Mapping[str, Method] = {
    "flow-map": Method(FlowMapSteps, "flow map", "1-4", _FLOW_MAP),
}
"""Methods for flow maps alone; all others run on every model."""

ALIASES: Mapping[str, str] = {
    alias: name for name, method in METHODS.items() for alias in method.aliases
}
"""The names of others, and ours for the same method."""


def constructors(*kinds: type) -> dict[str, Callable[..., Sampler]]:
    """The constructors of the methods of some classes, by name."""
    return {name: m.constructor for name, m in METHODS.items() if issubclass(m.sampler, kinds)}


FIRST_TIER: tuple[str, ...] = tuple(name for name, m in METHODS.items() if m.first_tier)
"""The samplers to try first."""

_FEW, _MORE = 12, 24  # steps, whose difference in cost is that of a step


@dataclass(frozen=True)
class Description:
    """A registered sampler in the words of a table; facts that are not known are empty.

    Args:
        name: as registered.
        family: the kind of method.
        order: of convergence.
        nfe_per_step: network evaluations of a step, counted; `"adaptive"` where there are none.
        noise: `"drawn"` or `"none"` on the way.
        good_at: evaluations per sample at which it is worth trying.
        paper: where it was published.
        arguments: all fields with their defaults.
        aliases: other names for it.
        first_tier: whether it is among those to try first.
    """

    name: str
    family: str = ""
    order: str = ""
    nfe_per_step: str = ""
    noise: str = ""
    good_at: str = ""
    paper: str = ""
    arguments: str = ""
    aliases: tuple[str, ...] = ()
    first_tier: bool = False


def describe(name: str) -> Description:
    """The facts of a sampler, published or registered by a user.

    Raises:
        ValueError: for an unknown name.
    """
    name = SAMPLERS.listed(name)
    method = METHODS.get(name) or FOR_FLOW_MAPS.get(name)
    known = Description(name, aliases=tuple(a for a, to in SAMPLERS.aliases.items() if to == name))
    if method is not None:
        known = replace(
            known, family=method.family, good_at=method.good_at, paper=method.paper,
            first_tier=method.first_tier,
        )  # fmt: skip
    try:
        sampler = SAMPLERS.create(name)
    except ValueError:  # a sampler of someone's that needs arguments
        return known
    return replace(
        known,
        order=str(sampler.convergence_order),
        nfe_per_step="adaptive" if sampler.adaptive else _counted_per_step(sampler),
        noise="drawn" if sampler.stochastic else "none",
        arguments=", ".join(
            f"{f.name}={getattr(sampler, f.name)!r}" for f in fields(sampler) if f.init and f.repr
        ),
    )


def _counted_per_step(sampler: Sampler) -> str:
    try:
        few, more = (replace(sampler, steps=steps).count_nfe() for steps in (_FEW, _MORE))
    except REFUSALS:
        return ""
    return f"{(more - few) / (_MORE - _FEW):.2g}"
