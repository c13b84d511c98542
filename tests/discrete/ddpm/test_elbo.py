"""The evidence lower bound against closed forms, exact likelihoods and quadrature.

On data N(m, v) every term is a square in the data and the noise, so averages over +-1 standard
deviation of both are exact expectations, and no test here needs a random number for them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sde_score.data import Scaling
from sde_score.discrete import HierarchicalVAE
from sde_score.distributions import Quantization
from sde_score.models import EnergyFunction, GaussianMixture, ScoreFunction, ScoreModel
from sde_score.random import generator_from, mix
from sde_score.sdes import VE, VP

M, V = 0.7, 0.4
POINTS = M + V**0.5 * torch.tensor([[-1.0], [-1.0], [1.0], [1.0]], dtype=torch.float64)
SIGNS = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)
VARIANCES = {"posterior": 0.0, "interpolated(v=0.3)": 0.3, "transition": 1.0}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(sde):
    """Data N(M, V) on the line."""
    return GaussianMixture([[M]], V, sde)


def mixture(sde):
    return GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], [0.05, 0.3], sde, weights=[0.6, 0.4])


def exact(vae, model, **given):
    """The bound over POINTS and SIGNS, the mean of which is the expectation."""
    return vae.elbo(model, POINTS, noise=lambda layer, draw: SIGNS, **given)


def unknown(vae):
    """Var(x_0 | x_i) of data N(M, V), layer by layer."""
    return V * vae.encoder.sigmas**2 / (vae.encoder.alphas**2 * V + vae.encoder.sigmas**2)


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_term_on_a_gaussian_is_its_closed_form(sde, variance):
    vae = HierarchicalVAE.from_sde(sde, 12, variance=variance)
    bound, snr, v = exact(vae, line(sde)), vae.log_snrs.exp(), unknown(vae)
    drop = 0.5 * (snr[:-1] - snr[1:]) * v[1:]  # the KL with the posterior's variance
    wide = sde.transition(vae.times[:-1], vae.times[1:])[1]
    narrow = wide * vae.encoder.sigmas[:-1] / vae.encoder.sigmas[1:]
    ratio = (narrow / wide) ** (2 * VARIANCES[variance])  # posterior variance over this one
    truth = ratio * drop + 0.5 * (ratio - 1 - ratio.log())
    torch.testing.assert_close(bound.layers.mean(1), truth, rtol=1e-8, atol=1e-12)
    s2 = (vae.encoder.sigmas[0] / vae.encoder.alphas[0]) ** 2
    reconstruction = 0.5 * (torch.log(2 * math.pi * s2) + v[0] / s2)
    torch.testing.assert_close(bound.reconstruction.mean(), reconstruction, rtol=1e-9, atol=0)
    a2, s2, p2 = vae.encoder.alphas[-1] ** 2, vae.encoder.sigmas[-1] ** 2, sde.prior_std**2
    prior = 0.5 * (s2 / p2 - 1 + a2 * POINTS[:, 0] ** 2 / p2 - torch.log(s2 / p2))
    torch.testing.assert_close(bound.prior, prior, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(bound.nats, bound.prior + bound.layers.sum(0) + bound.reconstruction)


def test_the_gap_closes_with_the_true_distribution_of_every_step(sde):
    """Data N(m, S): with the exact mean and full covariance of p(x_{i-1} | x_i) the bound is
    -log p(x_0) but for the prior, which stands for the distribution of x_n."""
    mean = torch.tensor([0.8, -0.5], dtype=torch.float64)
    covariance = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
    model = GaussianMixture(mean[None], covariance[None], sde)
    vae, x0 = HierarchicalVAE.from_sde(sde, 7), torch.tensor([[1.3, -1.1]], dtype=torch.float64)
    eye, normal = torch.eye(2, dtype=torch.float64), torch.distributions.MultivariateNormal
    # A square in the noise is averaged exactly over its four signs.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2).double()

    def left(i):  # Cov(x_0 | x_i)
        return torch.linalg.inv(torch.linalg.inv(covariance) + eye * vae.log_snrs[i - 1].exp())

    def states(i):
        distribution = vae.encoder.marginal(x0.expand(4, 2), i)
        return distribution.mean + distribution.std * signs

    start, found = states(1), 0.0
    decoder = normal(vae.decoder.data(model, start).mean, left(1))
    found -= float(decoder.log_prob(x0).mean())
    for i in range(2, 8):
        x, (on_x0, _, std) = states(i), (float(table[i - 1]) for table in vae.encoder.posteriors)
        distribution = vae.decoder.step(model, x, i)
        decoder = normal(distribution.mean, std**2 * eye + on_x0**2 * left(i))
        posterior = normal(vae.encoder.posterior(x, x0.expand(4, 2), i).mean, std**2 * eye)
        found += float(torch.distributions.kl_divergence(posterior, decoder).mean())
    last = vae.encoder.alphas[-1].item(), vae.encoder.sigmas[-1].item()
    true_end = normal(last[0] * mean, last[0] ** 2 * covariance + last[1] ** 2 * eye)
    end = normal(torch.zeros(2).double(), sde.prior_std**2 * eye)
    distribution_of_end = normal(last[0] * x0[0], last[1] ** 2 * eye)
    divergence = torch.distributions.kl_divergence
    mismatch = divergence(distribution_of_end, end) - divergence(distribution_of_end, true_end)
    found += float(divergence(distribution_of_end, end))
    truth = -float(model.log_prob(x0)) + float(mismatch)
    assert found == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("sde", [VP(), VE(0.05, 9.0)], ids=str)
def test_the_gap_to_the_continuous_bound_falls_as_1_over_n(sde):
    """1/2 integral of Var(x_0 | x) over the signal-to-noise ratio: 1/2 ln((1 + V r_1) / (1 + V
    r_n))."""
    counts, totals = (64, 128, 256), []
    for n in counts:
        totals.append(exact(HierarchicalVAE.from_sde(sde, n), line(sde)))
    first, last = totals[0].log_snrs[[0, -1]].exp()
    limit = 0.5 * torch.log((1 + V * first) / (1 + V * last)).item()
    gaps = [float(bound.layers.sum(0).mean()) - limit for bound in totals]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    slope = math.log(gaps[2] / gaps[1]) / math.log(2)
    assert slope == pytest.approx(-1, abs=0.1)
    # Taking v = Var(x_0 | x) at one end of a layer of width h costs h^2 / 4 times r |dv / d log r|.
    width = float(totals[2].log_snrs[0] - totals[2].log_snrs[-1]) / 255
    share = totals[2].log_snrs.exp() * unknown(HierarchicalVAE.from_sde(sde, 256))
    leading = 0.25 * width**2 * float(share.square().sum())
    assert gaps[2] == pytest.approx(leading, rel=0.05)
    for coarse, fine in pairwise(totals):
        assert float(coarse.nats.mean()) > float(fine.nats.mean())


def test_the_bound_lies_above_the_exact_negative_log_likelihood(sde):
    model, generator = mixture(sde), torch.Generator().manual_seed(0)
    x0 = model.sample(32, generator=generator)
    bound = HierarchicalVAE.from_sde(sde, 40).elbo(model, x0, draws=6, seed=1)
    gap = bound.nats + model.log_prob(x0)
    error = float(bound.standard_error.square().mean().sqrt()) / math.sqrt(32)
    assert float(gap.mean()) > 3 * error
    assert bool((gap > -4 * bound.standard_error).all())
    # Each of two dimensions costs at most width^2 / 4 a layer.
    reach = float(bound.log_snrs[0] - bound.log_snrs[-1])
    assert float(gap.mean()) < 0.5 * reach**2 / 40 + 0.3


def test_four_predictions_of_one_network_have_one_bound():
    torch.manual_seed(0)
    sde, inner = (
        VP(),
        torch.nn.Sequential(
            torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2)
        ).double(),
    )

    class Network(torch.nn.Module):
        """Says what the inner network says of the noise, in the words of a prediction."""

        def __init__(self, prediction):
            super().__init__()
            self.inner, self.prediction = inner, prediction

        def forward(self, x, level, condition=None):
            t = sde.time_of_log_snr(-8 * level)
            alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
            noise = self.inner(torch.cat([x, level[:, None]], 1))
            data = (x - sigma * noise) / alpha
            rates = sde.alpha_derivative(t)[:, None], sde.sigma_derivative(t)[:, None]
            velocity = rates[0] * data + rates[1] * noise
            words = {"noise": noise, "data": data, "score": -noise, "velocity": velocity}
            return words[self.prediction]

    vae, x0 = HierarchicalVAE.from_sde(sde, 30), draw(3, 2)
    bounds = [
        vae.elbo(ScoreModel(Network(p), sde, p), x0, seed=4)
        for p in ("noise", "data", "velocity", "score")
    ]
    assert float(bounds[0].layers.min()) > 1e-4
    for other in bounds[1:]:
        torch.testing.assert_close(other.layers, bounds[0].layers, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(other.nats, bounds[0].nats, rtol=1e-8, atol=1e-8)


def test_a_posterior_layer_is_half_the_fall_of_snr_times_the_squared_error(sde):
    vae, model, x0 = HierarchicalVAE.from_sde(sde, 5), mixture(sde), draw(3, 2)
    bound = vae.elbo(model, x0, noise=lambda layer, draw: SIGNS[:3] * layer / 5 + 0 * x0)
    snr = vae.log_snrs.exp()
    for i in range(2, 6):
        x = vae.encoder.alphas[i - 1] * x0 + vae.encoder.sigmas[i - 1] * SIGNS[:3] * i / 5
        error = (x0 - model.denoise(x, vae.times[i - 1])).square().sum(1)
        truth = 0.5 * (snr[i - 2] - snr[i - 1]) * error
        torch.testing.assert_close(bound.layers[i - 2], truth, rtol=1e-8, atol=1e-12)


def test_noise_depends_on_the_examples_seed_the_layer_and_the_draw():
    sde, x0 = VP(), draw(5, 2)
    vae, model = HierarchicalVAE.from_sde(sde, 6), mixture(VP())

    def noise(layer, draw):
        rows = [
            torch.randn(2, generator=generator_from(mix(3, i), layer, draw), dtype=torch.float64)
            for i in range(5)
        ]
        return torch.stack(rows)

    seeded = vae.elbo(model, x0, seed=3, draws=2)
    given = vae.elbo(model, x0, noise=noise, draws=2)
    torch.testing.assert_close(seeded.nats, given.nats, rtol=1e-12, atol=0)
    parts = vae.elbo(model, x0, noise=noise, draws=2, batch_size=2)
    torch.testing.assert_close(parts.nats, given.nats, rtol=1e-10, atol=0)
    alone = vae.elbo(model, x0[3:4], seed=[mix(3, 3)], draws=2)
    torch.testing.assert_close(alone.layers[:, 0], seeded.layers[:, 3], rtol=1e-10, atol=1e-12)
    other = vae.elbo(model, x0, seed=4, draws=2)
    assert not torch.allclose(other.layers, seeded.layers)


def test_draws_are_averaged_and_their_spread_is_the_error():
    vae, model, x0 = HierarchicalVAE.from_sde(VP(), 6), mixture(VP()), draw(3, 2)
    noises = draw(4, 7, 3, 2, seed=9)
    bound = vae.elbo(model, x0, draws=4, noise=lambda layer, k: noises[k, layer])
    single = [vae.elbo(model, x0, noise=lambda i, _, k=k: noises[k, i]) for k in range(4)]
    totals = torch.stack([one.nats for one in single])
    torch.testing.assert_close(bound.nats, totals.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bound.standard_error, totals.std(0) / 2, rtol=1e-9, atol=0)
    torch.testing.assert_close(bound.layers, torch.stack([o.layers for o in single]).mean(0))
    assert bool(single[0].standard_error.isnan().all())


@pytest.mark.parametrize(("batch_size", "calls"), [(1, 12 * 5), (4, 12 + 4), (7, 12), (1000, 2)])
def test_rows_may_be_cut_in_any_way(batch_size, calls):
    """The same bound; a call holds as many layers of as many examples as fit."""
    vae, x0 = HierarchicalVAE.from_sde(VP(), 12), draw(5, 2)
    labels = torch.arange(5)

    def score(x, t, label):
        return -x * (1 + 0.1 * label[:, None]) / (1 + t[:, None])

    model = ScoreFunction(score, VP())
    bound = vae.elbo(model, x0, condition=labels, batch_size=batch_size)
    whole = vae.elbo(model, x0, condition=labels, batch_size=10_000)
    torch.testing.assert_close(bound.layers, whole.layers, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(bound.reconstruction, whole.reconstruction, rtol=1e-10, atol=0)
    assert bound.nfe == calls
    alone = vae.elbo(
        ScoreFunction(lambda x, t: score(x, t, labels[4:]), VP()), x0[4:], seed=[mix(0, 4)]
    )
    torch.testing.assert_close(alone.nats[0], whole.nats[4], rtol=1e-10, atol=0)


def test_energies_have_a_bound_too():
    sde, x0 = VP(), draw(3, 1)
    distribution = line(sde)
    energy = EnergyFunction(lambda x, t: -distribution.log_prob(x, t), sde)
    vae = HierarchicalVAE.from_sde(sde, 8)
    torch.testing.assert_close(vae.elbo(energy, x0).nats, vae.elbo(distribution, x0).nats)


def test_only_the_model_is_in_float32():
    """From its float32 output on, nothing is lost: 1/2 (fall of SNR) |x0 - x0_hat|^2."""
    vae = HierarchicalVAE.from_sde(VP(), 100)
    model, x0 = ScoreFunction(lambda x, t: -0.9 * x, VP()), draw(4, 2).float()
    noise, snr = draw(4, 2, seed=1).float(), vae.log_snrs.exp()
    found = vae.elbo(model, x0, noise=lambda layer, draw: noise).layers
    assert found.dtype == torch.float64
    for i in range(2, 101):
        distribution = vae.encoder.marginal(x0, i)
        estimate = model.denoise(distribution.mean + distribution.std * noise, vae.times[i - 1])
        assert estimate.dtype == torch.float32
        error = (x0.double() - estimate.double()).square().sum(1)
        truth = 0.5 * (snr[i - 2] - snr[i - 1]) * error
        torch.testing.assert_close(found[i - 2], truth, rtol=1e-7, atol=0)


def test_levels_have_a_bound_on_their_probability():
    """One level at a time: with an almost perfect decoder the bound is -log P(level)."""
    levels, sde = Quantization(4), VE(0.02, 30.0)
    centers = torch.tensor([[-0.75], [-0.25], [0.25], [0.75]], dtype=torch.float64)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    model = GaussianMixture(centers, 0.0, sde, weights=weights)
    vae = HierarchicalVAE.from_sde(sde, 400)
    bound = vae.elbo(model, centers, levels=4, draws=30)
    error = bound.standard_error
    assert bool((bound.nats > -weights.log() - 4 * error).all())
    assert bool((bound.nats < -weights.log() + 4 * error + 0.05).all())
    assert bound.discrete
    torch.testing.assert_close(bound.bits_per_dim(), bound.nats / math.log(2))
    named = vae.elbo(model, centers, levels=levels, draws=1)
    assert torch.equal(named.nats, vae.elbo(model, centers, levels=4, draws=1).nats)


def test_bits_are_in_the_terms_of_the_raw_data():
    vae, x0 = HierarchicalVAE.from_sde(VP(), 5), draw(3, 2)
    bound, scaling = vae.elbo(mixture(VP()), x0), Scaling(center=3.0, width=5.0)
    truth = (bound.nats + 2 * math.log(5.0)) / (2 * math.log(2))
    torch.testing.assert_close(bound.bits_per_dim(scaling), truth)
    with pytest.raises(ValueError, match="give the scaling"):
        bound.bits_per_dim()


def test_the_table_has_every_term_and_their_shares():
    vae, x0 = HierarchicalVAE.from_sde(VP(), 50), draw(3, 2)
    bound = vae.elbo(mixture(VP()), x0)
    table = bound.table()
    assert [term.name for term in table] == ["prior", *map(str, range(50, 1, -1)), "decoder"]
    assert sum(term.nats for term in table) == pytest.approx(float(bound.nats.mean()))
    assert sum(term.share for term in table) == pytest.approx(1)
    assert table[1].nats == pytest.approx(float(bound.layers[-1].mean()))
    assert (table[3].t, table[3].log_snr) == (vae.times[47].item(), vae.log_snrs[47].item())
    assert table[-1].t == vae.times[0].item()
    short = bound.table(7)
    assert [term.name for term in short][:3] == ["prior", "50-44", "43-37"]
    assert short[1].nats == pytest.approx(float(bound.layers[-7:].mean(1).sum()))
    assert len(short) == 9
    text = str(bound)
    assert len(text.splitlines()) == 1 + 22 + 1
    assert f"{float(bound.nats.mean()):.5g}" in text.splitlines()[-1]
    assert len(HierarchicalVAE.from_sde(VP(), 1).elbo(mixture(VP()), x0).table()) == 2


# --- the importance-weighted bound ---------------------------------------------------------------


def hermite(count):
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())


def two_layers(sde):
    """Layers with little and much noise, and a mixture on the line that no normal step fits."""
    times = sde.time_of_log_snr(torch.tensor([3.0], dtype=torch.float64))
    vae = HierarchicalVAE(sde, torch.cat([times, torch.tensor([sde.t_max]).double()]))
    return vae, GaussianMixture([[1.0], [-0.8]], 0.1, sde)


def density(vae, model, x0, points=2001):
    """p(x_0) of the decoder with two layers: both latents integrated out on a grid."""
    reach = 9 * max(float(vae.encoder.sigmas[-1]), 2.0)
    z2, z1 = (torch.linspace(-r, r, points).double()[:, None] for r in (reach, 9.0))
    p2 = vae.decoder.prior(z2.shape, torch.float64).log_prob(z2).exp()
    below, decoder = vae.decoder.step(model, z2, 2), vae.decoder.data(model, z1)
    kernel = torch.exp(-0.5 * ((z1.mT - below.mean) / below.std) ** 2)
    p1 = p2 @ (kernel / (math.sqrt(2 * math.pi) * below.std)) * (z2[1] - z2[0])
    p0 = torch.exp(-0.5 * ((x0 - decoder.mean[:, 0]) / decoder.std) ** 2)
    return float(p1 @ p0 * (z1[1] - z1[0]) / (math.sqrt(2 * math.pi) * decoder.std))


@pytest.mark.parametrize("sde", [VP(), VE(0.05, 9.0)], ids=str)
def test_the_importance_weighted_bound_grows_from_the_elbo_to_log_p(sde):
    vae, model = two_layers(sde)
    x0 = torch.full((3000, 1), 0.6, dtype=torch.float64)
    truth, means, errors = math.log(density(vae, model, 0.6)), [], []
    for k in (1, 2, 8, 64):
        rows = x0[: 6000 // k]
        bound = vae.importance_weighted(model, rows, particles=k, seed=k, batch_size=10_000)
        means.append(float(bound.mean()))
        errors.append(float(bound.std()) / math.sqrt(len(rows)))
    elbo = vae.elbo(model, x0, seed=7)
    spread = math.hypot(float(elbo.nats.std()) / math.sqrt(3000), errors[0])
    assert means[0] == pytest.approx(-float(elbo.nats.mean()), abs=4 * spread)
    for low, high, error in zip(means, means[1:], errors, strict=False):
        assert high > low + 2 * error
    assert means[-1] < truth + 3 * errors[-1]
    assert means[-1] == pytest.approx(truth, abs=0.05 + 3 * errors[-1])


@pytest.mark.parametrize("levels", [None, 4])
def test_importance_weights_are_joint_densities_over_the_encoders(levels):
    """log w by hand on the very trajectory: each row's own stream, from the noise down."""
    from sde_score.random import ExampleStreams

    sde, x0 = VP(), torch.tensor([[-0.75, 0.25], [0.75, 0.75], [-0.25, 0.25]]).double()
    vae, model = HierarchicalVAE.from_sde(sde, 5, variance="transition"), mixture(VP())
    encoder = vae.encoder
    streams = [[mix(s, j) for s in (10, 11, 12)] for j in range(2)]
    weights = []
    for seeds in streams:
        noise, states = ExampleStreams(seeds, x0), {}
        for i in range(5, 0, -1):
            distribution = (
                encoder.marginal(x0, 5) if i == 5 else encoder.posterior(states[i + 1], x0, i + 1)
            )
            states[i] = distribution.mean + distribution.std * noise()
        # q of the whole path in the other direction: upward, by steps
        below = {1: x0} | {i + 1: state for i, state in states.items()}
        log_q = sum(encoder.step(below[i], i).log_prob(states[i]) for i in states)
        log_p = vae.decoder.prior(x0.shape, torch.float64).log_prob(states[5])
        decoded = vae.decoder.data(model, states[1])
        if levels is None:
            log_p = log_p + decoded.log_prob(x0)
        else:
            cut = Quantization(4)
            log_p = log_p + cut.discretize(decoded).log_prob(cut.levels(x0))
        for i in range(2, 6):
            log_p = log_p + vae.decoder.step(model, states[i], i).log_prob(states[i - 1])
        weights.append(log_p - log_q)
    truth = torch.stack(weights).logsumexp(0) - math.log(2)
    found = vae.importance_weighted(
        model, x0, particles=2, levels=levels, seed=[10, 11, 12], batch_size=4
    )
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-8)


def test_importance_weights_of_levels_and_conditions():
    vae = HierarchicalVAE.from_sde(VP(), 3)
    x0 = torch.tensor([[-0.75], [0.25]], dtype=torch.float64)

    def score(x, t, label):
        return -x * label[:, None]

    model, labels = ScoreFunction(score, VP()), torch.tensor([1.0, 0.5]).double()
    both = vae.importance_weighted(
        model, x0, particles=3, levels=4, condition=labels, seed=[5, 6], batch_size=1
    )
    other = ScoreFunction(lambda x, t: -0.5 * x, VP())
    alone = vae.importance_weighted(other, x0[1:], particles=3, levels=4, seed=[6])
    torch.testing.assert_close(both[1:], alone, rtol=1e-10, atol=0)
    assert bool((both < 0).all())


def test_what_cannot_be_bounded_is_refused():
    vae, model, x0 = HierarchicalVAE.from_sde(VP(), 4), mixture(VP()), draw(3, 2)
    for name in ("draws", "batch_size"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            vae.elbo(model, x0, **{name: 0})
    with pytest.raises(ValueError, match="particles=0"):
        vae.importance_weighted(model, x0, particles=0)
    for method in (vae.elbo, lambda *a, **k: vae.importance_weighted(*a, particles=1, **k)):
        with pytest.raises(ValueError, match="holds no examples"):
            method(model, x0[:0])
        with pytest.raises(TypeError, match="x0 must be a floating-point"):
            method(model, torch.zeros(3, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match="one entry per example"):
            method(model, x0, condition=torch.zeros(2))
        with pytest.raises(ValueError, match="seed has 2 entries for 3 examples"):
            method(model, x0, seed=[1, 2])
        with pytest.raises(ValueError, match=r"centers of 4 levels between -0\.75 and 0\.75"):
            method(model, x0, levels=4)
        with pytest.raises(ValueError, match="model lives on VE"):
            method(mixture(VE()), x0)
    with pytest.raises(ValueError, match="centers of 4 levels"):
        vae.elbo(model, torch.full((1, 2), 1.25).double(), levels=4)
    with pytest.raises(ValueError, match="count=1"):
        Quantization(1)
    with pytest.raises(ValueError, match=r"high=-1\.0 must exceed low=1\.0"):
        Quantization(4, low=1.0, high=-1.0)
    assert replace(vae, variance="transition").elbo(model, x0).nfe > 0
