"""The mixture whose every diffused quantity is known exactly, checked in other ways."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import kstest, multivariate_normal, norm

from sde_score.models import GaussianMixture, Model
from sde_score.sdes import VP

WEIGHTS = [0.5, 0.2, 0.3]
MEANS = torch.tensor([[-1.5, 0.3, 1.0], [0.8, 1.4, -0.7], [0.5, -1.9, 0.2]], dtype=torch.float64)


def spreads():
    """Covariances in the three accepted forms, each with the full matrices they stand for."""
    generator = torch.Generator().manual_seed(11)
    root = torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)
    full = 0.3 * root @ root.mT + 0.05 * torch.eye(3).double()
    diagonal = torch.rand(3, 3, generator=generator, dtype=torch.float64) + 0.1
    isotropic = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    eye = torch.eye(3).double()
    return {
        "full": (full, full),
        "diagonal": (diagonal, torch.diag_embed(diagonal)),
        "isotropic": (isotropic, isotropic[:, None, None] * eye),
        "number": (0.4, 0.4 * eye.expand(3, 3, 3)),
    }


FORMS = spreads()


@pytest.fixture(params=list(FORMS))
def form(request):
    return FORMS[request.param]


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(12)
    return torch.randn(4, 3, generator=generator, dtype=torch.float64) * 1.5


def diffused(matrices, sde, t):
    """Weights, means and covariances of x_t, written out component by component."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    covariances = [alpha**2 * c.numpy() + sigma**2 * np.eye(3) for c in matrices]
    return list(zip(WEIGHTS, alpha * MEANS.numpy(), covariances, strict=True))


def test_log_density_is_that_of_scipy(sde, times, form, points):
    spread, matrices = form
    model = GaussianMixture(MEANS, spread, sde, WEIGHTS)
    for i, t in enumerate(times):
        parts = [
            w * multivariate_normal(m, c).pdf(points[i]) for w, m, c in diffused(matrices, sde, t)
        ]
        got = model.log_prob(points, times)[i].item()
        if sum(parts) > 0:
            assert got == pytest.approx(math.log(sum(parts)), rel=1e-10)
        assert model.log_prob(points, t)[i].item() == pytest.approx(got, rel=1e-12)


def test_log_density_of_the_data(form, points):
    spread, matrices = form
    model = GaussianMixture(MEANS, spread, VP(), WEIGHTS)
    parts = [
        w * multivariate_normal(m, c).pdf(points)
        for w, m, c in zip(WEIGHTS, MEANS, matrices, strict=True)
    ]
    np.testing.assert_allclose(model.log_prob(points), np.log(sum(parts)), rtol=1e-10)


def test_score_is_the_gradient_of_the_log_density(sde, times, form, points, gradient):
    model = GaussianMixture(MEANS, form[0], sde, WEIGHTS)
    want = gradient(lambda x: model.log_prob(x, times), points)
    torch.testing.assert_close(model.score(points, times), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("event", [(4,), (2, 3), (1, 2, 2)])
def test_any_event_shape(sde, times, event, gradient):
    """An event is its flattened self."""
    generator = torch.Generator().manual_seed(13)
    means = torch.randn((2, *event), generator=generator, dtype=torch.float64)
    x = torch.randn((4, *event), generator=generator, dtype=torch.float64)
    size = means[0].numel()
    root = torch.randn((2, size, size), generator=generator, dtype=torch.float64)
    diagonal = means**2 + 0.1
    isotropic = torch.tensor([0.3, 2.0])
    full = root @ root.mT
    pairs = [(full, full), (diagonal, diagonal.flatten(1)), (isotropic, isotropic), (0.6, 0.6)]
    for spread, flat_spread in pairs:
        model = GaussianMixture(means, spread, sde, [0.3, 0.7])
        flat = GaussianMixture(means.flatten(1), flat_spread, sde, [0.3, 0.7])
        score = model.score(x, times)
        assert score.shape == x.shape
        want = gradient(lambda x, model=model: model.log_prob(x, times), x)
        torch.testing.assert_close(score, want, rtol=1e-8, atol=1e-8)
        same = flat.score(x.flatten(1), times).reshape(x.shape)
        torch.testing.assert_close(score, same, rtol=1e-12, atol=1e-12)
        assert model.mean().shape == event
        assert model.sample(5).shape == (5, *event)


def test_forms_of_the_same_covariance_agree(sde, times, points):
    eye = torch.eye(3).double()
    one = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    forms = [one, one[:, None].expand(3, 3), one[:, None, None] * eye]
    models = [GaussianMixture(MEANS, spread, sde, WEIGHTS) for spread in forms]
    for name in ("score", "denoise", "noise", "velocity", "log_prob"):
        first, *others = [getattr(model, name)(points, times) for model in models]
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)
    for model in models:
        torch.testing.assert_close(
            model.covariance(), models[0].covariance(), rtol=1e-12, atol=1e-12
        )


def test_four_ways_of_saying_it_agree(sde, times, form, points, derivative):
    model = GaussianMixture(MEANS, form[0], sde, WEIGHTS)
    x0, noise = model.denoise(points, times), model.noise(points, times)
    alpha, sigma = sde.alpha(times)[:, None], sde.sigma(times)[:, None]
    torch.testing.assert_close(alpha * x0 + sigma * noise, points, rtol=1e-9, atol=1e-9)
    score = model.score(points, times)
    torch.testing.assert_close(noise, -sigma * score, rtol=1e-9, atol=1e-9)
    rates = [derivative(f, times)[:, None] for f in (sde.alpha, sde.sigma)]
    velocity = model.velocity(points, times)
    torch.testing.assert_close(velocity, rates[0] * x0 + rates[1] * noise, rtol=1e-8, atol=1e-8)
    flow = sde.probability_flow(model.score)(points, times)
    torch.testing.assert_close(velocity, flow, rtol=1e-6, atol=1e-6)


def test_denoiser_is_the_posterior_mean_by_quadrature(sde, times):
    """E[x0 | x] = int x0 p(x0) N(x; alpha x0, sigma^2) / int p(x0) N(x; alpha x0, sigma^2)."""
    means, variances, weights = [-1.2, 0.9], [0.15, 0.4], [0.35, 0.65]
    model = GaussianMixture([[m] for m in means], torch.tensor(variances), sde, weights)
    y = np.linspace(-9, 9, 40_001)
    data = sum(
        w * norm(m, math.sqrt(v)).pdf(y) for w, m, v in zip(weights, means, variances, strict=True)
    )
    for t in times[1:]:
        alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
        for x in (-1.0, 0.2, 1.7):
            exponent = -0.5 * ((x - alpha * y) / sigma) ** 2
            joint = data * np.exp(exponent - exponent.max())
            want = np.sum(y * joint) / np.sum(joint)
            got = model.denoise(torch.tensor([[x]], dtype=torch.float64), t).item()
            assert got == pytest.approx(want, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
def test_marginals_solve_the_continuity_equation(sde, fraction):
    """d/dt log p_t = -(div v + v . score) with v the velocity: Fokker-Planck in flow form."""
    model = GaussianMixture(MEANS, FORMS["full"][0], sde, WEIGHTS)
    start = sde.t_min + fraction * (sde.t_max - sde.t_min)
    t = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    size = (sde.sigma(t) ** 2 + sde.alpha(t) ** 2).sqrt().item()
    for place in ([0.4, -1.0, 0.3], [-1.3, 0.5, 0.9]):
        x = size * torch.tensor([place], dtype=torch.float64)
        rate = torch.autograd.grad(model.log_prob(x, t).sum(), t)[0]
        jacobian = torch.autograd.functional.jacobian(lambda x: model.velocity(x, t)[0], x)
        along = (model.velocity(x, t) * model.score(x, t)).sum()
        want = -(jacobian[:, 0].trace() + along)
        torch.testing.assert_close(rate, want, rtol=1e-7, atol=1e-7 * (1 + abs(rate.item())))


def test_mean_and_covariance_are_those_of_the_law_of_total_variance(form):
    model = GaussianMixture(MEANS, form[0], VP(), WEIGHTS)
    mean = sum(w * m for w, m in zip(WEIGHTS, MEANS, strict=True))
    second = sum(
        w * (c + torch.outer(m, m)) for w, m, c in zip(WEIGHTS, MEANS, form[1], strict=True)
    )
    torch.testing.assert_close(model.mean(), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        model.covariance(), second - torch.outer(mean, mean), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("fraction", [None, 0.3])
def test_samples_have_the_distribution(sde, form, fraction):
    """One-dimensional projections against the exact mixture distribution function."""
    spread, matrices = form
    model = GaussianMixture(MEANS, spread, sde, WEIGHTS)
    t = None if fraction is None else sde.t_min + fraction * (sde.t_max - sde.t_min)
    draws = model.sample(4000, t, torch.Generator().manual_seed(14))
    assert draws.dtype == torch.float64
    alpha, sigma = (1.0, 0.0) if t is None else (sde.alpha(t).item(), sde.sigma(t).item())
    for direction in ([1.0, 0, 0], [0.6, 0.8, 0], [0, 0.6, -0.8], [0.5, 0.5, 0.70710678]):
        u = torch.tensor(direction, dtype=torch.float64)
        centers = alpha * (MEANS @ u)
        widths = (alpha**2 * torch.einsum("c,kcd,d->k", u, matrices, u) + sigma**2).sqrt()

        def distribution(z, centers=centers, widths=widths):
            return sum(
                w * norm.cdf(z, c.item(), s.item())
                for w, c, s in zip(WEIGHTS, centers, widths, strict=True)
            )

        assert kstest((draws @ u).numpy(), distribution).pvalue > 1e-3


def test_samples_repeat_with_their_generator_and_have_the_correlations_of_the_distribution():
    model = GaussianMixture(MEANS, FORMS["full"][0], VP(), WEIGHTS)
    draws = [model.sample(20_000, None, torch.Generator().manual_seed(15)) for _ in range(2)]
    assert torch.equal(*draws)
    torch.testing.assert_close(draws[0].T.cov(), model.covariance(), rtol=0.08, atol=0.06)
    torch.testing.assert_close(draws[0].mean(0), model.mean(), rtol=0, atol=0.05)


def test_weights_are_normalised_and_equal_by_default(points):
    def density(weights):
        return GaussianMixture(MEANS, 0.4, VP(), weights).log_prob(points)

    torch.testing.assert_close(density([5, 2, 3]), density(WEIGHTS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(density(None), density([1, 1, 1]), rtol=1e-12, atol=1e-12)


def test_float32_states_stay_float32_and_are_computed_in_float64(sde, times, points):
    model = GaussianMixture(MEANS, FORMS["full"][0], sde, WEIGHTS)
    for name in ("score", "denoise", "noise", "velocity", "log_prob"):
        got = getattr(model, name)(points.float(), times)
        assert got.dtype == torch.float32
        want = getattr(model, name)(points.float().double(), times)
        scale = float(want.abs().max())
        if name not in ("denoise", "velocity"):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6 * scale)


def test_float32_states_near_point_masses_lose_only_their_own_rounding():
    """At t_min the score divides by sigma^2 = 1e-6: coefficients must not be rounded first."""
    model, t = GaussianMixture(MEANS, 0.0, VP(), WEIGHTS), VP().t_min
    x = VP().perturb(MEANS, t, torch.ones_like(MEANS)).float()
    want = model.score(x.double(), t)
    torch.testing.assert_close(model.score(x, t).double(), want, rtol=1e-6, atol=0)


def test_singular_covariances_are_accepted_whatever_the_rounding_of_their_eigenvalues():
    vectors = torch.randn(50, 3, generator=torch.Generator().manual_seed(16), dtype=torch.float64)
    lines = vectors[:, :, None] * vectors[:, None]
    model = GaussianMixture(torch.zeros(50, 3), lines, VP())
    torch.testing.assert_close(model.covariance(), lines.mean(0), rtol=1e-9, atol=1e-12)


def test_far_points_neither_under_nor_overflow(sde, times):
    model = GaussianMixture(MEANS, FORMS["full"][0], sde, WEIGHTS)
    far = torch.full((4, 3), 1e3, dtype=torch.float64)
    for name in ("score", "denoise", "noise", "velocity", "log_prob"):
        assert bool(getattr(model, name)(far, times).isfinite().all())


def test_counts_its_evaluations_and_can_be_copied(sde, times, points):
    model = GaussianMixture(MEANS, FORMS["full"][0], sde, WEIGHTS)
    assert isinstance(model, Model)
    want = model.score(points, times)
    assert model.nfe == 1
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.score(points, times), want)
    other = GaussianMixture(MEANS + 1, FORMS["full"][0], sde)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.score(points, times), want)


def test_wrong_arguments_are_refused_by_name(points):
    eye = torch.eye(3).expand(3, 3, 3)
    with pytest.raises(
        ValueError, match=r"means has shape \(3,\); accepted: \(components, \*event\)"
    ):
        GaussianMixture([1.0, 2.0, 3.0], 1.0, VP())
    with pytest.raises(ValueError, match=r"covariances has shape \(2,\); accepted"):
        GaussianMixture(MEANS, torch.ones(2), VP())
    with pytest.raises(ValueError, match="covariances must be symmetric"):
        GaussianMixture(MEANS, eye + torch.triu(torch.ones(3, 3), 1), VP())
    for bad in (-0.1, -eye, torch.tensor([1.0, -1.0, 1.0]), math.nan):
        with pytest.raises(ValueError, match="positive semi-definite"):
            GaussianMixture(MEANS, bad, VP())
    for bad in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 1, 1], [math.nan, 1, 1], [math.inf, 1, 1]):
        with pytest.raises(ValueError, match="weights must be 3 positive numbers"):
            GaussianMixture(MEANS, 1.0, VP(), bad)
    model = GaussianMixture(MEANS, 1.0, VP())
    with pytest.raises(ValueError, match=r"x has event shape \(2,\), the mixture has \(3,\)"):
        model.score(points[:, :2], 0.5)
    with pytest.raises(ValueError, match="takes no condition"):
        model.score(points, 0.5, condition=torch.zeros(4))
    with pytest.raises(ValueError, match="count=0"):
        model.sample(0)
    for count in (1, 3):
        t = torch.full((count,), 0.5)
        for call in (model.score, model.log_prob):
            with pytest.raises(ValueError, match=rf"t of shape \({count},\) does not fit x"):
                call(points, t)
