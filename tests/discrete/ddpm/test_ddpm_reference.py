"""DDPM with linear betas and 1000 layers against recorded numbers, term by term."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, linear_betas
from sde_score.distributions import Quantization
from sde_score.models import ScoreFunction
from sde_score.samplers import interpolated_std
from sde_score.sdes import VP

VARIANCES = {"small": "posterior", "large": "transition", "learned": "interpolated(v=0.3)"}
PIXELS = Quantization(256, low=-1.0, high=1.0)


@pytest.fixture
def record(reference):
    arrays, description = reference("ddpm_vlb")
    tolerance = {key: description["recommended_tolerance"][key] for key in ("rtol", "atol")}
    return arrays, description["params"], tolerance


def layers(record, variance="posterior"):
    """The chain, and the model whose noise prediction is kappa sigma x + c."""
    arrays, params, _ = record
    spread = float(arrays["posterior_variance"][1]) ** 0.5
    vae = HierarchicalVAE.from_betas(arrays["betas"], variance=variance, decoder_std=spread)

    def score(x, t):
        sigma = vae.sde.sigma(t).reshape(-1, *(1,) * (x.ndim - 1))
        return -(params["kappa"] * sigma * x + params["c"]) / sigma

    return vae, ScoreFunction(score, vae.sde)


def test_tables(record):
    arrays, _, tolerance = record
    vae, _ = layers(record)
    on_x0, on_x, std = vae.encoder.posteriors
    found = {
        "betas": vae.encoder.betas,
        "alphas": vae.encoder.steps[0] ** 2,
        "alphas_cumprod": vae.encoder.alphas**2,
        "snr": vae.log_snrs.exp(),
        "posterior_mean_coef1": on_x0,
        "posterior_mean_coef2": on_x,
        "posterior_variance": std**2,
    }
    for name, table in found.items():
        torch.testing.assert_close(table, arrays[name], **tolerance, msg=lambda m, n=name: n + m)
    clipped = 2 * std.clamp(min=float(std[1])).log()
    torch.testing.assert_close(clipped, arrays["posterior_log_variance_clipped"], **tolerance)


def test_the_chain_of_vp_is_this_one(record):
    """Betas from beta_min / n to beta_max / n, their products near alpha at the times i / n."""
    arrays, _, _ = record
    vp, alphas = VP(), layers(record)[0].encoder.alphas
    betas = linear_betas(1000, vp.beta_min / 1000, vp.beta_max / 1000)
    torch.testing.assert_close(alphas**2, (1 - betas).cumprod(0))
    torch.testing.assert_close(arrays["betas"], betas)
    torch.testing.assert_close(alphas, vp.alpha(vp.discrete_times(1000)), atol=6e-3, rtol=0)


def test_conditionals(record):
    arrays, _, tolerance = record
    vae, model = layers(record)
    x0 = arrays["x0"]
    for row, layer in enumerate((1, 2, 501, 1000)):
        distribution = vae.encoder.marginal(x0, layer)
        x = distribution.mean + distribution.std * arrays["eps"][layer - 1]
        torch.testing.assert_close(x, arrays["x_t_subset"][row], **tolerance)
        estimate = vae.decoder.denoise(model, x, layer)
        torch.testing.assert_close(estimate, arrays["x0_hat_subset"][row], **tolerance)
        decoder = vae.decoder.data(model, x) if layer == 1 else vae.decoder.step(model, x, layer)
        torch.testing.assert_close(decoder.mean, arrays["model_mean_subset"][row], **tolerance)
        if layer > 1:
            posterior = vae.encoder.posterior(x, x0, layer).mean
            torch.testing.assert_close(posterior, arrays["posterior_mean_subset"][row], **tolerance)


@pytest.mark.parametrize("name", VARIANCES)
def test_every_term_of_the_bound(record, name):
    arrays, _, tolerance = record
    vae, model = layers(record, VARIANCES[name])
    bound = vae.elbo(
        model, arrays["x0"], levels=PIXELS, noise=lambda layer, draw: arrays["eps"][layer - 1]
    )
    terms = torch.cat([bound.reconstruction[None], bound.layers])
    torch.testing.assert_close(terms, arrays[f"kl_{name}"], **tolerance)
    torch.testing.assert_close(bound.prior, arrays["kl_prior"], **tolerance)
    torch.testing.assert_close(bound.nats, arrays[f"vlb_{name}"], **tolerance)
    torch.testing.assert_close(bound.bits_per_dim(), arrays[f"bpd_{name}"], **tolerance)
    assert bound.nfe == 1 + math.ceil(999 / (256 // 3))  # the decoder; 85 layers of 3 in a call


def test_a_variance_learned_entry_by_entry(record):
    """A learned variance enters one step as the std that `interpolated_std` makes of it."""
    arrays, params, tolerance = record
    vae, model = layers(record)
    for layer in (2, 400, 1000):
        distribution = vae.encoder.marginal(arrays["x0"], layer)
        x = distribution.mean + distribution.std * arrays["eps"][layer - 1]
        v = torch.full_like(x, params["learned_v"])
        std = interpolated_std(vae.sde, *vae.times[layer - 2 : layer], v.double())
        decoder = vae.decoder.step(model, x, layer, std=std)
        found = vae.encoder.posterior(x, arrays["x0"], layer).kl(decoder)
        torch.testing.assert_close(found, arrays["kl_learned"][layer - 1], **tolerance)


def test_the_pixels_are_the_levels(record):
    arrays, _, _ = record
    assert torch.equal(PIXELS.levels(arrays["x0"]), arrays["pixels"])
