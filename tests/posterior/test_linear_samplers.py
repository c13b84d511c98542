"""Posterior samplers for linear measurements: their moments by matrices alone, figures, faults."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from statistics import median

import numpy as np
import pytest
import torch
from linear_gaussian import divergence, moments, normal, problems
from posterior_linear import OPERATORS as LINEAR

from sde_score.models import GaussianMixture
from sde_score.posterior import (
    DAPS,
    DDNM,
    DDRM,
    SAMPLERS,
    Blur,
    DiffPIR,
    LogLikelihood,
    Mask,
    Matrix,
    MeanPool,
    Measurement,
    PnPDM,
)
from sde_score.samplers import NoiseRatios, Sampler, Times
from sde_score.sdes import EDM, VE, VP


@dataclass(frozen=True)
class Exact(Sampler):
    """A draw of x0 given x_t, for data that are N(0, covariance)."""

    covariance: object = None

    def iterate(self, problem, x):
        ratio = float(problem.sde.noise_ratio(problem.times[0]))
        c = self.covariance
        v = c - c @ torch.linalg.inv(c + ratio**2 * torch.eye(len(c)).double()) @ c
        x0 = problem.denoise(x, problem.times[0])
        yield 0.0, x0 + problem.noise() @ torch.linalg.cholesky(v).T

    ends_at_data = True


def samplers_of(problem):
    """Those of the table; `published` where ours are not."""
    seen = {"observation": problem.seen}
    exact = Exact(1, covariance=problem.data)
    return {
        "ddrm": DDRM(grid="karras", **seen),
        "ddnm": DDNM(grid="karras", **seen),
        "ddnm published": DDNM(grid="karras", published=True, **seen),
        "diffpir 7 .1": DiffPIR(grid="karras", zeta=0.1, **seen),
        "diffpir 1 1": DiffPIR(grid="karras", strength=1, zeta=1, **seen),
        "daps": DAPS(grid="karras(end=0.1)", **seen),
        "daps published": DAPS(grid="karras(end=0.1)", published=True, **seen),
        "pnp-dm .1": PnPDM(prior=exact, rho_min=0.1, published=True, **seen),
        "pnp-dm .3": PnPDM(prior=exact, rho_min=0.3, published=True, **seen),
    }


def decomposed(problem):
    u, sizes, vt = np.linalg.svd(problem.seen.operator.matrix.numpy())
    sizes = sizes[sizes > 1e-6]
    return u[:, : len(sizes)], sizes, vt


def denoiser(c, s):
    return c @ np.linalg.inv(c + s**2 * np.eye(len(c)))


def given_y(problem, spread, std):
    """Of N(x, spread^2) given y: the factor on x, the rest of the mean, and the covariance."""
    a, y = problem.seen.operator.matrix.numpy(), problem.seen.y.flatten().numpy()
    cov = np.linalg.inv(a.T @ a / std**2 + np.eye(a.shape[1]) / spread**2)
    return cov / spread**2, cov @ a.T @ y / std**2, cov


def ddrm(problem, s, t, std):
    u, sizes, vt = decomposed(problem)
    d, one = vt @ denoiser(problem.data.numpy(), s) @ vt.T, np.eye(8)
    kept = (1 - 0.85**2) ** 0.5
    factor = d + kept * t / s * (one - d)
    rest, q = np.zeros(8), np.full(8, (0.85 * t) ** 2)
    for i, size in enumerate(sizes):
        value, noise = (u.T @ problem.seen.y.flatten().numpy())[i] / size, std / size
        if t >= noise:
            factor[i], rest[i], q[i] = 0, value, t**2 - noise**2
        else:
            factor[i], rest[i] = (1 - kept * t / noise) * d[i], kept * t / noise * value
    return vt.T @ factor @ vt, vt.T @ rest, vt.T @ np.diag(q) @ vt


def ddnm(problem, s, t, std, published=False):
    u, sizes, vt = decomposed(problem)
    d, one = vt @ denoiser(problem.data.numpy(), s) @ vt.T, np.eye(8)
    kept = (1 - 0.85**2) ** 0.5 * t / s
    noise = std / sizes * (1 if published else 1 - kept)
    share = np.minimum(1, 0.85 * t / noise)
    q = np.full(8, (0.85 * t) ** 2)
    q[: len(sizes)] -= (share * noise) ** 2
    weight, rest = np.eye(8), np.zeros(8)
    weight[range(len(sizes)), range(len(sizes))] -= share
    rest[: len(sizes)] = share * (u.T @ problem.seen.y.flatten().numpy()) / sizes
    factor = weight @ d + kept * (one - (one if published else weight) @ d)
    rest = rest if published else (1 - kept) * rest
    return vt.T @ factor @ vt, vt.T @ rest, vt.T @ np.diag(q) @ vt


def diffpir(problem, s, t, std, strength, zeta):
    factor, rest, _ = given_y(problem, s / strength**0.5, std)
    kept, one = (1 - zeta) ** 0.5 * t / s, np.eye(8)
    d = denoiser(problem.data.numpy(), s)
    return (1 - kept) * factor @ d + kept * one, (1 - kept) * rest, zeta * t**2 * one


def daps(problem, s, t, std):
    factor, rest, cov = given_y(problem, s, std)
    way, flow, one = (
        [*np.linspace(s ** (1 / 7), 0.01 ** (1 / 7), 5) ** 7, 0.0],
        np.eye(8),
        np.eye(8),
    )
    for high, low in pairwise(way):
        d = denoiser(problem.data.numpy(), high)
        flow = (d + low / high * (one - d)) @ flow
    return factor @ flow, rest, cov + t**2 * one


def pnp_dm(problem, s, t, std):
    d = denoiser(problem.data.numpy(), s)
    if t == 0:
        return d, np.zeros(8), s**2 * d
    factor, rest, cov = given_y(problem, t, std)
    return factor @ d, rest, s**2 * factor @ d @ factor.T + cov


def step(name, problem, s, t):
    """Factor, rest and covariance of the step from the noise s to t."""
    std = float(problem.seen.variance) ** 0.5
    kind, _, given = name.partition(" ")
    return {
        "ddrm": lambda: ddrm(problem, s, t, std),
        "ddnm": lambda: ddnm(problem, s, t, std, given == "published"),
        "diffpir": lambda: diffpir(problem, s, t, std, *map(float, given.split())),
        "daps": lambda: daps(problem, s, t, std / 2**0.5 if given else std),
        "pnp-dm": lambda: pnp_dm(problem, s, t, std),
    }[kind]()


def recursion(name, problem, steps):
    if name.startswith("pnp"):
        times = np.maximum(10 * 0.9 ** np.arange(steps), float(name.split()[1]))
    else:
        ends = (100.0, 0.1) if name.startswith("daps") else (80.0, 0.002)
        times = np.linspace(*np.array(ends) ** (1 / 7), steps) ** 7
    mean, covariance = np.zeros(8), np.eye(8) * times[0] ** 2
    if name.startswith("pnp"):
        covariance = np.eye(8) * (times[0] ** 2 + 1)
    for s, t in zip(times, [*times[1:], 0.0], strict=True):
        factor, rest, q = step(name, problem, s, t)
        mean, covariance = factor @ mean + rest, factor @ covariance @ factor.T + q
    return torch.from_numpy(mean), torch.from_numpy(covariance)


def problems_of(name, std, count=20):
    ends = (0.01, 100.0) if name.startswith("daps") else (0.002, 80.0)
    return problems(std, EDM(*ends), count=count)


NAMES = list(samplers_of(next(problems(0.1))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("std", [0.1, 0.5])
def test_samples_have_the_moments_of_the_formulas(name, std):
    problem = next(islice(problems_of(name, std), 2, 3))
    sampler = replace(samplers_of(problem)[name], steps=7)
    found = moments(sampler, problem.prior, (8,), draws=2)
    for ours, exact in zip(found, recursion(name, problem, 7), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "std"), list(zip(LINEAR, [0.05, 0.3, 1.0, 0.05, 0.3], strict=True)), ids=LINEAR
)
def test_moments_on_every_operator(kind, std):
    """With closed forms of the decomposition, or of a low-rank matrix; at three noises."""
    for name in ("ddrm", "ddnm", "diffpir 7 .1", "daps", "pnp-dm .1"):
        ends = (0.01, 100.0) if name == "daps" else (0.002, 80.0)
        problem = next(problems(std, EDM(*ends), operator=LINEAR[kind]))
        sampler = replace(samplers_of(problem)[name], steps=6)
        found = moments(sampler, problem.prior, (1, 8), draws=2)
        for ours, exact in zip(found, recursion(name, problem, 6), strict=True):
            torch.testing.assert_close(ours, exact, rtol=2e-6, atol=1e-7, msg=name)


FIGURES = {
    ("ddrm", 0.1): (20, 1.28),
    ("ddrm", 0.5): (20, 1.17),
    ("diffpir 7 .1", 0.1): (20, 2.2),
    ("diffpir 7 .1", 0.5): (20, 0.37),
    ("diffpir 1 1", 0.1): (20, 1.6),
    ("diffpir 1 1", 0.5): (20, 1.65),
    ("daps", 0.1): (20, 4.4),
    ("daps", 0.5): (20, 3.7),
    ("daps published", 0.1): (20, 4.7),
    ("daps published", 0.5): (20, 4.2),
    ("pnp-dm .1", 0.1): (20, 28),
    ("pnp-dm .1", 0.5): (100, 0.0019),
    ("pnp-dm .3", 0.1): (100, 5.6),
    ("pnp-dm .3", 0.5): (100, 0.031),
}
"""KL of the same problems by formulas in NumPy. That of DDNM without the noise of y has no place
here: what is measured gets no spread at all, so that it is infinite."""


@pytest.mark.parametrize(("name", "std"), FIGURES)
def test_the_formulas_have_the_figures_of_the_table(name, std):
    """Medians over twenty problems."""
    steps, figure = FIGURES[name, std]
    found = [
        divergence(*recursion(name, each, steps), each.mean, each.covariance)
        for each in problems_of(name, std)
    ]
    assert median(found) == pytest.approx(figure, rel=0.03)


def test_split_gibbs_is_exact_where_y_is_less_precise_than_the_last_rho():
    """Published, it converges to the posterior of a noisier y, at a divergence of .03."""
    problem = next(problems(0.5))
    prior = Exact(1, covariance=problem.data)
    found = {}
    for published in (False, True):
        sampler = PnPDM(40, prior=prior, decay=0.8, published=published, observation=problem.seen)
        mean, covariance = moments(sampler, problem.prior, (8,), draws=2)
        found[published] = divergence(mean, covariance, problem.mean, problem.covariance)
        assert sampler.limit.startswith("biased" if published else "exact")
    assert PnPDM(rho_min=0.7, observation=problem.seen).limit.startswith("biased: as if y were")
    assert found[False] < 1e-4
    assert found[True] > 0.01


def every(seen, **given):
    """Each sampler, cheap, for any diffusion."""
    rows = {
        "ddrm": {},
        "ddnm": {"jump": 2, "resample": 2},
        "diffpir": {},
        "pnp-dm": {"prior": "ancestral(steps=3)"},
        "daps": {},
    }
    return {
        name: SAMPLERS.create(name, observation=seen, **{"steps": 5, **row, **given})
        for name, row in rows.items()
    }


OPERATORS = {
    "mask": Mask(torch.tensor([[True, False, True, False, True, True]])),
    "blur": Blur((1, 6), torch.tensor([0.25, 0.5, 0.25])),
    "pool": MeanPool((1, 6), 2),
    "composed": MeanPool((1, 6), 2) @ Blur((1, 6), torch.tensor([0.25, 0.5, 0.25])),
    "low-rank": Matrix(normal(4, 2) @ normal(2, 6, seed=1), (1, 6)),
}


@pytest.mark.parametrize("name", ["mask", "composed"])
def test_samples_depend_on_their_seed_alone(name):
    operator = OPERATORS[name]
    seen = Measurement(operator, normal(*operator.measured_shape), 0.2)
    prior = GaussianMixture(torch.stack([torch.zeros(1, 6), torch.ones(1, 6)]), 0.3, VP())
    for name, sampler in every(seen, steps=3).items():
        whole = sampler(prior, (4, 1, 6), seed=[3, 1, 4, 5], progress=False)
        parts = [sampler(prior, (2, 1, 6), seed=two, progress=False) for two in ([4, 5], [3, 1])]
        torch.testing.assert_close(whole, torch.cat(parts[::-1]), rtol=1e-4, atol=1e-4, msg=name)
        assert whole.isfinite().all()
        assert sampler.count_nfe(VP()) == (sampler.run(prior, (1, 1, 6), progress=False)).nfe
        assert sampler.limit in str(sampler)


def test_samples_are_those_of_any_diffusion_with_the_same_noise_ratios():
    """VP's start and states are those of VE times alpha, but for the little of x0 at the start."""
    ratios = NoiseRatios(ratios=(50.0, 8.0, 2.0, 0.5, 0.1))
    seen = Measurement(OPERATORS["blur"], normal(1, 6), 0.3)
    sdes = VE(0.01, 50.0), VP(beta_max=2 * math.log(1 + 50.0**2) - 0.1)
    ends = [float(sde.noise_ratio(sde.t_max)) for sde in sdes]
    assert ends[1] == pytest.approx(ends[0])
    draws = normal(60, 2, 1, 6, seed=4)
    for name, sampler in every(seen, grid=ratios).items():
        out = []
        for sde in sdes:
            prior = GaussianMixture(normal(1, 1, 6, seed=5), 0.4, sde)
            noise = iter(draws)
            first = float(sde.alpha(sampler.start_time(sde))) * 50 * draws[-1]
            out.append(sampler(prior, first, noise=lambda n=noise: next(n), progress=False))
        if name in ("pnp-dm", "daps"):  # their inner times end where the diffusion does
            assert (out[0] - out[1]).abs().max() < 0.1
        else:
            torch.testing.assert_close(*out, rtol=1e-4, atol=1e-4, msg=name)


def test_ddrm_takes_y_where_the_noises_are_equal():
    seen = Measurement(OPERATORS["mask"], normal(4), 0.5)
    prior = GaussianMixture(torch.zeros(1, 1, 6), 1.0, EDM())
    sampler = DDRM(3, Times(at=(80.0, 0.5, 0.1)), observation=seen)
    states = sampler(prior, (2, 1, 6), seed=0, trajectory=True, progress=False).states
    torch.testing.assert_close(OPERATORS["mask"](states[1]), seen.y.expand(2, 4))


def test_diffpir_ends_at_a_step_towards_y():
    """With conjugate gradients, where no decomposition is in closed form, as well."""
    prior = GaussianMixture(torch.zeros(1, 1, 6), 1.0, EDM())
    for operator in OPERATORS.values():
        y = operator(normal(1, 1, 6, seed=2))[0]
        sampler = DiffPIR(3, Times(at=(80.0, 4.0, 2.0)), observation=Measurement(operator, y, 1e-3))
        x = sampler(prior, (2, 1, 6), seed=0, progress=False)
        torch.testing.assert_close(operator(x), y.expand(2, *y.shape), rtol=0, atol=0.02)


def test_langevin_draws_what_the_exact_step_draws():
    """Many steps on one coordinate: mean and variance; a likelihood by its function alike."""
    prior = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), 1.0, EDM())
    seen = Measurement(Matrix(torch.ones(1, 1)), torch.tensor([0.7]), 0.4)
    free = LogLikelihood(seen.log_prob)
    given = {"langevin": 60, "step_size": 0.02}
    grid = Times(at=(1.0,))
    draws = normal(61, 4000, 1)
    out = [
        DAPS(1, grid, observation=observation, **given)(
            prior, draws[0], noise=iter(draws).__next__, progress=False
        )
        for observation in (seen, free)
    ]
    torch.testing.assert_close(*out)
    assert float(out[0].var()) == pytest.approx(0.16 / 1.16, rel=0.2)
    assert float(out[0].mean()) == pytest.approx(0.7 / 1.16, abs=0.03)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda seen: DDRM(eta=1.5, observation=seen), r"eta=1\.5; accepted: a number from 0 to 1"),
        (lambda seen: DDNM(eta=0, observation=seen), "eta"),
        (lambda seen: DDNM(resample=0, observation=seen), "resample"),
        (lambda seen: DiffPIR(strength=0, observation=seen), "strength"),
        (lambda seen: PnPDM(prior="ddim", observation=seen), "draw noise"),
        (lambda seen: PnPDM(decay=1, observation=seen), "decay=1"),
        (lambda seen: PnPDM(rho_min=20, observation=seen), "rho_m"),
        (lambda seen: DAPS(ode="ancestral", observation=seen), "draw no noise"),
        (lambda seen: DAPS(observation=LogLikelihood(sum)), "DAPS needs a Measurement"),
        (lambda seen: DDRM(observation=LogLikelihood(sum)), "DDRM needs a Measurement"),
    ],
)
def test_wrong_arguments_are_refused(make, said):
    with pytest.raises((ValueError, TypeError), match=said):
        make(Measurement(Matrix(torch.ones(1, 2)), torch.ones(1), 0.1))
