"""The zoo at t > 0: densities, scores and denoisers against the convolution that defines them."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from sde_score.models import (
    TARGETS,
    Diffused,
    DoubleWell,
    EnergyBased,
    Exponential,
    Funnel,
    Gaussian,
    GaussianMixture,
    Marginal,
    Mixture,
    Model,
    Product,
    Quartic,
    Ring,
    Rosenbrock,
    divergence,
)
from sde_score.models.base import Moment
from sde_score.sdes import EDM, VE, VP

SDES = [VP(0.4, 9.0), VE(0.05, 9.0)]
ZOO = [
    *(TARGETS.create(name) for name in TARGETS),
    Gaussian((0.3, 0.0, -1.0), 2.0),
    Ring(1.0, 0.8),
    Funnel(3, 1.2),
    Rosenbrock(-0.5, 2.0),
    Quartic(1, 0.4),
    DoubleWell(1, 6.0, 0.8, -2.0),
    DoubleWell(1, 100.0, 1.5, 0.0),
    Exponential(1, 2.5),
    Product((Quartic(1), Mixture.two_modes(), Exponential(1, 0.5))),
    Product((Ring(), Gaussian((1.0,), 0.3))),
]


@pytest.fixture(params=ZOO, ids=lambda law: type(law).__name__)
def target(request):
    return request.param


@pytest.fixture(params=SDES, ids=lambda sde: type(sde).__name__)
def sde(request):
    return request.param


def seeded(number):
    return torch.Generator().manual_seed(number)


def points(target, sde, t, stretch=2.0):
    """Draws of x_t, the last one moved to where hardly any would fall."""
    x = Diffused(target, sde).sample(4, t, seeded(5))
    x[-1] = x[-1] + stretch * (x[-1] - x[0] + 0.25)
    return x


def at(alpha, sigma):
    """Scales that no clock has to reach."""
    moment = Moment(VP(), torch.tensor(0.5, dtype=torch.float64))
    moment.__dict__["alpha"] = torch.tensor(alpha, dtype=torch.float64)
    moment.__dict__["sigma"] = torch.tensor(sigma, dtype=torch.float64)
    return moment


def rule(edges, nodes=10):
    """Gauss-Legendre nodes and weights between the given edges."""
    y, w = np.polynomial.legendre.leggauss(nodes)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (y + 1)).ravel(), (half * w).ravel()


def entry_law(target):
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
    energy, low, high = entry_law(target)
    high = max(high, x / alpha + 12 * sigma / alpha) if low == 0 else high
    near = x / alpha + sigma / alpha * np.linspace(-12, 12, 161)
    y, w = rule(np.unique(np.clip([*near, *np.linspace(low, high, 801)], low, high)))
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


def test_the_tail_far_from_all_data_is_that_of_the_nearest_data():
    """x = 60 or -60 at sigma = 1, for data that end near 5: the posterior is pulled to the end."""
    for target in (Quartic(1), DoubleWell(1), Exponential(1, 10.0)):
        for x in (-60.0, 60.0):
            want = convolution(target, x, 1.0, 1.0)[0]
            got = target.diffused_log_prob(torch.tensor([[x]]).double(), at(1.0, 1.0))
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
        x = points(target, sde, t, stretch=0.1)
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


def test_score_is_the_gradient_of_the_density(target, sde):
    """Central differences of log_prob, at a time for each example, and of the score itself."""
    t = torch.tensor([sde.t_min + 0.01, 0.1, 0.6, 1.0], dtype=torch.float64)
    model = target.diffused(sde)
    x = torch.cat([points(target, sde, s)[i : i + 1] for i, s in enumerate(t.tolist())])
    step = 1e-4 * sde.sigma(t)
    score = model.score(x, t)
    trace = divergence(lambda y: model.score(y, t), x)
    slopes = torch.zeros_like(trace)
    for i in range(x.shape[1]):
        shift = torch.zeros_like(x)
        shift[:, i] = step
        slope = (model.log_prob(x + shift, t) - model.log_prob(x - shift, t)) / (2 * step)
        torch.testing.assert_close(score[:, i], slope, rtol=2e-6, atol=2e-6)
        slopes += (model.score(x + shift, t) - model.score(x - shift, t))[:, i] / (2 * step)
    torch.testing.assert_close(trace, slopes, rtol=1e-5, atol=1e-5)


def test_density_obeys_the_fokker_planck_equation(target, sde):
    r"""d log p / dt = -D f - f x . s + g^2 (div s + |s|^2) / 2 at every x and t."""
    t = torch.tensor([sde.t_min + 0.01, 0.1, 0.6, 0.99], dtype=torch.float64, requires_grad=True)
    model = target.diffused(sde)
    x = torch.cat([points(target, sde, s)[i : i + 1] for i, s in enumerate(t.tolist())])
    (rate,) = torch.autograd.grad(model.log_prob(x, t).sum(), t)
    t = t.detach()
    score, trace = model.score(x, t), divergence(lambda y: model.score(y, t), x)
    f, g = sde.drift_rate(t), sde.diffusion(t)
    want = -f * (x.shape[1] + (x * score).sum(1)) + g**2 / 2 * (trace + score.square().sum(1))
    torch.testing.assert_close(rate, want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("target", [law for law in ZOO if "Exponential" not in str(law)], ids=str)
def test_law_of_the_data_returns_as_noise_goes(target):
    """log p_t = log p + sigma^2 / 2 (Laplacian log p + |grad log p|^2) + O(sigma^4) on VE.

    Not so the exponential, whose edge is smoothed; its diffused density is checked above.
    """
    x = target.sample(4, seeded(6))
    score, trace = target.score(x), divergence(target.score, x)
    slope = 0.5 * (trace + score.square().sum(1))
    sigma = 3e-4
    gap = target.diffused(VE(sigma, 9.0)).log_prob(x, 0.0) - target.log_prob(x)
    torch.testing.assert_close(gap / sigma**2, slope, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(Diffused(target, VP()).log_prob(x), target.log_prob(x))


@pytest.mark.parametrize("name", TARGETS)
def test_diffused_density_integrates_to_one_on_the_plane(name, sde):
    """At a middle time, by the trapezoid rule; sinh spreads it over the tails of the funnel."""
    target = TARGETS.create(name)
    t = 0.5
    sigma = float(sde.sigma(t))
    if name == "funnel":
        v, z = np.linspace(-24, 24, 101), np.linspace(-15, 15, 121)
        first, second = np.sinh(z) * 0.2, np.cosh(z) * 0.2
        weight = np.outer(np.ones(101), second) * (v[1] - v[0]) * (z[1] - z[0])
        x = np.stack(np.meshgrid(v, first, indexing="ij"), -1)
    else:
        low, high = (-6, 34) if name in ("rosenbrock", "exponential") else (-10, 10)
        e = np.arange(low, high, 0.75 * sigma)
        weight = np.full((len(e), len(e)), (e[1] - e[0]) ** 2)
        x = np.stack(np.meshgrid(e, e, indexing="ij"), -1)
    with torch.no_grad():
        log_prob = target.diffused(sde).log_prob(torch.from_numpy(x.reshape(-1, 2)), t)
    total = torch.from_numpy(weight.ravel()) @ log_prob.exp()
    assert total.item() == pytest.approx(1, abs=1e-8)


def test_samples_of_the_diffused_law_follow_its_density(sde):
    """The cdf of the diffused double well, integrated, against draws of x_t."""
    model, t = Diffused(DoubleWell(1), sde), 0.3
    x = model.sample(4000, t, seeded(9))
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        density = model.log_prob(grid, t).exp().numpy()
    cdf = np.cumsum(density) * 0.006 - 0.003 * density
    uniform = np.interp(x.numpy().ravel(), grid.numpy().ravel(), cdf)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4
    again = model.sample(3, None, seeded(9))
    torch.testing.assert_close(again, DoubleWell(1).sample(3, seeded(9)), rtol=0, atol=0)


def test_parts_of_a_product_diffuse_alone(sde):
    parts = (Ring(), Quartic(1), Mixture.two_modes(dim=2))
    whole = Product(parts).diffused(sde)
    x = points(Product(parts), sde, 0.2)
    own = list(zip([p.diffused(sde) for p in parts], x.split([2, 1, 2], 1), strict=True))
    for t in (0.2, torch.tensor([0.1, 0.2, 0.5, 0.9], dtype=torch.float64)):
        scores = torch.cat([model.score(y, t) for model, y in own], 1)
        torch.testing.assert_close(whole.score(x, t), scores, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            whole.log_prob(x, t), sum(model.log_prob(y, t) for model, y in own)
        )


def test_diffused_targets_satisfy_the_model_protocol(target, sde):
    """Energy, score and the rest from one evaluation each, whatever the dtype and shape of t."""
    model = target.diffused(sde)
    assert isinstance(model, Model)
    assert isinstance(model, EnergyBased)
    assert model.sde == sde
    x, t = points(target, sde, 0.4).float(), torch.tensor([0.1, 0.2, 0.4, 0.9])
    energy, score = model.energy_and_score(x, t)
    assert energy.dtype == score.dtype == torch.float32
    exact = model.score(x.double(), t.double())
    torch.testing.assert_close(score, exact.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(energy, -model.log_prob(x, t))
    for i in range(4):
        torch.testing.assert_close(model.log_prob(x[i : i + 1], t[i]), -energy[i : i + 1])
    sigma, alpha = (scale(t)[:, None].float() for scale in (sde.sigma, sde.alpha))
    torch.testing.assert_close(model.noise(x, t), -sigma * score)
    torch.testing.assert_close(
        model.denoise(x, t), (x + sigma**2 * score) / alpha, rtol=1e-4, atol=1e-4
    )
    with torch.no_grad():
        assert not model.score(x, t).requires_grad
    torch.testing.assert_close(Marginal(model, 0.3).score(x), model.score(x, 0.3))


def test_evaluations_are_counted():
    model = Ring().diffused(VP())
    x = torch.ones(3, 2)
    model.score(x, 0.5)
    model.energy(x, 0.5)
    model.energy_and_score(x, 0.5)
    assert model.nfe == 3


def test_gaussian_targets_diffuse_in_closed_form(sde):
    for target in (Gaussian(), Mixture()):
        model = target.diffused(sde)
        assert isinstance(model, GaussianMixture)
        assert model.sde == sde
        x = target.sample(5, seeded(0))
        torch.testing.assert_close(model.log_prob(x, 0.3), Diffused(target, sde).log_prob(x, 0.3))
        torch.testing.assert_close(model.log_prob(x), target.log_prob(x))
    torch.testing.assert_close(model.weights.tolist(), [0.5, 0.3, 0.2])


def test_score_at_the_center_of_the_ring_is_finite_and_smooth():
    """|x| has no gradient there, the diffused density has."""
    model, x = Ring().diffused(VE(0.05, 9.0)), torch.zeros(1, 2, dtype=torch.float64)
    for t in (0.3, 0.6, 1.0):
        near = torch.tensor([[1e-3, 0.0]], dtype=torch.float64)
        assert model.score(x, t).abs().max() < 1e-9
        center, beside = (divergence(lambda y, t=t: model.score(y, t), at) for at in (x, near))
        torch.testing.assert_close(center, beside, rtol=1e-3, atol=1e-3)


def test_every_time_of_every_clock_has_a_finite_score(target):
    """The least and the greatest noise of VP and EDM, in float32 too."""
    for sde in (VP(), EDM()):
        for t in (sde.t_min, sde.t_max):
            x = Diffused(target, sde).sample(20, t, seeded(1))
            model = target.diffused(sde)
            assert model.score(x, t).isfinite().all()
            assert model.log_prob(x, t).isfinite().all()
            assert model.denoise(x.float(), t).isfinite().all()


def test_printing_shows_target_and_diffusion():
    assert repr(Ring(1.0).diffused(VP())) == (
        "Diffused(Ring(radius=1.0, width=0.3), VP(beta_min=0.1, beta_max=20.0))"
    )


def test_conditions_and_events_of_another_shape_are_refused():
    model = Ring().diffused(VP())
    with pytest.raises(ValueError, match="a diffused Ring takes no condition"):
        model.score(torch.zeros(2, 2), 0.5, torch.zeros(2))
    for method in (model.score, model.log_prob, model.energy):
        with pytest.raises(ValueError, match=r"event shape \(3,\), Ring has \(2,\)"):
            method(torch.zeros(2, 3), 0.5)
    with pytest.raises(ValueError, match=r"leaves \[1e-05, 1\]"):
        model.log_prob(torch.zeros(2, 2), 1.5)
