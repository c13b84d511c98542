"""Predictors, correctors and whole trajectories of score_sde, with their noise.

That code steps by 1/N while its grid is spaced (1 - eps) / (N - 1), and reads tables at
trunc(t (N - 1)). Here an SDE with these tables stands in; coefficients, steps and correctors are
ours.
"""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.posterior import Mask, Measurement, PublishedInpainting
from sde_score.posterior.spectrum import Spectrum
from sde_score.samplers import (
    Ancestral,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
)
from sde_score.samplers.fixed_step.linear import weighted_sum_
from sde_score.samplers.problem import Problem
from sde_score.sdes import SDE, VE, VP, SubVP

KINDS = {"vp": VP, "subvp": SubVP, "ve": VE}


class Tables(SDE):
    """An SDE whose transitions, and scales if discrete, are read from the tables of n levels."""

    t_min, t_max = 0.0, 1.0

    def __init__(self, sde, n, discrete=False) -> None:
        self.inner, self.n, self.discrete = sde, n, discrete
        if isinstance(sde, VE):
            spread = (math.log(sde.sigma_min), math.log(sde.sigma_max))
            self.sigmas = torch.linspace(*spread, n, dtype=torch.float64).exp()
            self.alphas = torch.ones_like(self.sigmas)
        elif isinstance(sde, VP):
            ends = (sde.beta_min / n, sde.beta_max / n)
            self.betas = torch.linspace(*ends, n, dtype=torch.float64)
            self.alphas = (1 - self.betas).cumprod(0).sqrt()
            self.sigmas = (1 - self.alphas**2).sqrt()

    def index(self, t):
        return (torch.as_tensor(t, dtype=torch.float64) * (self.n - 1)).long()

    def alpha(self, t):
        return self.alphas[self.index(t)] if self.discrete else self.inner.alpha(t)

    def sigma(self, t):
        return self.sigmas[self.index(t)] if self.discrete else self.inner.sigma(t)

    def transition(self, s, t):
        """Of the level of t, whatever s."""
        if isinstance(self.inner, SubVP):
            rate = self.inner.drift_rate(t)
            return 1 + rate / self.n, self.inner.diffusion(t) / self.n**0.5
        i = self.index(t)
        if isinstance(self.inner, VP):
            return (1 - self.betas[i]).sqrt(), self.betas[i].sqrt()
        below = torch.where(i == 0, 0.0, self.sigmas[i - 1])
        return torch.ones_like(t), (self.sigmas[i] ** 2 - below**2).sqrt()

    def drift_rate(self, t):
        return self.inner.drift_rate(t)

    def diffusion(self, t):
        return self.inner.diffusion(t)

    def alpha_derivative(self, t):
        raise NotImplementedError

    sigma_derivative = _time_of_log_snr = alpha_derivative


class EulerOfOneOverN(EulerMaruyama):
    """Euler-Maruyama whose step is 1/n on any grid."""

    def coefficients(self, sde, t, s):
        return super().coefficients(sde, t, t - 1 / sde.n)


class OfTheDeviation(Langevin):
    """The marginal rule with the continuous deviation where the score's is a table's."""

    def factors(self, sde, times):
        return super().factors(sde.inner, times)


class OfTheTable(Langevin):
    """The batch rule with the table's factor 1 - beta."""

    def factors(self, sde, times):
        return (2 * self.snr**2 * sde.transition(times, times)[0] ** 2).tolist()


def gaussian(arrays, sde):
    return GaussianMixture(arrays["m"][None], arrays["S"][None], sde)


def run_of(model, noise):
    return Problem(model, torch.ones(1), noise, None, lambda: None)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("update", ["em", "rd", "rd_ode", "anc"])
def test_predictors(name, update, reference, close):
    arrays, description = reference("pc_one_step")
    if f"{name}.{update}.x" not in arrays:
        pytest.skip("score_sde does not have it")
    low, high, n = description["params"][name]
    sde = Tables(KINDS[name](low, high), n, discrete=update == "anc")
    predictor = {
        "em": EulerOfOneOverN(),
        "rd": ReverseDiffusion(),
        "rd_ode": ReverseDiffusion(eta=0.0),
        "anc": Ancestral(variance="posterior" if name == "ve" else "transition"),
    }[update]
    t, score = arrays["t"], arrays[f"{name}.score"]
    close(gaussian(arrays, sde.inner).score(arrays[f"{name}.x"], t), score)
    s = ((sde.index(t) - 1).clamp(min=0) + 0.5) / (n - 1)
    rows = zip(*(c.tolist() for c in predictor.coefficients(sde, t, s)), strict=True)
    for i, (a, b, c) in enumerate(rows):
        x, z, grad = arrays[f"{name}.x"][i], arrays["noise.0"][i], score[i]
        if not (update == "anc" and sde.index(t)[i] == 0 and name == "ve"):
            close(weighted_sum_(x.clone(), a, (grad, b), (z, c)), arrays[f"{name}.{update}.x"][i])
        close(weighted_sum_(x.clone(), a, (grad, b)), arrays[f"{name}.{update}.x_mean"][i])


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("count", [1, 2])
def test_batch_corrector(name, count, reference, stored, close):
    arrays, description = reference("pc_one_step")
    low, high, n = description["params"][name]
    sde, t = Tables(KINDS[name](low, high), n), arrays["t"]
    langevin = Langevin(snr=0.16, steps=count, rule="batch")
    factor = 2 * langevin.snr**2 * sde.transition(t, t)[0] ** 2
    draws = stored([arrays["noise.0"], arrays["noise.1"]])
    x = arrays[f"{name}.x"].clone()
    got = langevin.correct(run_of(gaussian(arrays, sde.inner), draws), x, t, factor)
    close(got, arrays[f"{name}.langevin_{count}.x"])
    assert got is x


@pytest.mark.parametrize("name", ["vp", "ve"])
@pytest.mark.parametrize("count", [1, 2])
def test_marginal_corrector_is_annealed_langevin(name, count, reference, stored, close):
    arrays, description = reference("pc_one_step")
    low, high, n = description["params"][name]
    sde, t = KINDS[name](low, high), arrays["t"]
    langevin = Langevin(snr=0.16, steps=count, rule="marginal")
    ratios = Tables(sde, n).transition(t, t)[0] ** 2  # their 1 - beta; ours leaves it out
    factors = (torch.tensor(langevin.factors(sde, t), dtype=torch.float64) * ratios).tolist()
    for i in range(len(t)):
        draws = stored([arrays["noise.0"][[i]], arrays["noise.1"][[i]]])
        x = arrays[f"{name}.x"][[i]].clone()
        got = langevin.correct(run_of(gaussian(arrays, sde), draws), x, t[i], factors[i])
        close(got, arrays[f"{name}.ald_{count}.x"][[i]])


PREDICTORS = {"em": EulerOfOneOverN, "rd": ReverseDiffusion}
CASES = [
    "ve_rd_langevin",
    "vp_em",
    "vp_rd_langevin",
    "vp_anc_discrete",
    "ve_anc_ald_discrete",
    "subvp_rd",
    "vp_rd_ode",
    "ve_rd_ode",
]


def parts(case):
    """Our sampler of a stored case, over its N times."""
    small = "posterior" if case["sde"] == "ve" else "transition"
    predictor = {
        "em": EulerOfOneOverN(),
        "rd": ReverseDiffusion(eta=0.0 if case["probability_flow"] else 1.0),
        "anc": Ancestral(variance=small),
    }[case["predictor"]]
    corrector = {
        "none": lambda **_: Langevin(steps=0),
        "langevin": lambda **given: OfTheTable(rule="batch", **given),
        "ald": lambda **given: OfTheDeviation(rule="marginal", **given),
    }[case["corrector"]](snr=case["snr"], steps=case["n_steps"])
    return predictor, corrector


@pytest.mark.parametrize("name", CASES)
def test_whole_trajectories(name, reference, recorder, stored, table, close):
    arrays, description = reference("pc_trajectory")
    case = next(c for c in description["params"]["cases"] if c["name"] == name)
    n = description["params"]["N"]
    sde = Tables(KINDS[case["sde"]](*case["sde_parameters"]), n, not case["continuous"])
    predictor, corrector = parts(case)
    times = torch.linspace(1, case["eps"], n, dtype=torch.float64)
    sampler = PredictorCorrector(
        steps=n, grid=table(times), denoise=False, predictor=predictor, corrector=corrector
    )
    model = recorder(gaussian(arrays, sde))
    draws = stored(arrays[f"{name}.noise"])
    prior = arrays[f"{name}.prior_noise"]
    x = prior * sde.inner.sigma_max if case["sde"] == "ve" else prior.clone()
    # The iteration ends before the last predictor step, whose mean is theirs for a denoised result.
    run = Problem(model, times, draws, None, lambda: None)
    if case["probability_flow"]:
        assert all(row[2] == 0 for row in predictor.rows(sde, times))
    for _, state in sampler.iterate(run, x):
        x = state
    s = ((sde.index(times[-1:]) - 1).clamp(min=0) + 0.5) / (n - 1)
    a, b, c = (k.item() for k in predictor.coefficients(sde, times[-1:], s))
    score = model.score(x, times[-1])
    scaled = (lambda y: (y + 1) / 2) if case["inverse_scaler"] == "centered" else (lambda y: y)
    denoised = scaled(weighted_sum_(x.clone(), a, (score, b)))
    close(denoised, arrays[f"{name}.sample_denoised"])
    if name != "ve_anc_ald_discrete":  # at level 0 their ancestral step has no noise
        close(scaled(weighted_sum_(x, a, (score, b), (draws(), c))), arrays[f"{name}.sample_noisy"])
    close(torch.stack(model.states), arrays[f"{name}.net_x"], atol=1e-9)
    assert len(model.states) == int(arrays[f"{name}.net_calls"])


TURN = torch.tensor(
    [
        [5.7735014e-01, -8.1649649e-01, 4.7008697e-08],
        [5.7735026e-01, 4.0824834e-01, 7.0710671e-01],
        [5.7735026e-01, 4.0824822e-01, -7.0710683e-01],
    ],
    dtype=torch.float64,
)
"""From colors to gray and two more, to eight digits."""


def turned(x, matrix):
    return torch.einsum("bihw,ij->bjhw", x, matrix)


@pytest.mark.parametrize("task", ["inpaint", "colorize"])
@pytest.mark.parametrize("kind", ["vp_rd_langevin", "ve_rd_none"])
def test_inpainting_and_colorization(kind, task, reference, table, close):
    """Two images, each with its own mask and data; colors turned before and after."""
    arrays, description = reference("pc_inpaint_colorize")
    case = next(c for c in description["params"]["cases"] if c["name"] == kind)
    n, eps = description["params"]["N"], description["params"]["eps"]
    sde = Tables(KINDS[case["sde"]](*case["sde_parameters"]), n)
    draws = [arrays[f"{kind}.{task}.noise.{k:03d}"] for k in range(61 if "vp" in kind else 46)]
    prior = draws.pop(0) * float(sde.inner.sigma_max if case["sde"] == "ve" else 1.0)
    inverse = torch.linalg.inv(TURN)
    if task == "inpaint":
        mask, known = arrays["mask"], arrays["data"]
        there = back = lambda x: x
        start = known * mask + prior * (1 - mask)
    else:
        mask, known = torch.zeros_like(arrays["mask"]), turned(arrays["gray"], TURN)
        mask[:, 0] = 1
        there, back = (lambda x: turned(x, TURN)), (lambda x: turned(x, inverse))
        start = back(known * mask + there(prior * (1 - mask)))
    corrected = case["corrector"] == "langevin"
    of_known = (lambda k: k % 2) if corrected else (lambda k: k % 3 != 1)
    queue = iter([back(z) if of_known(k) else z for k, z in enumerate(draws)])
    corrector = OfTheTable(rule="batch", snr=case["snr"], steps=int(corrected))
    seen = Measurement(Mask(torch.ones(3, 3, 2, dtype=torch.bool)), torch.zeros(18), 1.0)
    times = torch.linspace(1, eps, n, dtype=torch.float64)
    sampler = PublishedInpainting(n, table(times), corrector=corrector, observation=seen)
    part = sampler._known
    part.spectrum = Spectrum(
        torch.ones(18), lambda x: (there(x) * mask).flatten(1),
        lambda c: back(c.reshape(2, 3, 3, 2) * mask), torch.clone, torch.clone,
    )  # fmt: skip
    part.y = known.flatten(1)
    got = sampler(gaussian(arrays, sde), start, noise=lambda: next(queue), progress=False)
    close(got, arrays[f"{kind}.{task}.result"])
    assert next(queue, None) is None
