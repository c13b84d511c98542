"""The zoo at t > 0: scores, the Fokker-Planck equation, and what a model promises."""

import numpy as np
import pytest
import torch
from scipy import stats

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


@pytest.fixture(params=ZOO, ids=lambda distribution: type(distribution).__name__)
def target(request):
    return request.param


@pytest.fixture(params=SDES, ids=lambda sde: type(sde).__name__)
def sde(request):
    return request.param


def seeded(number):
    return torch.Generator().manual_seed(number)


def points(target, sde, t):
    """Draws of x_t, the last one moved to where hardly any would fall."""
    x = Diffused(target, sde).sample(4, t, seeded(5))
    x[-1] = x[-1] + 2 * (x[-1] - x[0] + 0.25)
    return x


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


@pytest.mark.parametrize(
    "target",
    [distribution for distribution in ZOO if "Exponential" not in str(distribution)],
    ids=str,
)
def test_distribution_of_the_data_returns_as_noise_goes(target):
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


def test_samples_of_the_diffused_distribution_follow_its_density(sde):
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
