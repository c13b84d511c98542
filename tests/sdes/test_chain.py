"""An SDE at finitely many times: the chain behind NCSN and DDPM."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score.sdes import VE, VP, Chain, Cosine


def carried(chain):
    """Scale and noise of each state, by walking the chain state by state."""
    scale, variance, rows = 1.0, 0.0, []
    for a, s in zip(chain.scales.tolist(), chain.stds.tolist(), strict=True):
        scale, variance = a * scale, a**2 * variance + s**2
        rows.append((scale, variance**0.5))
    return np.array(rows).T


def test_alphas_and_sigmas_are_the_moments_of_the_walk():
    generator = torch.Generator().manual_seed(0)
    scales, stds = torch.rand(2, 9, generator=generator, dtype=torch.float64) + 0.3
    chain = Chain(torch.arange(1, 10).double(), scales, stds)
    alphas, sigmas = carried(chain)
    np.testing.assert_allclose(chain.alphas, alphas, rtol=1e-13)
    np.testing.assert_allclose(chain.sigmas, sigmas, rtol=1e-13)
    assert len(chain) == 9


@pytest.mark.parametrize("n", [1, 2, 25])
def test_generic_chain_has_the_marginals_of_the_sde(sde, n):
    if isinstance(sde, VP | VE):
        pytest.skip("has a chain of its own")
    chain = sde.discretize(n)
    span = sde.t_max - sde.t_min
    times = [sde.t_min + span * (i + 1) / n for i in range(n)]
    np.testing.assert_allclose(chain.times, times, rtol=1e-12)
    alphas, sigmas = carried(chain)
    np.testing.assert_allclose(alphas, sde.alpha(chain.times), rtol=1e-11)
    np.testing.assert_allclose(sigmas, sde.sigma(chain.times), rtol=1e-11)


@pytest.mark.parametrize("sde", [VE(), VE(0.2, 7.0)], ids=repr)
def test_ve_chain_is_the_geometric_ladder(sde):
    chain = sde.discretize(12)
    ladder = np.geomspace(sde.sigma_min, sde.sigma_max, 12)
    np.testing.assert_allclose(chain.sigmas, ladder, rtol=1e-12)
    np.testing.assert_allclose(sde.sigma(chain.times), ladder, rtol=1e-12)
    assert chain.stds[0].item() == pytest.approx(sde.sigma_min, rel=1e-12)
    assert chain.scales.tolist() == [1.0] * 12


@pytest.mark.parametrize("sde", [VP(), VP(0.4, 9.0)], ids=repr)
def test_vp_chain_preserves_variance_and_tends_to_the_sde_at_first_order(sde):
    errors = []
    sizes = [200, 400, 800, 1600]
    for n in sizes:
        chain = sde.discretize(n)
        np.testing.assert_allclose(chain.times, np.arange(1, n + 1) / n, rtol=1e-14)
        alphas, sigmas = carried(chain)
        np.testing.assert_allclose(alphas**2 + sigmas**2, 1, rtol=1e-12)
        gap_alpha = (chain.alphas - sde.alpha(chain.times)).abs().max().item()
        gap_sigma = (chain.sigmas - sde.sigma(chain.times)).abs().max().item()
        errors.append(gap_alpha)
        assert gap_sigma < 60 / n
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)


def test_vp_chain_at_a_thousand_is_the_schedule_of_ddpm():
    """Ho et al. 2020: variances linear from 1e-4 to 0.02 in 1000 steps."""
    chain = VP().discretize(1000)
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(chain.stds**2, betas, rtol=1e-12)
    np.testing.assert_allclose(chain.scales**2, 1 - betas, rtol=1e-12)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"n=20 must exceed beta_max=20"):
        VP().discretize(20)
    assert len(VP().discretize(21)) == 21
    with pytest.raises(ValueError, match=r"n=1 must be a whole number of at least 2"):
        VE().discretize(1)
    for bad in (0, -3, 2.0, True):
        with pytest.raises(ValueError, match="n="):
            Cosine().discretize(bad)
        with pytest.raises(ValueError, match="n="):
            VP().discretize(bad)
