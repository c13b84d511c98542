"""The Gaussian control variate of Hutchinson's estimate."""

import itertools

import pytest
import torch

from sde_score import sdes
from sde_score.likelihood import log_prob
from sde_score.models import GaussianMixture

COVARIANCE = torch.tensor([[1.0, 0.6, -0.3], [0.6, 0.8, 0.1], [-0.3, 0.1, 0.3]]).double()
POINTS = torch.tensor([[0.3, -0.2, 0.5], [1.0, 0.4, -0.1]], dtype=torch.float64)
TIGHT = {"divergence": "hutchinson", "rtol": 1e-7, "atol": 1e-7}


@pytest.mark.parametrize("sde", [sdes.VP(), sdes.VE()])
@pytest.mark.parametrize("start", [None, 0.3])
def test_gaussian_data_leave_no_variance(sde, start):
    model = GaussianMixture(torch.zeros(1, 3), COVARIANCE[None], sde)
    exact = log_prob(model, POINTS, start=start, rtol=1e-7, atol=1e-7).log_prob
    given = {**TIGHT, "start": start, "probe_distribution": "gaussian"}
    found = log_prob(model, POINTS, covariance=COVARIANCE, **given).log_prob
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)
    assert (log_prob(model, POINTS, **given).log_prob - exact).abs().max() > 1e-2


def test_any_covariance_leaves_the_mean_as_it_is():
    """All signs of three entries, whose mean is the exact trace, on a mixture."""
    means = torch.tensor([[-1.0, 0, 0.5], [1.0, 0.5, 0]])
    model = GaussianMixture(means, torch.stack([COVARIANCE, 0.5 * COVARIANCE]), sdes.VP())
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3))).double()
    probes = signs[:, None].expand(8, 2, 3)
    exact = log_prob(model, POINTS, rtol=1e-7, atol=1e-7).log_prob
    found = log_prob(model, POINTS, probes=probes, covariance=3 * COVARIANCE, **TIGHT).log_prob
    torch.testing.assert_close(found, exact, atol=1e-5, rtol=0)


def test_what_is_no_covariance_is_refused():
    model = GaussianMixture(torch.zeros(1, 3), COVARIANCE[None], sdes.VP())
    for wrong in (torch.eye(2), COVARIANCE.triu()):
        with pytest.raises(ValueError, match=r"covariance has shape"):
            log_prob(model, POINTS, divergence="hutchinson", covariance=wrong)
    with pytest.raises(ValueError, match=r"covariance has eigenvalues from -1"):
        log_prob(model, POINTS, divergence="hutchinson", covariance=-torch.eye(3))
    with pytest.raises(ValueError, match=r"covariance is for divergence='hutchinson'"):
        log_prob(model, POINTS, covariance=COVARIANCE)
