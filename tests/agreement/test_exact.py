"""Where the views are one and the same: identities of one network, to rounding in float64.

Each truth is written out here from the paper of its view, with numpy-like arithmetic alone, and not
taken from the room that is tested.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from sde_score import samplers
from sde_score.discrete import HierarchicalVAE, NoiseScales
from sde_score.objectives import DenoisingScoreMatching
from sde_score.samplers import DDIM, Ancestral, Multistep, Times
from sde_score.samplers.published import constructors
from sde_score.sdes import EDM, VE, VP, SubVP

ROUNDING = {"rtol": 1e-10, "atol": 1e-10}
LEVELS = torch.linspace(-4.0, 5.5, 9, dtype=torch.float64)  # log signal-to-noise ratios, rising


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_ladder_of_ncsn_is_the_ve_diffusion_at_its_sigmas():
    """sigma_i geometric; x | x0 ~ N(x0, sigma_i^2); climbing a rung adds sigma_i^2 - sigma_j^2."""
    rungs = 50.0 * (0.01 / 50.0) ** (torch.arange(232, dtype=torch.float64) / 231)
    ladder = NoiseScales.geometric(50.0, 0.01, 232)
    torch.testing.assert_close(ladder.sigmas, rungs, **ROUNDING)
    sde = ladder.sde
    assert sde == VE(0.01, 50.0)
    t = ladder.times(sde)
    torch.testing.assert_close(sde.sigma(t), rungs, **ROUNDING)
    assert torch.equal(sde.alpha(t), torch.ones(232, dtype=torch.float64))
    scale, std = sde.transition(t[1:], t[:-1])
    torch.testing.assert_close(std**2, rungs[:-1] ** 2 - rungs[1:] ** 2, **ROUNDING)
    assert torch.equal(scale, torch.ones(231, dtype=torch.float64))


def test_any_diffusion_has_a_ladder(sde):
    """x_t / alpha has noise sigma / alpha: the rungs, met exactly at the ladder's times."""
    ladder = NoiseScales.from_sde(sde, 12)
    t = ladder.times(sde)
    torch.testing.assert_close(sde.sigma(t) / sde.alpha(t), ladder.sigmas, **ROUNDING)


def test_the_chain_of_ddpm_is_the_vp_diffusion_at_its_times():
    """beta_i = 1 - exp(-B(t_i) + B(t_{i-1})), B the integral of beta; the product of the alphas
    telescopes to alpha(t)^2."""
    sde, n = VP(0.1, 20.0), 1000
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    vae = HierarchicalVAE(sde, t)
    integral = 0.1 * t + 0.5 * 19.9 * t**2
    betas = -torch.expm1(-torch.diff(integral, prepend=integral.new_zeros(1)))
    torch.testing.assert_close(vae.encoder.betas, betas, rtol=1e-10, atol=0)
    products = (1 - vae.encoder.betas).cumprod(0)
    torch.testing.assert_close(products, sde.alpha(t) ** 2, **ROUNDING)
    torch.testing.assert_close(1 - products, sde.sigma(t) ** 2, **ROUNDING)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_published_chains_are_diffusions_too(kind):
    """Given betas, a diffusion runs through the chain: its marginals at i/n are the products."""
    if kind == "linear":
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    else:
        f = torch.cos((torch.arange(1001).double() / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    vae = HierarchicalVAE.from_betas(betas)
    products = (1 - betas).cumprod(0)
    torch.testing.assert_close(vae.sde.alpha(vae.times) ** 2, products, **ROUNDING)
    torch.testing.assert_close(vae.sde.sigma(vae.times) ** 2, 1 - products, **ROUNDING)
    torch.testing.assert_close(vae.encoder.betas, betas, rtol=1e-9, atol=1e-12)


def test_the_posterior_of_the_chain_is_bayes_rule_on_the_kernels(sde):
    """q(x_s | x_t, x0) prop. to q(x_t | x_s) q(x_s | x0), both exact kernels of the diffusion:
    precisions add, and so do precision-weighted means."""
    t = sde.time_of_log_snr(LEVELS.flip(0))
    vae = HierarchicalVAE(sde, t)
    x0, xt = draw(4, 3), draw(4, 3, seed=1)
    for i in range(2, len(t) + 1):
        s, late = t[i - 2], t[i - 1]
        scale, std = (v.item() for v in sde.transition(s, late))
        prior_mean, prior_std = sde.alpha(s).item() * x0, sde.sigma(s).item()
        precision = 1 / prior_std**2 + scale**2 / std**2
        mean = (prior_mean / prior_std**2 + scale * xt / std**2) / precision
        found = vae.encoder.posterior(xt, x0, i)
        torch.testing.assert_close(found.mean, mean, **ROUNDING)
        want = torch.full_like(x0, precision**-0.5)
        torch.testing.assert_close(found.std.expand_as(x0), want, **ROUNDING)


def test_the_losses_of_ddpm_ncsn_and_sde_are_one(network):
    """With matched t, z and weights: |z - eps(x)|^2, sigma^2 |s(x) + z / sigma|^2 and
    sigma^2 |s(x_t, t) - grad log p(x_t | x0)|^2."""
    sde, n = network.sde, 50
    x0, z, i = draw(6, 2), draw(6, 2, seed=1), torch.tensor([1, 3, 10, 25, 40, 50])
    now = i.double() / n
    vae = HierarchicalVAE(sde, torch.arange(1, n + 1, dtype=torch.float64) / n)
    # DDPM: indices and products of betas, nothing of t but the network's own label.
    products = (1 - vae.encoder.betas).cumprod(0)[i - 1][:, None]
    xt = products.sqrt() * x0 + (1 - products).sqrt() * z
    ddpm = (z - network.noise(xt, now)).square().mean(1)
    # NCSN, in its own coordinates y = x / alpha: s_y = alpha s_x, noise of sigma / alpha.
    ladder = NoiseScales((vae.sde.sigma(vae.times) / vae.sde.alpha(vae.times)).flip(0))
    sigma = ladder.sigmas[n - i][:, None]
    y, t = x0 + sigma * z, ladder.times(sde)[n - i]
    alpha = sde.alpha(t)[:, None]
    score = alpha * network.score(alpha * y, t)
    ncsn = (sigma**2 * (score + z / sigma) ** 2).mean(1)
    # Score SDE, eq. 7, lambda = sigma^2.
    a, s = sde.alpha(now)[:, None], sde.sigma(now)[:, None]
    kernel_score = -(xt - a * x0) / s**2
    continuous = (s**2 * (network.score(xt, now) - kernel_score) ** 2).mean(1)
    ours = DenoisingScoreMatching().at(network, x0, now, z)
    for name, loss in {"ncsn": ncsn, "sde": continuous, "ours": ours}.items():
        torch.testing.assert_close(loss, ddpm, **ROUNDING, msg=lambda m, n=name: f"{n}: {m}")
    # Likelihood weighting is g^2 on the score error.
    weighted = DenoisingScoreMatching(weighting="likelihood").at(network, x0, now, z)
    g = sde.diffusion(now)
    torch.testing.assert_close(weighted, g**2 / s[:, 0] ** 2 * ddpm, **ROUNDING)


def test_networks_of_noise_data_velocity_and_score_have_one_elbo(rereadings):
    """Four readings of one function: every layer of the bound is the same number."""
    x0 = draw(3, 2)
    vae = HierarchicalVAE.from_sde(VP(), 40)
    bounds = {p: vae.elbo(model, x0, seed=0) for p, model in rereadings.items()}
    truth = bounds["noise"]
    assert truth.layers.shape == (39, 3)
    assert bool((truth.layers > 0).all())
    for found in bounds.values():
        torch.testing.assert_close(found.layers, truth.layers, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(found.reconstruction, truth.reconstruction, rtol=1e-8, atol=0)
        torch.testing.assert_close(found.prior, truth.prior, **ROUNDING)


def test_ddim_solves_the_ode_for_a_constant_noise_prediction(sde):
    """dx/dt = f x + g^2 / (2 sigma) eps, variation of constants by quadrature."""
    late, early = (float(sde.time_of_log_snr(v)) for v in (-1.0, 2.5))

    def integrand(t):
        return float(0.5 * sde.diffusion(t) ** 2 / (sde.sigma(t) * sde.alpha(t)))

    integral, _ = quad(integrand, late, early, epsabs=1e-13, epsrel=1e-13, limit=200)
    on_x = float(sde.alpha(early) / sde.alpha(late))
    on_noise = float(sde.alpha(early)) * integral
    t, s = (torch.tensor([v], dtype=torch.float64) for v in (late, early))
    a, b, c = (float(v) for v in DDIM(eta=0.0).coefficients(sde, t, s))
    assert a == pytest.approx(on_x, rel=1e-10)
    assert -b / float(sde.sigma(late)) == pytest.approx(on_noise, rel=1e-9)  # score = -eps / sigma
    assert c == 0


def run(sampler, model, start, seed=3):
    """Samples, with noise that is the same for every sampler and step."""
    generator = torch.Generator().manual_seed(seed)
    return sampler(
        model,
        start,
        noise=lambda: torch.randn(start.shape, generator=generator, dtype=torch.float64),
        progress=False,
    )


@pytest.mark.parametrize("which", ["mixture", "network"])
def test_ddim_with_eta_1_is_ancestral_sampling(which, request):
    model = request.getfixturevalue(which)
    model = model(VP()) if which == "mixture" else model
    start = draw(8, 2)
    ddim, ancestral = DDIM(steps=30, eta=1.0), Ancestral(steps=30, variance="posterior")
    torch.testing.assert_close(run(ddim, model, start), run(ancestral, model, start), **ROUNDING)


def test_ancestral_sampling_draws_from_the_conditionals_of_the_hierarchical_vae(network):
    """x_{i-1} ~ p(x_{i-1} | x_i), layer by layer by hand."""
    vae = HierarchicalVAE.from_sde(VP(), 20)
    start, x = draw(8, 2), draw(8, 2)
    found = run(vae.ancestral(), network, start)
    generator = torch.Generator().manual_seed(3)
    for i in range(20, 1, -1):
        distribution = vae.decoder.step(network, x, i)
        x = distribution.mean + distribution.std * torch.randn(
            x.shape, generator=generator, dtype=torch.float64
        )
    torch.testing.assert_close(found, vae.decoder.data(network, x).mean, **ROUNDING)


SAME = {
    "ddim": {"eta": 0.0},
    "ddim, noisy": {"eta": 0.7},
    "ancestral": {},
    "heun": {},
    "heun, churned": {"churn": 5.0},
    "annealed-langevin": {"steps_each": 3},
    **{
        name: {} for name in constructors(Multistep) if name not in ("deis", "adams-time")
    },  # of one clock
    "multistep, to the data": {"final_order": 3, "corrector": 2, "coordinate": "angle"},
    "multistep, on the circle": {"prediction": "angular", "eta": 0.6},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize(
    "other", [VE(0.01, 80.0), EDM(0.002, 90.0), SubVP(), VP(0.3, 12.0)], ids=str
)
def test_samplers_map_between_diffusions_as_their_states_do(name, other, mixture):
    """The distribution of x_t / alpha_t depends on sigma / alpha alone: at times of equal noise and
    from the same x / alpha, samples of VP and of any other are the same. (Not so for the wide
    variance of ancestral sampling, which is that of a step of x and not of x / alpha.)"""
    vp = VP()
    times = vp.time_of_log_snr(LEVELS)
    matched = other.time_of_log_snr(LEVELS)
    y, results = draw(16, 2), []
    for sde, at in ((vp, times), (other, matched)):
        sampler = samplers.create(
            name.split(",")[0], steps=len(at), grid=Times(tuple(at.tolist())), **SAME[name]
        )
        results.append(run(sampler, mixture(sde), y * sde.sigma(at[0])))
    torch.testing.assert_close(*results, **ROUNDING)


def test_models_of_one_distribution_agree_across_diffusions(sde, mixture):
    """E[x0 | x_t] is a function of x_t / alpha_t and of sigma_t / alpha_t."""
    x, truth = draw(5, 2), mixture(EDM())
    for level in LEVELS:
        t, s = sde.time_of_log_snr(level), EDM().time_of_log_snr(level)
        found = mixture(sde).denoise(x * sde.alpha(t), t)
        torch.testing.assert_close(found, truth.denoise(x, s), **ROUNDING)
