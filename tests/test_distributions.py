"""Normal distributions over events, against torch's and scipy's."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from sde_score.distributions import DiscretizedNormal, Normal

STDS = {"scalar": (), "per example": (3,), "per entry": (3, 2, 2)}


@pytest.fixture(params=STDS)
def distributions(request):
    """Ours and torch's: a pair for p and a pair for q."""
    draws = torch.Generator().manual_seed(0)

    def pair(shape):
        mean = torch.randn(3, 2, 2, generator=draws, dtype=torch.float64)
        std = 0.3 + torch.rand(shape, generator=draws, dtype=torch.float64)
        wide = std.reshape(-1, 1, 1) if len(shape) == 1 else std
        theirs = torch.distributions.Normal(mean, wide.expand(3, 2, 2))
        return Normal(mean, std), torch.distributions.Independent(theirs, 2)

    return pair(STDS[request.param]), pair(())


def test_density_entropy_and_divergence_are_those_of_torch(distributions):
    (p, p_torch), (q, q_torch) = distributions
    x = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 2, 2)
    torch.testing.assert_close(p.log_prob(x), p_torch.log_prob(x))
    torch.testing.assert_close(p.entropy(), p_torch.entropy())
    theirs = torch.distributions.kl_divergence
    torch.testing.assert_close(p.kl(q), theirs(p_torch, q_torch))
    torch.testing.assert_close(q.kl(p), theirs(q_torch, p_torch))


def test_samples_have_mean_and_std_and_come_from_the_generator():
    mean = torch.tensor([-1.0, 2.0], dtype=torch.float64).expand(20_000, 2)
    distribution = Normal(mean, torch.tensor([0.5, 3.0], dtype=torch.float64).expand(20_000, 2))
    x = distribution.sample(torch.Generator().manual_seed(0))
    assert torch.equal(x, distribution.sample(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(x.mean(0), mean[0], rtol=0, atol=0.07)
    torch.testing.assert_close(x.std(0), distribution.std[0], rtol=0.02, atol=0)


def test_a_batch_of_numbers_has_one_std_each():
    distribution = Normal(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 2.0]))
    truth = torch.distributions.Normal(torch.zeros(2), distribution.std).log_prob(torch.ones(2))
    torch.testing.assert_close(distribution.log_prob(torch.ones(2).double()), truth)


@pytest.mark.parametrize("std", [0.02, 0.3, 5.0])
def test_levels_have_the_mass_of_their_bins_the_ends_those_beyond(std):
    """Centers -1, -1/3, 1/3, 1; the tails by the normal distribution function of scipy."""
    mean = torch.tensor([[-1.4], [0.1], [0.9]], dtype=torch.float64)
    spread = torch.tensor(std, dtype=torch.float64)
    distribution = DiscretizedNormal(Normal(mean, spread), -1.0, 1.0, 4)
    edges = [-math.inf, -2 / 3, 0.0, 2 / 3, math.inf]
    for level in range(4):
        low, high = (norm.cdf(edges[level + k], mean.numpy(), std) for k in (0, 1))
        found = distribution.log_prob(torch.full((3, 1), level)).exp()
        torch.testing.assert_close(found, torch.as_tensor(high - low)[:, 0], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("level", [0, 3])
def test_far_tails_keep_their_logarithm(level):
    """40 standard deviations off, where the mass itself is zero in float64."""
    distribution = DiscretizedNormal(
        Normal(torch.tensor([[0.0]]).double(), torch.tensor(1 / 60, dtype=torch.float64)), -1, 1, 4
    )
    truth = norm.logsf(2 / 3 * 60)
    found = distribution.log_prob(torch.tensor([[level]])).item()
    assert found == pytest.approx(truth, rel=1e-9)
    middle = DiscretizedNormal(
        Normal(torch.tensor([[5.0]]).double(), torch.tensor(0.1, dtype=torch.float64)), -1, 1, 4
    )
    assert middle.log_prob(torch.tensor([[1]])).item() == pytest.approx(norm.logsf(50), rel=1e-9)


def test_samples_of_levels_are_frequent_as_their_mass():
    mean = torch.full((40_000, 1), 0.4, dtype=torch.float64)
    distribution = DiscretizedNormal(Normal(mean, torch.tensor(0.8)), -1.0, 1.0, 4)
    share = torch.bincount(
        distribution.sample(torch.Generator().manual_seed(1)).flatten(), minlength=4
    )
    mass = [
        distribution.log_prob(torch.full_like(mean, k, dtype=torch.int64))[0].exp()
        for k in range(4)
    ]
    torch.testing.assert_close(share / 40_000, torch.stack(mass).float(), rtol=0, atol=0.01)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        Normal(torch.zeros(3, 2), torch.ones(2))
    with pytest.raises(ValueError, match=r"x has shape \(3,\)"):
        Normal(torch.zeros(3, 2), torch.tensor(1.0)).log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match=r"high=-1\.0 must exceed"):
        DiscretizedNormal(Normal(torch.zeros(3, 2), torch.tensor(1.0)), 1.0, -1.0, 4)
    with pytest.raises(ValueError, match="levels=1"):
        DiscretizedNormal(Normal(torch.zeros(3, 2), torch.tensor(1.0)), -1.0, 1.0, 1)
