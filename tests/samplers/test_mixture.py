"""Two modes: ODE samplers against an independent solver, all samplers against the distribution
itself by Kolmogorov-Smirnov tests."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from scipy import stats
from scipy.integrate import solve_ivp

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.sdes import EDM, VE, VP, Cosine, Rectified, SubVP

MEANS = torch.tensor([[-1.0, 0.5], [0.8, -0.6]], dtype=torch.float64)
VARIANCES = torch.tensor([[0.05, 0.2], [0.1, 0.06]], dtype=torch.float64)
WEIGHTS = [0.3, 0.7]
WIDE = [VP(), SubVP(), Cosine(), VE(0.01, 20.0), EDM(0.01, 20.0), Rectified()]


def mixture(sde):
    return GaussianMixture(MEANS, VARIANCES, sde, WEIGHTS)


ORDERS = {"euler-maruyama(eta=0)": 1, "reverse-diffusion(eta=0)": 1, "ddim": 1, "heun": 2}


@cache
def solved(sde):
    """Log signal-to-noise ratios, a start at the first of them and where the flow takes it."""
    first, last = sde.log_snr(sde.time_of_log_snr(torch.tensor([-3.5, 3.0]).double()))
    start = math.exp(-0.5 * first) * sde.alpha(sde.time_of_log_snr(first))
    x = start * torch.tensor([[0.7, -0.2], [-1.1, 0.4], [0.1, 1.3]], dtype=torch.float64)
    field = sde.probability_flow(mixture(sde).score)

    def slope(t, state):
        point = torch.as_tensor(state).reshape(3, 2)
        return field(point, torch.tensor(t, dtype=torch.float64)).flatten().numpy()

    between = tuple(float(sde.time_of_log_snr(value)) for value in (first, last))
    truth = solve_ivp(slope, between, x.flatten().numpy(), "DOP853", rtol=1e-9, atol=1e-10)
    return first, last, x, torch.as_tensor(truth.y[:, -1])


@pytest.mark.paired("name", ORDERS)
def test_order_on_a_mixture(sde, name, table):
    model, steps = mixture(sde), (64, 128)
    first, last, x, truth = solved(sde)
    errors = []
    for n in steps:
        grid = table(sde.time_of_log_snr(torch.linspace(first, last, n + 1, dtype=torch.float64)))
        got = samplers.create(name, steps=n, grid=grid, denoise=False)(model, x, progress=False)
        errors.append((got.flatten() - truth).norm().item())
    assert errors[-1] < 0.05
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[name], abs=0.2), errors


def check_distribution(samples):
    """Two projections by KS tests, and the weight of a mode; one in a thousand would fail."""
    for direction in ([1.0, 0.0], [0.6, 0.8]):
        along = torch.tensor(direction, dtype=torch.float64)
        centers, widths = MEANS @ along, (VARIANCES @ along**2).sqrt()

        def cdf(v, centers=centers, widths=widths):
            parts = zip(WEIGHTS, centers.tolist(), widths.tolist(), strict=True)
            return sum(w * stats.norm.cdf(v, c, s) for w, c, s in parts)

        result = stats.kstest((samples.double() @ along).numpy(), cdf)
        assert result.pvalue > 1e-3, (direction, result)
    in_first = (torch.cdist(samples.double(), MEANS).argmin(1) == 0).double().mean().item()
    assert in_first == pytest.approx(0.3, abs=4 * (0.21 / len(samples)) ** 0.5 + 0.005)


SETTINGS = {
    "euler-maruyama": {"steps": 150},
    "reverse-diffusion": {"steps": 150},
    "ancestral": {"steps": 100},
    "seeds-1": {"steps": 100},
    "dpmpp-1-sde": {"steps": 100},
    "ddim": {"steps": 60},
    "pc": {"steps": 100},
    "annealed-langevin": {"steps": 30, "steps_each": 15, "step_ratio": 0.2},
    "parallel": {"steps": 60, "tolerance": 1e-4},
    "ode": {"steps": 2},
    "dpm-adaptive": {"steps": 2},
    "adaptive-sde": {"steps": 2},
}
EVERY = [name for name in samplers.available() if name != "mcmc"]  # which stays at one time


@pytest.mark.parametrize("name", EVERY)
def test_every_sampler_draws_from_the_mixture(name):
    sampler = samplers.create(name, **SETTINGS.get(name, {"steps": 40}), grid="log_snr")
    check_distribution(sampler(mixture(VE(0.01, 20.0)), (1500, 2), seed=3, progress=False))


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        (name, sde)
        for turn, name in enumerate(["pc(predictor='ancestral')", "ancestral", "ddim"])
        for sde in WIDE[turn % 2 :: 2]
    ],
)
def test_three_samplers_draw_from_the_mixture_on_every_sde(name, sde):
    sampler = samplers.create(name, steps=80, grid="log_snr")
    check_distribution(sampler(mixture(sde), (1000, 2), seed=5, progress=False))


def test_a_spec_names_churn():
    sampler = samplers.create("heun(churn=5.0)", steps=40, grid="karras")
    assert sampler.stochastic
    check_distribution(sampler(mixture(EDM(0.01, 20.0)), (1500, 2), seed=7, progress=False))
