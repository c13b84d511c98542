"""How wide a step back is: the rules, and what is best for a model, against exact conditioning."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, optimal_variances
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.samplers import (
    VARIANCES,
    Ancestral,
    InterpolatedVariance,
    OptimalVariance,
    ReverseVariance,
    create,
    interpolated_std,
)
from sde_score.sdes import VE, VP

M, V = 0.7, 0.4
# Averages of squares over these points are exact expectations over N(M, V) and N(0, 1).
POINTS = M + V**0.5 * torch.tensor([[-1.0], [-1.0], [1.0], [1.0]], dtype=torch.float64)
SIGNS = torch.tensor([[-1.0], [1.0], [-1.0], [1.0]], dtype=torch.float64)


def line(sde):
    return GaussianMixture([[M]], V, sde)


def best(vae, model, by="error"):
    return optimal_variances(vae, model, POINTS, by=by, noise=lambda layer, draw: SIGNS)


def given(sde, s, t):
    """Var(x_s | x_t) of data N(M, V), from their joint covariance."""
    scale = sde.alpha(t) / sde.alpha(s)
    early, late = (sde.alpha(u) ** 2 * V + sde.sigma(u) ** 2 for u in (s, t))
    return early - (scale * early) ** 2 / late


def test_the_named_rules_are_those_of_ddpm_and_iddpm():
    """beta~ = beta (1 - abar_s) / (1 - abar_t), beta, and ln s^2 = v ln beta + (1 - v) ln beta~."""
    betas = torch.linspace(0.01, 0.4, 12, dtype=torch.float64)
    products = (1 - betas).cumprod(0)
    small = betas[1:] * (1 - products[:-1]) / (1 - products[1:])
    wanted = {
        "posterior": small,
        "transition": betas[1:],
        "interpolated(v=0.3)": torch.exp(0.3 * betas[1:].log() + 0.7 * small.log()),
        InterpolatedVariance(0.0): small,
        InterpolatedVariance(1.0): betas[1:],
    }
    for variance, truth in wanted.items():
        vae = HierarchicalVAE.from_betas(betas, variance=variance)
        torch.testing.assert_close(vae.decoder.stds[1:] ** 2, truth, rtol=1e-10, atol=0)
    v = torch.linspace(0, 1, 11, dtype=torch.float64)
    each = InterpolatedVariance(tuple(v.tolist()), tuple(vae.times[1:].tolist()))
    truth = torch.exp(v * betas[1:].log() + (1 - v) * small.log())
    found = replace(vae, variance=each).decoder.stds[1:] ** 2
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=0)
    for layer in (2, 12):
        learned = interpolated_std(vae.sde, *vae.times[layer - 2 : layer], v) ** 2
        ends = betas[layer - 1].log(), small[layer - 2].log()
        torch.testing.assert_close(learned, torch.exp(v * ends[0] + (1 - v) * ends[1]))


@pytest.mark.parametrize("by", ["error", "score"])
def test_the_best_variance_on_a_gaussian_is_its_conditional_variance(sde, by):
    vae = HierarchicalVAE.from_sde(sde, 8)
    found = replace(vae, variance=best(vae, line(sde), by))
    truth = given(sde, vae.times[:-1], vae.times[1:])
    torch.testing.assert_close(found.decoder.stds[1:] ** 2, truth, rtol=1e-6, atol=0)
    unknown = V * vae.encoder.sigmas**2 / (vae.encoder.alphas**2 * V + vae.encoder.sigmas**2)
    spread = torch.tensor(found.variance.spread, dtype=torch.float64)
    torch.testing.assert_close(spread, unknown, rtol=1e-9, atol=0)
    assert found.variance.at == tuple(vae.times.tolist())


def test_steps_over_any_layers_share_what_is_known_of_the_data(sde):
    """The rows of ancestral sampling over some of the layers: Var(x_s | x_t) of those steps."""
    vae = HierarchicalVAE.from_sde(sde, 8)
    vae = replace(vae, variance=best(vae, line(sde)))
    sampler = vae.ancestral([2, 3, 6, 8])
    assert isinstance(sampler, Ancestral)
    times = sampler.times(sde)
    assert times.tolist() == vae.times[[7, 5, 2, 1]].tolist()
    squares = torch.tensor([c**2 for *_, c in sampler.rows(sde, times)], dtype=torch.float64)
    truth = given(sde, times[1:], times[:-1])
    torch.testing.assert_close(squares, truth, rtol=1e-6, atol=0)


def test_sampling_with_the_best_variances_has_the_data_distribution():
    """On a Gaussian: mean and variance of the samples, propagated exactly, with three steps."""
    sde = VP()
    vae = HierarchicalVAE.from_sde(sde, 3, grid="log_snr(end=1e-4)")
    vae = replace(vae, variance=best(vae, line(sde)))
    model, end = line(sde), vae.encoder.alphas[-1]
    variance = end**2 * V + vae.encoder.sigmas[-1] ** 2
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    mean = end * M
    for i in (3, 2):
        distribution = vae.decoder.step(model, points, i)
        slope = distribution.mean[1] - distribution.mean[0]
        variance = slope**2 * variance + distribution.std**2
        mean = distribution.mean[0] + slope * mean
    truth = vae.encoder.alphas[0] ** 2 * V + vae.encoder.sigmas[0] ** 2
    assert float(variance) == pytest.approx(float(truth), rel=1e-9)
    assert float(mean) == pytest.approx(float(vae.encoder.alphas[0] * M), rel=1e-9)


def test_the_error_of_an_imperfect_model_gives_the_largest_bound():
    """Every layer of the bound is worse with a little more variance, and with a little less."""
    sde, x0 = VP(), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    model = ScoreFunction(lambda x, t: -1.3 * x + 0.4, sde)
    vae = HierarchicalVAE.from_sde(sde, 10)
    optimal = optimal_variances(vae, model, x0, draws=3, seed=5)

    def layers(variance):
        return replace(vae, variance=variance).elbo(model, x0, draws=3, seed=5).layers.mean(1)

    least = layers(optimal)
    for factor in (0.9, 1.1):
        spread = tuple(factor * value for value in optimal.spread)
        assert bool((layers(replace(optimal, spread=spread)) > least).all())
    for name in ("posterior", "transition"):
        assert bool((layers(name) > least).all())
    decoder = math.sqrt(optimal.spread[0])
    costs = [
        float(replace(vae, decoder_std=f * decoder).elbo(model, x0, draws=3, seed=5)
              .reconstruction.mean())
        for f in (0.95, 1.0, 1.05)
    ]  # fmt: skip
    assert costs[1] < min(costs[0], costs[2])


def test_the_norm_of_the_noise_is_kept_within_its_bounds():
    """|noise|^2 / D beyond 1 leaves no spread, noise of zero leaves sigma^2 / alpha^2."""
    vae = HierarchicalVAE.from_sde(VP(), 4)
    steep = ScoreFunction(lambda x, t: -5000 * x, VP())
    assert best(vae, steep, "score").spread == (0.0,) * 4
    flat = ScoreFunction(lambda x, t: 0 * x, VP())
    found = torch.tensor(best(vae, flat, "score").spread, dtype=torch.float64)
    torch.testing.assert_close(found, (vae.encoder.sigmas / vae.encoder.alphas) ** 2)


def test_the_mean_over_draws_and_examples_is_taken():
    sde, x0 = VP(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    vae, model = HierarchicalVAE.from_sde(sde, 3), line(sde)
    model = GaussianMixture([[1.0, 0.0], [-1.0, 0.5]], 0.2, sde)
    noises = torch.randn(2, 4, 5, 2, generator=torch.Generator().manual_seed(1)).double()
    found = optimal_variances(vae, model, x0, draws=2, noise=lambda i, k: noises[k, i])
    for i in range(1, 4):
        errors = []
        for k in range(2):
            x = vae.encoder.alphas[i - 1] * x0 + vae.encoder.sigmas[i - 1] * noises[k, i]
            errors.append((x0 - model.denoise(x, vae.times[i - 1])).square().mean())
        assert found.spread[i - 1] == pytest.approx(float(sum(errors)) / 2, rel=1e-9)


def test_tables_are_linear_in_log_snr_between_their_times_and_flat_beyond(sde):
    logs = torch.tensor([4.0, 2.0, -1.0], dtype=torch.float64)
    at = tuple(sde.time_of_log_snr(logs).tolist())
    rule = OptimalVariance((0.1, 0.3, 0.9), at)
    places = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, -1.0, -2.0], dtype=torch.float64)
    truth = torch.tensor([0.1, 0.1, 0.2, 0.3, 0.5, 0.9, 0.9], dtype=torch.float64)
    t = sde.time_of_log_snr(places)
    s = sde.time_of_log_snr(places + 0.5)
    for k, spread in enumerate(truth.tolist()):
        now, early = t[k : k + 1], s[k : k + 1]
        wanted = OptimalVariance(spread).std(sde, early, now)
        torch.testing.assert_close(rule.std(sde, early, now), wanted, rtol=1e-7, atol=0)
    torch.testing.assert_close(rule.std(sde, s, t)[2:3], rule.std(sde, s[2:3], t[2:3]))
    single = OptimalVariance((0.4,), at[:1])
    torch.testing.assert_close(single.std(sde, s, t), OptimalVariance(0.4).std(sde, s, t))


def test_variances_have_names_and_samplers_take_them():
    assert list(VARIANCES) == ["posterior", "transition", "interpolated", "optimal"]
    sampler = create("ancestral(variance='interpolated(v=0.25)')", steps=4)
    t, s = torch.tensor([0.9]).double(), torch.tensor([0.5]).double()
    wide = Ancestral(variance=InterpolatedVariance(0.25))
    assert sampler.coefficients(VP(), t, s)[2] == wide.coefficients(VP(), t, s)[2]
    rule = OptimalVariance((0.5, 0.6), (0.1, 0.2))
    assert VARIANCES.resolve(rule) is rule
    assert isinstance(
        VARIANCES.resolve("optimal(spread=(0.5, 0.6), at=(0.1, 0.2))"), ReverseVariance
    )
    assert VARIANCES.resolve("optimal(spread=(0.5, 0.6), at=(0.1, 0.2))") == rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: VARIANCES.resolve("wide"), "unknown variance 'wide'; accepted: posterior"),
        (lambda: VARIANCES.resolve("interpolated(w=1)"), "does not take w"),
        (lambda: InterpolatedVariance(1.5), r"v must be finite and lie in \[0, 1\]"),
        (lambda: InterpolatedVariance(math.nan), "v=nan must be a finite number"),
        (lambda: OptimalVariance(-0.1), r"spread must be finite and lie in \[0, inf\]"),
        (lambda: OptimalVariance(math.inf), "spread=inf must be a finite number"),
        (lambda: OptimalVariance((0.1, 0.2), (0.5,)), "got 2 for 1 times"),
        (lambda: OptimalVariance((0.1, 0.2)), "got 2 for 0 times"),
        (lambda: OptimalVariance(0.1, (0.5,)), "got 1 for 1 times"),
        (lambda: OptimalVariance((0.1, 0.2), (0.5, 0.5)), "strictly increasing"),
    ],
)
def test_what_is_no_variance_is_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rule()


def test_what_has_no_best_variance_is_refused():
    vae = HierarchicalVAE.from_sde(VP(), 4)
    with pytest.raises(ValueError, match="by='norm' is not known; accepted: error, score"):
        optimal_variances(vae, line(VP()), POINTS, by="norm")
    with pytest.raises(ValueError, match="model lives on VE"):
        optimal_variances(vae, line(VE()), POINTS)
    with pytest.raises(ValueError, match="holds no examples"):
        optimal_variances(vae, line(VP()), POINTS[:0])
