"""Trajectories of other implementations, with their noise, through our samplers."""

from __future__ import annotations

import pytest
import torch

from sde_score.samplers import DDIM, METHODS, Ancestral, AnnealedLangevin, Karras, UniformTime
from sde_score.sdes import EDM, SDE, VE

Heun = METHODS["heun"].constructor


class TableSDE(SDE):
    """A variance-preserving chain read at whole times 1 ... n from its cumulative products."""

    t_min = 1.0

    def __init__(self, alpha_bars) -> None:
        self.alpha_bars = alpha_bars

    @property
    def t_max(self):
        return float(len(self.alpha_bars))

    def _at(self, t):
        return self.alpha_bars[torch.as_tensor(t).round().long() - 1]

    def alpha(self, t):
        return self._at(t).sqrt()

    def sigma(self, t):
        return (1 - self._at(t)).sqrt()

    def alpha_derivative(self, t):
        raise NotImplementedError

    def sigma_derivative(self, t):
        raise NotImplementedError

    def _time_of_log_snr(self, log_snr):
        raise NotImplementedError


def check_calls(model, net_x, net_sigma, close):
    close(torch.stack(model.states), net_x)
    close(torch.tensor(model.seen_times, dtype=torch.float64), net_sigma)


@pytest.mark.parametrize("case", ["edm_heun", "edm_heun_short", "edm_churn"])
def test_edm_sampler(case, reference, stored_mixture, recorder, stored, close):
    arrays, description = reference("samplers_edm")
    given = description["params"]["edm_sampler"][case]
    sde = EDM(given["sigma_min"], given["sigma_max"])
    churn = {f"churn{ours}": given[f"S_{theirs}"] for ours, theirs in
             [("", "churn"), ("_min", "min"), ("_max", "max"), ("_noise", "noise")]
             if f"S_{theirs}" in given}  # fmt: skip
    sampler = Heun(steps=given["num_steps"], grid=Karras(rho=float(given["rho"])), **churn)
    model = recorder(stored_mixture(arrays, sde))
    draws = arrays.get(f"{case}.noise", torch.zeros(0))
    if churn:  # theirs draws at every step, ours only where it churns
        levels = sampler.times(sde)
        draws = draws[(levels >= given["S_min"]) & (levels <= given["S_max"])]
    start = given["sigma_max"] * arrays["latents"]
    got = sampler(model, start, noise=stored(draws), progress=False)
    close(got, arrays[f"{case}.result"])
    check_calls(model, arrays[f"{case}.net_x"], arrays[f"{case}.net_sigma"], close)


def test_diffusers_heun(reference, stored_mixture, table, close):
    arrays, _ = reference("samplers_diffusers_discrete")
    sigmas = arrays["grid.heun"][:-1]
    sde = EDM(float(sigmas[-1]), float(sigmas[0]))
    sampler = Heun(steps=len(sigmas), grid=table(sigmas))
    model = stored_mixture(arrays, sde)
    got = sampler(model, arrays["heun.x_start"], progress=False)
    close(got, arrays["heun.result"])


K_CASES = {
    "euler": DDIM,
    "euler_open": DDIM,
    "heun": Heun,
    "heun_open": Heun,
    "heun_churn": Heun,
    "euler_ancestral_eta1": Ancestral,
}


@pytest.mark.parametrize("case", K_CASES)
def test_k_diffusion(case, reference, stored_mixture, recorder, stored, table, close):
    """Euler in sigma is DDIM, its ancestral form is ancestral sampling, open grids end in noise."""
    arrays, _ = reference("samplers_k_diffusion")
    sigmas = arrays["sigmas_open"]
    sde = EDM(float(sigmas[-1]), float(sigmas[0]))
    ends_in_data = not case.endswith("_open")
    draws, options = arrays.get(f"{case}.noise", torch.zeros(0)), {}
    if case == "heun_churn":
        options = {"churn": 4.0, "churn_min": 0.05, "churn_max": 15.0, "churn_noise": 1.003}
        draws = draws[:-1][((sigmas >= 0.05) & (sigmas <= 15.0))[: len(draws) - 1]]
    steps = len(sigmas) if ends_in_data else len(sigmas) - 1
    sampler = K_CASES[case](steps=steps, denoise=ends_in_data, grid=table(sigmas), **options)
    model = recorder(stored_mixture(arrays, sde))
    got = sampler(model, arrays["x_start"], noise=stored(draws), progress=False)
    close(got, arrays[f"{case}.result"])
    check_calls(model, arrays[f"{case}.net_x"], arrays[f"{case}.net_sigma"], close)


DDIM_CASES = [
    *(f"ddim_n10_one1_off0_eta{eta}" for eta in ("0", "0.5", "1")),
    "ddim_n10_one1_off1_eta0",
    "ddim_n10_one0_off0_eta0",
    "ddim_n10_one0_off1_eta0",
    "ddim_n25_one1_off0_eta0",
    "ddim_n25_one0_off1_eta0",
]


@pytest.mark.parametrize("case", DDIM_CASES)
def test_ddim_of_diffusers(case, reference, stored_mixture, stored, table, close):
    arrays, description = reference("samplers_diffusers_discrete")
    given = description["params"]["cases"][case]
    stops = arrays[f"{case}.timesteps"] + 1
    to_data = bool(arrays[f"{case}.alpha_bar_prev"][-1] == 1)
    if not to_data:  # the last stop is the first entry of the table
        stops = torch.cat([stops, torch.ones(1)])
    sampler = DDIM(steps=given["n"], denoise=to_data, grid=table(stops), eta=given["eta"])
    model = stored_mixture(arrays, TableSDE(arrays["alphas_cumprod"]))
    draws = stored(arrays.get(f"{case}.noise", torch.zeros(0)))
    close(sampler(model, arrays["x_start"], noise=draws, progress=False), arrays[f"{case}.result"])


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize(("theirs", "ours"), [("small", "posterior"), ("large", "transition")])
def test_ddpm_of_diffusers(n, theirs, ours, reference, stored_mixture, stored, table, close):
    arrays, _ = reference("samplers_diffusers_discrete")
    case = f"ddpm_n{n}_fixed_{theirs}"
    stops = arrays[f"{case}.timesteps"] + 1
    sampler = Ancestral(steps=n, grid=table(stops), variance=ours)
    model = stored_mixture(arrays, TableSDE(arrays["alphas_cumprod"]))
    draws = stored(arrays[f"{case}.noise"])
    run = sampler(model, arrays["x_start"], noise=draws, trajectory=True, progress=False)
    close(run.samples, arrays[f"{case}.result"])
    if f"{case}.trace" in arrays:
        close(run.states[1:], arrays[f"{case}.trace"])


@pytest.mark.parametrize("denoise", [True, False])
def test_annealed_langevin_of_ncsnv2(denoise, reference, stored_mixture, recorder, stored, close):
    arrays, description = reference("ncsn_ald")
    given = description["params"]
    levels, event = given["L"], (4, 1, 1)
    sampler = AnnealedLangevin(
        steps=levels + denoise - 1,
        grid=UniformTime(),
        denoise=denoise,
        steps_each=given["n"],
        step_ratio=given["lr"] / given["s1"] ** 2,
    )
    model = recorder(stored_mixture(arrays, VE(given["s1"], given["s0"]), event))
    noise = stored(arrays["noise"])
    got = sampler(model, arrays["x_start"], noise=noise, progress=False)
    close(got, arrays["result_denoised" if denoise else "result"])
    before = torch.cat([arrays["x_start"][None], arrays["trace"]])
    close(torch.stack(model.states), before[: len(model.states)])
    assert len(model.states) == levels * given["n"] + denoise
