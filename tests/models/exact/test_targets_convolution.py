"""The zoo at t > 0: densities and denoisers against the convolution that defines them."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from sde_score.models import (
    Diffused,
    DoubleWell,
    Exponential,
    Funnel,
    Quartic,
    Ring,
    Rosenbrock,
)
from sde_score.models.parametrization import Scales
from sde_score.sdes import VE, VP

SDES = [VP(0.4, 9.0), VE(0.05, 9.0)]


@pytest.fixture(params=SDES, ids=lambda sde: type(sde).__name__)
def sde(request):
    return request.param


def seeded(number):
    return torch.Generator().manual_seed(number)


def at(alpha, sigma):
    """Scales that no clock has to reach."""
    moment = Scales(VP(), torch.tensor(0.5, dtype=torch.float64))
    moment.__dict__["alpha"] = torch.tensor(alpha, dtype=torch.float64)
    moment.__dict__["sigma"] = torch.tensor(sigma, dtype=torch.float64)
    return moment


def rule(edges, nodes=10):
    """Gauss-Legendre nodes and weights between the given edges."""
    y, w = np.polynomial.legendre.leggauss(nodes)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (y + 1)).ravel(), (half * w).ravel()


def entry_distribution(target):
    """Energy of one entry, and where it ends, of the targets whose entries are alike."""
    if isinstance(target, Exponential):
        return lambda y: target.rate * y, 0.0, 40 / target.rate
    if isinstance(target, Quartic):
        return lambda y: (y / target.scale) ** 4 / 4, -5 * target.scale, 5 * target.scale

    def well(y):
        return target.barrier * ((y / target.position) ** 2 - 1) ** 2 + target.tilt * y

    return well, -5 * target.position, 5 * target.position


def convolution(target, x, alpha, sigma):
    """log p_t(x) and E[x0 | x] of one entry, on panels that know of both widths."""
    energy, low, high = entry_distribution(target)
    near = x / alpha + sigma / alpha * np.linspace(-12, 12, 161)
    far = np.linspace(min(low, near[0]), max(high, near[-1]), 801)
    edges = np.unique([*near, *far, *np.linspace(low, high, 801)])
    y, w = rule(edges[edges >= 0] if isinstance(target, Exponential) else edges)
    log_joint = -energy(y) - 0.5 * ((x - alpha * y) / sigma) ** 2
    peak = log_joint.max()
    mass = w * np.exp(log_joint - peak)
    y0, w0 = rule(np.linspace(low, high, 1601))
    constant = np.log(w0 @ np.exp(-energy(y0))) + math.log(sigma * math.sqrt(2 * math.pi))
    return peak + np.log(mass.sum()) - constant, mass @ y / mass.sum()


SCALES = [(1, 1e-4), (1, 1e-3), (0.999, 0.05), (0.8, 0.6), (1, 9.0), (0.0066, 1.0), (1, 80.0)]


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize(
    "target",
    [
        Quartic(1),
        Quartic(1, 0.1),
        DoubleWell(1),
        DoubleWell(1, 0.5, 2.0, -2.0),
        DoubleWell(1, 100.0, 1.0, 0.0),
        Exponential(1),
        Exponential(1, 3.0),
    ],
    ids=str,
)
def test_entries_are_convolved_with_the_noise(target, scales):
    """From noise of 1e-4 to noise in which the data are a point; unlikely x too."""
    alpha, sigma = scales
    x0 = target.sample(6, seeded(1))
    x = alpha * x0 + sigma * torch.linspace(-4, 4, 6, dtype=torch.float64)[:, None]
    want = [convolution(target, entry, alpha, sigma)[0] for entry in x.flatten().tolist()]
    np.testing.assert_allclose(
        target.diffused_log_prob(x, at(alpha, sigma)), want, rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize(
    ("x", "alpha", "sigma"),
    [(60.0, 1.0, 1.0), (20.0, 1.0, 0.05), (0.6, 0.1, 0.001), (9.0, 1.0, 0.001)],
)
def test_tails_that_no_data_reach_are_integrated_too(x, alpha, sigma):
    """Far out, the posterior of x0 lies where the distribution of the data has all but vanished."""
    moment = at(alpha, sigma)
    for target in (Quartic(1), DoubleWell(1), DoubleWell(1, tilt=-4.0), Exponential(1, 10.0)):
        for side in (-x, x) if not isinstance(target, Exponential) else (x,):
            want = convolution(target, side, alpha, sigma)[0]
            got = target.diffused_log_prob(torch.tensor([[side]], dtype=torch.float64), moment)
            assert got.item() == pytest.approx(want, rel=1e-11)


def plane(target, x, alpha, sigma):
    """log p_t(x) and E[x0 | x] of a target in the plane, by brute force over all x0.

    For little noise the grid is laid over the noise, otherwise over the data; the trapezoid rule
    is exact to rounding for both, as they vanish on all sides.
    """
    if sigma < 0.25 * alpha:
        e = np.linspace(-9, 9, 241)
        grid = (x - sigma * np.stack(np.meshgrid(e, e), -1).reshape(-1, 2)) / alpha
        cell = (sigma / alpha * (e[1] - e[0])) ** 2
    elif isinstance(target, Rosenbrock | Funnel):
        bent = isinstance(target, Rosenbrock)
        u = np.linspace(-5, 5, 401) + target.a if bent else np.linspace(-8, 8, 161) * target.std
        z = np.linspace(-7, 7, 101) / target.b**0.5 if bent else np.linspace(-9, 9, 181)
        first, rest = (part.ravel() for part in np.meshgrid(u, z))
        second = rest + first**2 if bent else rest * np.exp(first / 2)
        grid, cell = np.stack([first, second], 1), (u[1] - u[0]) * (z[1] - z[0])
        cell = cell if bent else cell * np.exp(first / 2)
    else:
        e = np.linspace(-5.5, 5.5, 701)
        grid, cell = np.stack(np.meshgrid(e, e), -1).reshape(-1, 2), (e[1] - e[0]) ** 2
    data = target.log_prob(torch.from_numpy(grid)).numpy()
    off = 0.5 * (((x - alpha * grid) / sigma) ** 2).sum(1)
    peak = (data - off).max()
    mass = cell * np.exp(data - off - peak) / (2 * math.pi * sigma**2)
    return peak + np.log(mass.sum()), mass @ grid / mass.sum()


@pytest.mark.parametrize("scales", [(1, 1e-3), (0.99, 0.1), (0.8, 0.6), (0.3, 1.0)], ids=str)
@pytest.mark.parametrize(
    "target", [Ring(), Ring(2.0, 0.4), Funnel(2, 0.8), Rosenbrock(), Rosenbrock(-0.5, 2.0)], ids=str
)
def test_plane_targets_are_convolved_with_the_noise(target, scales):
    """The integral over one latent against the one over the plane, which knows of no latent."""
    alpha, sigma = scales
    x = (
        alpha * target.sample(3, seeded(2))
        + sigma * torch.randn(3, 2, generator=seeded(3)).double()
    )
    moment = at(alpha, sigma)
    for entry in x:
        want, _ = plane(target, entry.numpy(), alpha, sigma)
        got = target.diffused_log_prob(entry[None], moment).item()
        assert got == pytest.approx(want, rel=1e-9, abs=1e-9)


def latent(target, x, alpha, sigma):
    """log p_t(x) of a ring or funnel by scipy, over the latent, where the plane is too wide."""
    if isinstance(target, Ring):
        far, width = np.linalg.norm(x), target.width

        def log_f(r):
            bessel = np.log(r * special.i0e(alpha * r * far / sigma**2)) - 2 * np.log(sigma)
            off = 0.5 * ((far - alpha * r) / sigma) ** 2
            return bessel - off - 0.5 * ((r - target.radius) / width) ** 2 - target.log_z

        center, edges = far / alpha, np.linspace(0, target.radius + 12 * width, 2001)
    else:
        square = (x[1:] ** 2).sum()

        def log_f(v):
            spread = np.sqrt(alpha**2 * np.exp(v) + sigma**2)
            first = stats.norm.logpdf(v, 0, target.std) + stats.norm.logpdf(x[0], alpha * v, sigma)
            each = -np.log(spread) - 0.5 * math.log(2 * math.pi)
            return first + (target.dim - 1) * each - 0.5 * square / spread**2

        center, edges = x[0] / alpha, np.linspace(-14, 14, 4001) * target.std
    near = center + sigma / alpha * np.linspace(-12, 12, 161)
    y, w = rule(np.unique([*edges, *near.clip(edges[0], edges[-1])]))
    return special.logsumexp(log_f(y), b=w)


@pytest.mark.parametrize("scales", SCALES[1:], ids=str)
@pytest.mark.parametrize("target", [Ring(), Ring(1.0, 1.0), Funnel(2), Funnel(12)], ids=str)
def test_latents_are_integrated_from_little_noise_to_much(target, scales):
    alpha, sigma = scales
    x = alpha * target.sample(4, seeded(4))
    x = x + sigma * torch.randn(x.shape, generator=seeded(5), dtype=torch.float64)
    want = [latent(target, row, alpha, sigma) for row in x.numpy()]
    found = target.diffused_log_prob(x, at(alpha, sigma))
    np.testing.assert_allclose(found, want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("t", [0.02, 0.5])
def test_denoiser_is_the_posterior_mean(sde, t):
    """E[x0 | x_t] by quadrature; the model has it from the score, by Tweedie's formula."""
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    for target in (Quartic(1), DoubleWell(1), Exponential(1), Ring(), Rosenbrock()):
        x = Diffused(target, sde).sample(4, t, seeded(5))
        dim = target.event_shape[0]
        means = [
            convolution(target, row[0], alpha, sigma)[1]
            if dim == 1
            else plane(target, row, alpha, sigma)[1]
            for row in x.numpy()
        ]
        found = target.diffused(sde).denoise(x, t).detach().numpy().reshape(len(x), -1)
        want = np.reshape(means, found.shape)
        np.testing.assert_allclose(found, want, rtol=1e-8, atol=1e-8, err_msg=str(target))
