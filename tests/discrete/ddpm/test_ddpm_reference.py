"""DDPM with linear betas and 1000 layers against recorded numbers, term by term."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.discrete import HierarchicalVAE, Levels
from sde_score.models import ScoreFunction
from sde_score.sdes import VP

VARIANCES = {"small": "posterior", "large": "transition", "learned": "interpolated(v=0.3)"}
PIXELS = Levels(256, low=-1.0, high=1.0)


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
    on_x0, on_x, std = vae.posteriors
    found = {
        "betas": vae.betas,
        "alphas": vae.steps[0] ** 2,
        "alphas_cumprod": vae.alphas**2,
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
    """A thousandth of VP's noise rate, in a thousand steps at the times i / 1000."""
    arrays, _, _ = record
    times = VP().discrete_times(1000)
    torch.testing.assert_close(times[[0, 1, 999]], times.new_tensor([0.001, 0.002, 1.0]))
    rates = torch.linspace(VP().beta_min, VP().beta_max, 1000, dtype=torch.float64)
    torch.testing.assert_close(arrays["betas"], rates / 1000)
    torch.testing.assert_close(layers(record)[0].alphas, VP().alpha(times), atol=6e-3, rtol=0)


def test_conditionals(record):
    arrays, _, tolerance = record
    vae, model = layers(record)
    x0 = arrays["x0"]
    for row, layer in enumerate((1, 2, 501, 1000)):
        law = vae.encoder(x0, layer)
        x = law.mean + law.std * arrays["eps"][layer - 1]
        torch.testing.assert_close(x, arrays["x_t_subset"][row], **tolerance)
        estimate = vae.denoise(model, x, layer)
        torch.testing.assert_close(estimate, arrays["x0_hat_subset"][row], **tolerance)
        decoder = vae.decoder(model, x) if layer == 1 else vae.decoder_step(model, x, layer)
        torch.testing.assert_close(decoder.mean, arrays["model_mean_subset"][row], **tolerance)
        if layer > 1:
            posterior = vae.posterior(x, x0, layer).mean
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
    """What a network says of each entry goes into one step by `interpolated_std`."""
    arrays, params, tolerance = record
    vae, model = layers(record)
    for layer in (2, 400, 1000):
        law = vae.encoder(arrays["x0"], layer)
        x = law.mean + law.std * arrays["eps"][layer - 1]
        v = torch.full_like(x, params["learned_v"])
        decoder = vae.decoder_step(model, x, layer, std=vae.interpolated_std(v, layer))
        found = vae.posterior(x, arrays["x0"], layer).kl(decoder)
        torch.testing.assert_close(found, arrays["kl_learned"][layer - 1], **tolerance)


def test_the_pixels_are_the_levels(record):
    arrays, _, _ = record
    assert torch.equal(PIXELS.of(arrays["x0"]), arrays["pixels"])
