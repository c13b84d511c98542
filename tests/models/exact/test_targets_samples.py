"""The zoo at t = 0: its samples follow its distributions, down to the tails."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from sde_score.models import (
    DoubleWell,
    Exponential,
    Funnel,
    Gaussian,
    Mixture,
    Product,
    Quartic,
    Ring,
    Rosenbrock,
)

N = 4000


def cdf_on_grid(density, low, high):
    """The cdf of an unnormalized density, by the trapezoid rule."""
    grid = np.linspace(low, high, 40001)
    mass = integrate.cumulative_trapezoid(density(grid), grid, initial=0)
    return lambda x: np.interp(x, grid, mass / mass[-1])


def uniforms(part, x):
    """The Rosenblatt transform: independent uniform numbers, if x follows the target."""
    if isinstance(part, Product):
        cuts = np.cumsum([inner.event_shape[0] for inner in part.parts])[:-1]
        own = zip(part.parts, np.split(x, cuts, 1), strict=True)
        return np.concatenate([uniforms(inner, y) for inner, y in own], 1)
    if isinstance(part, Gaussian):
        cov = np.broadcast_to(part.covariance, (x.shape[1],) * 2)
        return stats.norm.cdf(np.linalg.solve(np.linalg.cholesky(cov), (x - part.mean).T).T)
    if isinstance(part, Ring):
        cdf = cdf_on_grid(
            lambda r: r * np.exp(-((r - part.radius) ** 2) / (2 * part.width**2)), 0, 9
        )(np.linalg.norm(x, axis=1))
        return np.stack([cdf, np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) + 0.5], 1)
    if isinstance(part, Funnel):
        return stats.norm.cdf(
            np.concatenate([x[:, :1] / part.std, x[:, 1:] * np.exp(-x[:, :1] / 2)], 1)
        )
    if isinstance(part, Rosenbrock):
        z = (x[:, 0] - part.a) * 2**0.5, (x[:, 1] - x[:, 0] ** 2) * (2 * part.b) ** 0.5
        return stats.norm.cdf(np.stack(z, 1))
    if isinstance(part, Quartic):
        share = stats.gamma(0.25).cdf((x / part.scale) ** 4 / 4)
        return 0.5 + 0.5 * np.sign(x) * share
    if isinstance(part, Exponential):
        return 1 - np.exp(-part.rate * x)
    if isinstance(part, DoubleWell):
        return cdf_on_grid(
            lambda y: np.exp(-part.barrier * ((y / part.position) ** 2 - 1) ** 2 - part.tilt * y),
            -6,
            6,
        )(x)
    return marginals(part, x)


def marginals(part, x):
    """The cdf of each entry of a mixture, which are not independent."""
    weights = np.array(part.weights or [1.0] * len(part.means))
    spread = np.array(part.covariances)
    means = np.array(part.means)
    variances = np.diagonal(spread, axis1=1, axis2=2) if spread.ndim == 3 else spread
    scale = np.broadcast_to(variances, means.shape) ** 0.5
    return stats.norm.cdf((x[:, None] - means) / scale).transpose(0, 2, 1) @ (
        weights / weights.sum()
    )


def test_samples_follow_the_distribution(target):
    """Kolmogorov-Smirnov on the Rosenblatt transform, entry by entry and pair by pair."""
    x = target.sample(N, torch.Generator().manual_seed(11))
    assert x.shape == (N, *target.event_shape)
    assert x.dtype == torch.float64
    u = uniforms(target, x.numpy())
    for entry in u.T:
        assert stats.kstest(entry, "uniform").pvalue > 1e-4
    if not isinstance(target, Mixture):
        seen = np.corrcoef(u.T) if u.shape[1] > 1 else np.eye(1)
        assert np.abs(seen - np.eye(u.shape[1])).max() < 4 / N**0.5


def test_quantiles_reach_into_the_tails():
    """Once in 1e12 draws: the interval on which a distribution is tabulated is wide enough."""
    shares = np.array([1e-12, 1e-4, 0.3, 0.9])
    u = torch.from_numpy(shares)
    tail = stats.gamma(0.25).isf(2 * np.minimum(shares, 1 - shares))
    want = np.sign(shares - 0.5) * 0.7 * (4 * tail) ** 0.25
    np.testing.assert_allclose(Quartic(1, 0.7)._entry.quantile(u), want, rtol=1e-10)
    well = DoubleWell(1, 4.0, 1.2, 0.5)

    def density(x):
        return math.exp(-4 * ((x / 1.2) ** 2 - 1) ** 2 - 0.5 * x - well.log_z)

    for top, share in zip(well._entry.quantile(u).tolist(), shares, strict=True):
        found = integrate.quad(density, -5, top, epsabs=0, points=[min(-1.2, top)])[0]
        assert found == pytest.approx(share, rel=1e-9)
    ring = Ring(1.0, 0.7)
    distance = ring._radii.quantile(1 - u)  # where 1 - u has four digits left of 1e-12
    z = (distance.numpy() - 1) / 0.7
    above = 0.49 * np.exp(-(z**2) / 2) + 0.7 * math.sqrt(2 * math.pi) * stats.norm.sf(z)
    np.testing.assert_allclose(
        2 * math.pi * above / math.exp(ring.log_z), u, rtol=1e-3
    )  # 1 - u is rounded


def test_samples_depend_on_the_generator_alone(target):
    again = [target.sample(5, torch.Generator().manual_seed(7)) for _ in range(2)]
    torch.testing.assert_close(*again, rtol=0, atol=0)
    assert not torch.equal(again[0], target.sample(5, torch.Generator().manual_seed(8)))
    with pytest.raises(ValueError, match="count=0"):
        target.sample(0)
