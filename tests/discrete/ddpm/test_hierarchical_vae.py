"""The conditionals of the layers, on every SDE, and what is drawn along them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sde_score.discrete import HierarchicalVAE
from sde_score.distributions import Quantization
from sde_score.models import GaussianMixture
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import DDIM, Ancestral, Times, UniformTime
from sde_score.sdes import VE, VP, SubVP

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(sde):
    return GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], [0.05, 0.3], sde, weights=[0.6, 0.4])


@pytest.fixture
def vae(sde):
    return HierarchicalVAE.from_sde(sde, 9)


def test_marginals_are_those_of_the_sde_and_follow_from_the_steps(sde, vae):
    scale, std = vae.encoder.steps
    products = scale.cumprod(0)
    torch.testing.assert_close(products, sde.alpha(vae.times), **EXACT)
    variances = products**2 * torch.cumsum((std / products) ** 2, 0)
    torch.testing.assert_close(variances.sqrt(), sde.sigma(vae.times), **EXACT)
    x0 = draw(9, 2)
    distribution = vae.encoder.marginal(x0, torch.arange(1, 10))
    torch.testing.assert_close(distribution.mean, sde.alpha(vae.times)[:, None] * x0, **EXACT)
    torch.testing.assert_close(distribution.std[:, 0], sde.sigma(vae.times), **EXACT)
    torch.testing.assert_close(vae.log_snrs, sde.log_snr(vae.times), **EXACT)


def joint(sde, times):
    """Covariance of (x_1 ... x_n) given x_0: sigma_i^2 alpha_j / alpha_i for i <= j."""
    early = torch.minimum(times[:, None], times[None, :])
    late = torch.maximum(times[:, None], times[None, :])
    shape = early.shape
    early, late = early.flatten(), late.flatten()
    return (sde.sigma(early) ** 2 * sde.alpha(late) / sde.alpha(early)).reshape(shape)


def test_posterior_is_the_joint_normal_distribution_conditioned(sde, vae):
    """Two rows of the joint covariance, and the formula for conditioning any normal vector."""
    x0, x, covariance = draw(5, 3), draw(5, 3, seed=1), joint(sde, vae.times)
    for i in range(2, 10):
        (a, b), (_, d) = covariance[i - 2 : i, i - 2 : i].tolist()
        early, late = sde.alpha(vae.times[i - 2 : i]).tolist()
        distribution = vae.encoder.posterior(x, x0, i)
        mean = early * x0 + b / d * (x - late * x0)
        torch.testing.assert_close(distribution.mean, mean, rtol=1e-9, atol=1e-9)
        assert float(distribution.std) ** 2 == pytest.approx(a - b * b / d, rel=1e-6)


def distributions_of_all_layers(vae, distribution_of_next, order):
    """Covariance of the layers, each drawn given the one before it in `order`."""
    n, x0 = len(vae), torch.zeros(len(vae), dtype=torch.float64)
    inputs, states = torch.eye(n, dtype=torch.float64), {}
    for position, layer in enumerate(order):
        distribution = distribution_of_next(states, layer, x0)
        states[layer] = distribution.mean + distribution.std * inputs[position]
    columns = torch.stack([states[layer] for layer in range(1, n + 1)])
    return columns @ columns.mT


def test_the_layers_have_one_distribution_drawn_upward_or_downward(sde, vae):
    """x_1, x_2 ... by steps; x_n, then x_{n-1} ... by posteriors: the same joint covariance."""
    n, encoder = len(vae), vae.encoder
    upward = distributions_of_all_layers(
        vae, lambda states, i, x0: vae.encoder.step(states.get(i - 1, x0), i), range(1, n + 1)
    )

    def downward(states, i, x0):
        top = i == n
        return encoder.marginal(x0, n) if top else encoder.posterior(states[i + 1], x0, i + 1)

    truth = joint(sde, vae.times)
    torch.testing.assert_close(upward, truth, rtol=1e-10, atol=1e-12)
    found = distributions_of_all_layers(vae, downward, range(n, 0, -1))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-12)


def test_encode_draws_the_steps_with_each_examples_own_noise(vae):
    x0 = draw(3, 2)
    latents, x = vae.encoder.sample(x0, seed=5), x0
    noise = ExampleStreams(example_seeds(5, 3), x0)
    assert latents.shape == (9, 3, 2)
    for i in range(1, 10):
        distribution = vae.encoder.step(x, i)
        x = distribution.mean + distribution.std * noise()
        assert torch.equal(latents[i - 1], x)
    alone = vae.encoder.sample(x0[2:], seed=example_seeds(5, 3)[2:])
    assert torch.equal(alone[:, 0], latents[:, 2])


def test_decoder_step_is_the_posterior_around_the_denoised_mean(sde, vae):
    model, x = mixture(sde), draw(4, 2) * vae.encoder.sigmas[4]
    estimate = model.denoise(x, vae.times[4])
    assert torch.equal(vae.decoder.denoise(model, x, 5), estimate)
    distribution = vae.decoder.step(model, x, 5)
    assert torch.equal(distribution.mean, vae.encoder.posterior(x, estimate, 5).mean)
    assert torch.equal(distribution.std, vae.encoder.posterior(x, estimate, 5).std)
    wide = replace(vae, variance="transition").decoder.step(model, x, 5)
    assert float(wide.std) == pytest.approx(float(vae.encoder.steps[1][4]), rel=1e-12)
    own = vae.decoder.step(model, x, 5, std=torch.full_like(x, 0.7))
    assert torch.equal(own.std, torch.full_like(x, 0.7))


def test_each_example_may_be_at_a_layer_of_its_own(sde, vae):
    model, x, x0 = mixture(sde), draw(3, 2), draw(3, 2, seed=1)
    layers = torch.tensor([7, 2, 4])
    for method in (
        lambda x, x0, i: vae.encoder.step(x, i),
        lambda x, x0, i: vae.encoder.marginal(x0, i),
        lambda x, x0, i: vae.encoder.posterior(x, x0, i),
        lambda x, x0, i: vae.decoder.step(model, x, i),
    ):
        together = method(x, x0, layers)
        for row, layer in enumerate(layers.tolist()):
            alone = method(x[row : row + 1], x0[row : row + 1], layer)
            torch.testing.assert_close(together.mean[row], alone.mean[0], **EXACT)
            torch.testing.assert_close(together.std[row].squeeze(), alone.std, **EXACT)


def test_decoder_and_prior(sde, vae):
    model, x = mixture(sde), draw(4, 2)
    distribution = vae.decoder.data(model, x)
    assert torch.equal(distribution.mean, model.denoise(x, vae.times[0]))
    assert float(distribution.std) == pytest.approx(
        float(sde.sigma(vae.times[0]) / sde.alpha(vae.times[0]))
    )
    assert float(replace(vae, decoder_std=0.25).decoder.data(model, x).std) == 0.25
    per_entry = torch.rand(4, 2).double() + 0.1
    assert torch.equal(vae.decoder.data(model, x, std=per_entry).std, per_entry)
    cut = Quantization(8).discretize(vae.decoder.data(model, x))
    assert (cut.low, cut.high, cut.levels) == (-0.875, 0.875, 8)
    assert torch.equal(cut.normal.mean, distribution.mean)
    masses = torch.stack([cut.log_prob(torch.full((4, 2), k)) for k in range(8)])
    assert masses.shape == (8, 4)
    prior = vae.decoder.prior((4, 2), torch.float64)
    assert prior.mean.abs().max() == 0
    assert float(prior.std) == sde.prior_std


def test_masses_of_the_levels_are_one_together():
    vae = HierarchicalVAE.from_sde(VP(), 3, grid="log_snr(end=0.2)")
    model = GaussianMixture([[0.3]], 0.4, VP())
    decoded = vae.decoder.data(model, torch.tensor([[0.2], [-2.0]]).double())
    distribution = Quantization(5, -1.0, 1.0).discretize(decoded)
    mass = sum(distribution.log_prob(torch.full((2, 1), k)).exp() for k in range(5))
    torch.testing.assert_close(mass, torch.ones(2).double(), **EXACT)


def test_ddpm_has_the_times_i_over_n_and_betas():
    vae = HierarchicalVAE.from_sde(VP(), 1000, grid="uniform(end=0.001)")
    torch.testing.assert_close(vae.times, torch.arange(1, 1001).double() / 1000, **EXACT)
    integral = 0.1 * vae.times + 9.95 * vae.times**2
    products = (1 - vae.encoder.betas).cumprod(0)
    torch.testing.assert_close(products, torch.exp(-integral), **EXACT)
    again = HierarchicalVAE.from_betas(vae.encoder.betas)
    torch.testing.assert_close(again.sde.alpha(again.times) ** 2, products, **EXACT)
    torch.testing.assert_close(again.encoder.betas, vae.encoder.betas, rtol=1e-10, atol=0)
    assert len(again) == 1000


def test_layers_reach_from_t_min_to_t_max_unless_the_grid_says_otherwise(sde):
    for grid in ("log_snr", "uniform", "karras(rho=3)", "native"):
        times = HierarchicalVAE.from_sde(sde, 6, grid=grid).times
        assert (times[0].item(), times[-1].item()) == (sde.t_min, sde.t_max)
    early = 0.5 * (sde.t_min + sde.t_max)
    for grid in (f"uniform(end={early})", UniformTime(end=early)):
        assert HierarchicalVAE.from_sde(sde, 6, grid=grid).times[0].item() == early
    given = Times((sde.t_max, early))
    assert HierarchicalVAE.from_sde(sde, 2, grid=given).times.tolist() == [early, sde.t_max]
    logs = HierarchicalVAE.from_sde(sde, 6).log_snrs.diff()
    torch.testing.assert_close(logs, logs[:1].expand(5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sde", [VE(), SubVP()], ids=str)
def test_betas_are_refused_where_variance_is_not_preserved(sde):
    with pytest.raises(ValueError, match=r"has no betas.*`steps` holds"):
        _ = HierarchicalVAE.from_sde(sde, 5).encoder.betas


SUBSETS = {None: range(1, 10), 4: [1, 4, 6, 9], 1: [9], (2, 3, 9): [2, 3, 9]}


def run(sampler, model, start):
    noise = torch.Generator().manual_seed(3)
    return sampler(
        model,
        start,
        noise=lambda: torch.randn(start.shape, generator=noise, dtype=torch.float64),
        progress=False,
    )


@pytest.mark.parametrize("layers", SUBSETS, ids=str)
@pytest.mark.parametrize(
    "variance", ["posterior", "transition", "interpolated(v=0.3)", "optimal(spread=0.1)"]
)
def test_ancestral_draws_from_the_conditionals_of_the_chosen_layers(sde, vae, variance, layers):
    """By hand with a chain of the chosen layers alone, and the same noise."""
    model, start, x = mixture(sde), draw(6, 2), draw(6, 2)
    vae = replace(vae, variance=variance)
    found = run(vae.ancestral(layers), model, start)
    chosen = HierarchicalVAE(sde, vae.times[[i - 1 for i in SUBSETS[layers]]], variance)
    noise = torch.Generator().manual_seed(3)
    for i in range(len(chosen), 1, -1):
        distribution = chosen.decoder.step(model, x, i)
        x = distribution.mean + distribution.std * torch.randn(
            x.shape, generator=noise, dtype=torch.float64
        )
    torch.testing.assert_close(found, chosen.decoder.data(model, x).mean, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("layers", SUBSETS, ids=str)
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_steps_between_the_chosen_layers(sde, vae, eta, layers):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z, c = eta times the posterior's std."""
    model, start, x = mixture(sde), draw(6, 2), draw(6, 2)
    found = run(vae.ddim(eta, layers), model, start)
    noise, chosen = torch.Generator().manual_seed(3), list(SUBSETS[layers])
    for s, t in zip(chosen[-2::-1], chosen[:0:-1], strict=True):
        two = HierarchicalVAE(sde, vae.times[[s - 1, t - 1]]).encoder
        x0, fresh = model.denoise(x, two.times[1]), eta * float(two.posteriors[2][1])
        eps = (x - two.alphas[1] * x0) / two.sigmas[1]
        x = two.alphas[0] * x0 + (two.sigmas[0] ** 2 - fresh**2).sqrt() * eps
        if eta:
            x = x + fresh * torch.randn(x.shape, generator=noise, dtype=torch.float64)
    truth = model.denoise(x, vae.times[chosen[0] - 1])
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-9)


def test_samplers_over_layers_are_ordinary_samplers():
    vae = HierarchicalVAE.from_sde(VP(), 6)
    assert isinstance(vae.ancestral(), Ancestral)
    assert isinstance(vae.ddim(), DDIM)
    assert vae.ddim().eta == 0
    assert vae.ancestral(3).steps == 3
    samples = vae.ancestral()(mixture(VP()), (5, 2), seed=1, progress=False)
    assert samples.shape == (5, 2)
    tilted = vae.ancestral()(mixture(VP()), (5, 2), seed=1, progress=False, trajectory=True)
    torch.testing.assert_close(tilted.times[:-1], vae.times.flip(0), **EXACT)
    assert tilted.nfe == 6


def test_decode_draws_down_from_a_layer(sde, vae):
    model, x = mixture(sde), draw(3, 2) * vae.encoder.sigmas[3]
    found = vae.decode(model, x, layer=4, seed=2)
    drawn = vae.decode(model, x, layer=4, seed=2, denoise=False)
    noise = ExampleStreams(example_seeds(2, 3), x)
    for i in (4, 3, 2):
        distribution = vae.decoder.step(model, x, i)
        x = distribution.mean + distribution.std * noise()
    distribution = vae.decoder.data(model, x)
    assert torch.equal(found, distribution.mean)
    assert torch.equal(drawn, distribution.mean + distribution.std * noise())


def test_condition_reaches_the_model():
    class Told:
        sde, nfe, seen = VP(), 0, []

        def denoise(self, x, t, condition=None):
            self.seen.append(condition)
            return x

    vae, told, labels = HierarchicalVAE.from_sde(VP(), 3), Told(), torch.tensor([1, 2])
    x = draw(2, 2)
    vae.decoder.step(told, x, 2, labels)
    vae.decoder.data(told, x, labels)
    vae.decode(told, x, layer=2, condition=labels)
    assert len(told.seen) == 4
    assert all(torch.equal(seen, labels) for seen in told.seen)


def test_gradients_reach_the_model_even_if_tables_were_made_in_inference_mode():
    vae = HierarchicalVAE.from_sde(VP(), 4)
    with torch.inference_mode():
        vae.decoder.step(mixture(VP()), draw(2, 2), 2)
    x = draw(2, 2).requires_grad_()
    vae.encoder.posterior(x, x, 2).mean.sum().backward()
    assert x.grad is not None


def test_layers_keep_the_dtype_of_the_state():
    vae, x = HierarchicalVAE.from_sde(VP(), 4), torch.ones(2, 3)
    assert vae.encoder.marginal(x, 2).mean.dtype == torch.float32
    assert vae.encoder.posterior(x, x, 2).std.dtype == torch.float32
    assert vae.encoder.sample(x, seed=0).dtype == torch.float32
    assert vae.decode(mixture(VP()), torch.ones(2, 2), layer=3, seed=0).dtype == torch.float32


REFUSED = {
    "times must be strictly increasing": lambda: HierarchicalVAE(VP(), torch.tensor([0.5, 0.5])),
    "shape \\(1, 2\\)": lambda: HierarchicalVAE(VP(), torch.tensor([[0.5, 0.7]])),
    "leaves \\[1e-05, 1\\]": lambda: HierarchicalVAE(VP(), torch.tensor([0.5, 1.5])),
    "layers=0": lambda: HierarchicalVAE.from_sde(VP(), 0),
    "unknown grid": lambda: HierarchicalVAE.from_sde(VP(), 5, grid="even"),
    "unknown variance 'big'; accepted: posterior, transition, interpolated": lambda: (
        HierarchicalVAE.from_sde(VP(), 5, variance="big")
    ),
    "decoder_std=0": lambda: HierarchicalVAE.from_sde(VP(), 5, decoder_std=0),
    "numbers in \\(0, 1\\).*cap the largest": lambda: HierarchicalVAE.from_betas([0.1, 1.0]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_chain_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_layers_that_are_not_there_are_refused():
    vae, x, model = HierarchicalVAE.from_sde(VP(), 5), draw(2, 2), mixture(VP())
    for bad in (0, 6, torch.tensor([1, 6])):
        with pytest.raises(ValueError, match=r"layer=.* must lie in 1\.\.5"):
            vae.encoder.marginal(x, bad)
    for method in (
        lambda: vae.encoder.posterior(x, x, 1),
        lambda: vae.decoder.step(model, x, 1),
    ):
        with pytest.raises(ValueError, match=r"layer=1 must lie in 2\.\.5"):
            method()
    with pytest.raises(ValueError, match="must be an integer"):
        vae.encoder.marginal(x, torch.tensor(1.5))
    with pytest.raises(ValueError, match="must lie in 1"):
        vae.decode(model, x, layer=6)
    for bad in (6, (1, 2), (5, 5), (), (0, 5)):
        with pytest.raises(ValueError, match="layers="):
            vae.ancestral(bad)
        with pytest.raises(ValueError, match="layers="):
            vae.ddim(layers=bad)
    with pytest.raises(ValueError, match="eta=2"):
        vae.ddim(2.0)


def test_a_model_of_another_sde_is_refused():
    vae = HierarchicalVAE.from_sde(VP(), 5)
    with pytest.raises(ValueError, match=r"model lives on VE.*the layers on VP"):
        vae.decoder.step(mixture(VE()), draw(2, 2), 2)


def test_a_chain_that_stops_early_has_no_prior():
    vae = HierarchicalVAE(VP(), torch.tensor([0.1, 0.5]))
    for method in (
        lambda: vae.decoder.prior((1, 2)),
        lambda: vae.ancestral(),
        lambda: vae.elbo(mixture(VP()), draw(2, 2)),
        lambda: vae.importance_weighted(mixture(VP()), draw(2, 2), particles=1),
    ):
        with pytest.raises(ValueError, match=r"last layer is at t=0\.5.*t_max=1"):
            method()


def test_one_layer_is_a_variational_autoencoder():
    vae = HierarchicalVAE.from_sde(VP(), 1)
    assert vae.times.tolist() == [1.0]
    assert vae.encoder.alphas[0].item() == pytest.approx(math.exp(-0.25 * 20.1))
    assert vae.elbo(mixture(VP()), draw(2, 2)).layers.shape == (0, 2)
