"""Why products of diffusions need Markov chains: the sum of noisy scores is not a noisy score."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.sdes import VE

COUNT = 4000
SPREAD = (2 / COUNT) ** 0.5  # relative standard error of a variance


@pytest.fixture
def product():
    """N(0, 1) N(0, 1/4) by summed scores; its distribution without noise is N(0, 1/5)."""
    sde = VE(0.01, 10.0)
    parts = [GaussianMixture(torch.zeros(1, 1), variance, sde) for variance in (1.0, 0.25)]
    return ScoreFunction(lambda x, t: sum(part.score(x, t) for part in parts), sde)


def test_summed_scores_are_those_of_another_distribution_under_noise(product):
    """At sigma = 0.7 the diffused product has variance 0.690, the summed scores 0.494."""
    t = product.sde.time_of_log_snr(-2 * torch.tensor(0.7, dtype=torch.float64).log())
    x = torch.ones(1, 1, dtype=torch.float64)
    variance = -1 / product.score(x, t).item()
    assert variance == pytest.approx(1 / (1 / 1.49 + 1 / 0.74), rel=1e-9)
    assert variance == pytest.approx(0.494, abs=5e-4)
    assert abs(variance - (0.2 + 0.49)) > 0.19


def test_reverse_diffusion_misses_the_product_and_chains_hit_it(product):
    start = torch.zeros(COUNT, 1, dtype=torch.float64)
    diffused = samplers.create("heun", steps=60)(
        product, 10 * torch.randn(COUNT, 1, generator=torch.Generator().manual_seed(0)).double(),
        progress=False,
    )  # fmt: skip
    assert abs(diffused.var().item() / 0.2 - 1) > 8 * SPREAD
    chain = samplers.create("mcmc(kernel='mala-score(step_size=0.1)')", steps=100)
    corrected = chain(product, start, seed=1, progress=False)
    assert corrected.var().item() == pytest.approx(0.2, rel=4 * SPREAD)
