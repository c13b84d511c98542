"""Where a view is the limit of another: the error falls at the proved rate, in exact expectations.

On data N(m, v) every chain is affine in its start and its noise, so its distribution follows from
unit inputs without a random number; the truths are moment equations, solved by scipy, and
quadrature.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from sde_score.discrete import HierarchicalVAE, NoiseScales
from sde_score.models import GaussianMixture
from sde_score.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Langevin,
    PredictorCorrector,
    ReverseDiffusion,
    Times,
)
from sde_score.sdes import VE, VP

M, V = 0.8, 0.3


def one(sde):
    """Data N(M, V) on the line."""
    return GaussianMixture([[M]], V, sde)


def affine(sampler, model, draws):
    """Output at start 0 without noise, and its factors on the start and on each draw, of which
    there are `draws` at most."""
    size = 1 + draws
    inputs = torch.cat([torch.zeros(1, size), torch.eye(size)]).double()
    columns = iter(inputs[:, 1:].unbind(1))
    out = sampler(model, inputs[:, :1], noise=lambda: next(columns)[:, None], progress=False)[:, 0]
    return out[0].item(), (out[1] - out[0]).item(), out[2:] - out[0]


def distribution(sampler, model, start_mean, start_var, draws):
    """Mean and variance of the output for a normal start."""
    offset, of_start, of_noise = affine(sampler, model, draws)
    variance = of_start**2 * start_var + of_noise.square().sum().item()
    return offset + of_start * start_mean, variance


def reverse_sde_distribution(sde, start, end, mean, variance):
    """Moments of dx = (f x - g^2 score) dt + g dw run from `start` down to `end`, by scipy."""

    def change(t, moments):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        f, g2 = float(sde.drift_rate(t)), float(sde.diffusion(t)) ** 2
        width = alpha**2 * V + sigma**2
        rate = f + g2 / width  # the score is -(x - alpha M) / width
        return [rate * moments[0] - g2 * alpha * M / width, 2 * rate * moments[1] - g2]

    path = solve_ivp(change, (start, end), [mean, variance], rtol=1e-11, atol=1e-12, method="LSODA")
    return path.y[:, -1]


def order(steps, errors):
    """Slope between the two finest runs."""
    return -math.log(errors[-1] / errors[-2]) / math.log(steps[-1] / steps[-2])


CHAINS = {
    "ancestral": lambda **way: Ancestral(**way),
    "ancestral, wide": lambda **way: Ancestral(variance="transition", **way),
    "reverse-diffusion": lambda **way: ReverseDiffusion(**way),
    "euler-maruyama": lambda **way: EulerMaruyama(**way),
    "ddim(eta=1)": lambda **way: DDIM(eta=1.0, **way),
}


@pytest.mark.paired("name", CHAINS)
def test_chains_tend_to_the_distribution_of_the_reverse_sde(sde, name):
    """From a start other than the marginal, the limit is still the distribution of the SDE."""
    ends = [float(sde.time_of_log_snr(v)) for v in (-3.0, 3.0)]
    mean, variance = 0.4 * float(sde.sigma(ends[0])), 1.7 * float(sde.sigma(ends[0])) ** 2
    truth = reverse_sde_distribution(sde, *ends, mean, variance)
    steps, errors = (300, 600) if name == "euler-maruyama" else (75, 150), []
    for n in steps:
        levels = torch.linspace(-3.0, 3.0, n + 1, dtype=torch.float64)
        times = sde.time_of_log_snr(levels).tolist()
        sampler = CHAINS[name](steps=n, grid=Times(tuple(times)), denoise=False)
        found = distribution(sampler, one(sde), mean, variance, n)
        errors.append(np.abs(np.subtract(found, truth)))
    for k in (0, 1):
        error = [float(e[k]) for e in errors]
        assert error[-1] < 0.05 * truth[k]
        # Ancestral steps keep the mean of normal data exactly.
        assert max(error) < 1e-9 or order(steps, error) == pytest.approx(1, abs=0.2), error


@pytest.mark.paired("corrections", [0, 1, 4], every=3)
def test_predictor_corrector_tends_to_the_marginals_for_any_number_of_corrections(sde, corrections):
    """The corrector's bias is of the order of its step, which falls with n."""
    ends = sde.time_of_log_snr(torch.tensor([-3.0, 3.0], dtype=torch.float64))
    moments = [
        ((a * M).item(), (a**2 * V + s**2).item())
        for a, s in zip(sde.alpha(ends), sde.sigma(ends), strict=True)
    ]
    steps, errors = (50, 100), []
    for n in steps:
        times = sde.time_of_log_snr(torch.linspace(-3.0, 3.0, n + 1, dtype=torch.float64)).tolist()
        corrector = Langevin(snr=n**-0.5, steps=corrections)
        sampler = PredictorCorrector(
            steps=n, grid=Times(tuple(times)), denoise=False, corrector=corrector
        )
        found = distribution(sampler, one(sde), *moments[0], (n + 1) * (1 + corrections))
        errors.append(abs(found[1] - moments[1][1]))
    assert errors[-1] < 0.05 * moments[1][1]
    assert order(steps, errors) == pytest.approx(1, abs=0.2), errors


def test_annealed_langevin_has_the_variance_of_its_recursion():
    """v <- (1 - a / w)^2 v + 2 a at a = r sigma^2, w = V + sigma^2, rung by rung by hand."""
    ladder, r, each = NoiseScales.geometric(8.0, 0.1, 7), 0.05, 9
    sampler = ladder.sampler(steps_each=each, step_ratio=r, denoise=False)
    mean, variance = 0.0, 64.0
    expected = variance
    for sigma in ladder.sigmas.tolist():
        pull = r * sigma**2 / (V + sigma**2)
        for _ in range(each):
            mean = mean + pull * (M - mean)
            expected = (1 - pull) ** 2 * expected + 2 * r * sigma**2
    found = distribution(sampler, one(ladder.sde), 0.0, variance, 7 * each)
    assert found == pytest.approx((mean, expected), rel=1e-10)


def test_annealed_langevin_tends_to_the_data_distribution_with_the_bias_of_its_step():
    """Settled at the last rung the variance is w / (1 - r sigma^2 / 2 w): a bias r sigma^2 / 2."""
    ladder, ratios, errors = NoiseScales.geometric(2.0, 0.4, 3), (0.2, 0.1), []
    sigma = ladder.sigmas[-1].item()
    for r in ratios:
        each = round(24 / r)
        sampler = ladder.sampler(steps_each=each, step_ratio=r, denoise=False)
        mean, variance = distribution(sampler, one(ladder.sde), 0.0, 4.0, 3 * each)
        width = V + sigma**2
        assert mean == pytest.approx(M, abs=1e-6)
        assert variance == pytest.approx(width / (1 - 0.5 * r * sigma**2 / width), rel=1e-6)
        errors.append(variance - width)
    assert errors[1] == pytest.approx(0.5 * ratios[1] * sigma**2, rel=0.02)
    assert order([1 / r for r in ratios], errors) == pytest.approx(1, abs=0.05)


def nodes(count=40):
    """Nodes and weights of an average over N(0, 1)."""
    z, w = np.polynomial.hermite_e.hermegauss(count)
    return torch.as_tensor(z), torch.as_tensor(w / w.sum())


def exact_layers(vae, model, x0):
    """Each layer's KL averaged over x_i given x0 by quadrature."""
    z, w = nodes()
    total = 0.0
    for i in range(2, len(vae) + 1):
        distribution_i = vae.encoder.marginal(torch.full((1, 1), x0, dtype=torch.float64), i)
        xi = (distribution_i.mean + distribution_i.std * z[:, None]).double()
        start = torch.full_like(xi, x0)
        total += float(w @ vae.encoder.posterior(xi, start, i).kl(vae.decoder.step(model, xi, i)))
    return total


def continuous_layers(vae, model, x0):
    """1/2 the integral of E |eps(x) - eps|^2 over the log signal-to-noise ratio of the layers."""
    sde, (z, w) = model.sde, nodes()

    def integrand(log_snr):
        t = sde.time_of_log_snr(log_snr)
        x = sde.alpha(t) * x0 + sde.sigma(t) * z
        return 0.5 * float(w @ (model.noise(x[:, None], t)[:, 0] - z).square())

    ends = vae.log_snrs[-1].item(), vae.log_snrs[0].item()
    return quad(integrand, *ends, epsrel=1e-7, limit=200)[0]


@pytest.mark.parametrize("distribution_name", ["gaussian", "mixture"])
@pytest.mark.parametrize("on", [VP(), VE(0.05, 9.0)], ids=["VP", "VE"])
def test_the_bound_of_n_layers_tightens_to_the_continuous_bound_as_1_over_n(distribution_name, on):
    """A layer of width h costs (e^h - 1 - h) / h of its own more: h / 2, so 1 / n in all."""
    model = (
        one(on) if distribution_name == "gaussian" else GaussianMixture([[1.2], [-0.6]], 0.2, on)
    )
    steps = (25, 50, 100)
    vaes = [HierarchicalVAE.from_sde(on, n, grid="log_snr") for n in steps]
    limit = continuous_layers(vaes[0], model, 0.7)
    costs = [exact_layers(vae, model, 0.7) for vae in vaes]
    assert costs[0] > costs[1] > costs[2] > limit > 0
    assert order(steps, [c - limit for c in costs]) == pytest.approx(1, abs=0.2)
    assert 2 * costs[-1] - costs[-2] == pytest.approx(limit, rel=0.03)
