"""What makes the zoo exact: windows, integrals and inverse cdfs in one dimension."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score.models.exact.quadrature import IntervalDistribution, bracket, log_integral


def column(*entries):
    return torch.tensor(entries, dtype=torch.float64)[:, None]


def test_quantile_inverts_the_cdf_down_to_the_ends():
    """Where the density vanishes at the end of a panel Newton's method alone would fail."""
    distribution = IntervalDistribution(
        lambda x: x.log(), 0.0, 3.0
    )  # density 2 x / 9, quantile 3 sqrt(u)
    u = torch.tensor([0.0, 1e-12, 1e-7, 1e-3, 0.4, 1 - 1e-9], dtype=torch.float64)
    torch.testing.assert_close(distribution.quantile(u), 3 * u.sqrt(), rtol=1e-10, atol=1e-15)
    assert distribution.log_z == pytest.approx(math.log(4.5), rel=1e-13)
    flat = IntervalDistribution(lambda x: 3 * x.log(), 0.0, 3.0)
    u[1] = 1e-17  # from here Newton's first step is a million panels long
    torch.testing.assert_close(flat.quantile(u), 3 * u**0.25, rtol=1e-10, atol=1e-12)
    steep = IntervalDistribution(lambda x: -50 * x + 900, 0.0, 10.0)
    want = -torch.log1p(-u[:-1]) / 50
    torch.testing.assert_close(steep.quantile(u[:-1]), want, rtol=1e-10, atol=1e-15)
    assert steep.log_z == pytest.approx(900 - math.log(50), rel=1e-13)


def test_log_integral_finds_its_peaks():
    """A needle in a long interval, two peaks, one at an end, one far from all of this."""

    def normal(y, center, width):
        return -0.5 * ((y - center) / width) ** 2 - (math.sqrt(2 * math.pi) * width).log()

    centers, widths = column(2.3, -7.1, 0.02, 9.99), column(1e-3, 0.5, 3.0, 1e-4)
    low, high = torch.full_like(centers, -10), torch.full_like(centers, 10)
    found = log_integral(lambda y: normal(y, centers, widths), low, high)
    distribution = stats.norm(centers.numpy(), widths.numpy())
    want = torch.from_numpy(np.log(distribution.cdf(10) - distribution.cdf(-10))).squeeze(1)
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)

    width = column(0.04)  # 1 / 100 of their distance

    def pair(y):
        return torch.logaddexp(normal(y, -2.0, width), normal(y, 2.0, width))

    torch.testing.assert_close(
        log_integral(pair, low, high), torch.full_like(want, math.log(2)), rtol=0, atol=1e-12
    )


def test_bracket_opens_for_sharp_observations_alone():
    """Sharp: e^-DEPTH of the mass outweighs the evidence of the observation for the other end."""
    centers = column(3.0, 3.0, 9.0, -9.0, 4.9, 4.9)
    low, high = bracket(-5.0, 5.0, centers, column(9.0, 0.01, 0.01, 0.01, 0.45, 0.5))
    torch.testing.assert_close(low, column(-5.0, -5.0, -5.0, -9.1, -5.0, -5.0))
    torch.testing.assert_close(high, column(5.0, 5.0, 9.1, 5.0, 9.4, 5.0))
