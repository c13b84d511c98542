"""The identities that make score matching one method, without any sampling.

On Gaussian data with a linear score everything is a closed form; on a mixture with a network as the
score everything is an integral over the line or the plane. The trapezoidal rule over the whole line
converges faster than any power there.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from sde_score.models import GaussianMixture, Marginal, Mixture
from sde_score.objectives import (
    DenoisingScoreMatching,
    ExplicitScoreMatching,
    HutchinsonScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)
from sde_score.sdes import EDM

F64 = torch.float64
EDM_SDE = EDM(sigma_min=0.01, sigma_max=50.0)
"""alpha = 1 and sigma(t) = t."""

MATRIX = torch.tensor([[-1.3, 0.7, -0.2], [-0.4, -0.9, 0.5], [0.9, 0.3, -2.1]], dtype=F64)
SHIFT = torch.tensor([0.4, -1.2, 0.8], dtype=F64)


def test_explicit_is_implicit_plus_half_the_fisher_information(gaussian, fields):
    """Gaussian data: half tr P."""
    data, field = gaussian(3), fields.linear(MATRIX, SHIFT)
    truth = fields.quadratic(data.precision, data.precision @ data.mean)
    explicit = ExplicitScoreMatching(target=truth).losses(field, data.x).mean()
    implicit = ImplicitScoreMatching().losses(field, data.x).mean()
    gap = 0.5 * data.precision.trace()
    assert (explicit - implicit).item() == pytest.approx(gap.item(), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 3.0])
def test_denoising_is_implicit_on_the_smoothed_data(gaussian, fields, hermite, sigma):
    """DSM = [tr(A (S + sigma^2) A^T) + |A m + b|^2] / 2 + tr A + D / (2 sigma^2), the noise by
    Gauss-Hermite."""
    data, field = gaussian(3), fields.linear(MATRIX, SHIFT, EDM_SDE)
    noise, weights = hermite(3, 3)
    x0 = data.x.repeat_interleave(len(noise), 0)
    t = torch.full((len(x0),), sigma, dtype=F64)
    noises = noise.repeat(len(data.x), 1)
    losses = DenoisingScoreMatching(weighting="unit").at(field.model, x0, t, noises) * 3 / 2
    got = (losses.reshape(len(data.x), -1) @ weights).mean()
    smoothed = data.covariance + sigma**2 * torch.eye(3, dtype=F64)
    square = (MATRIX @ smoothed @ MATRIX.mT).trace() + ((MATRIX @ data.mean + SHIFT) ** 2).sum()
    want = 0.5 * square + MATRIX.trace() + 1.5 / sigma**2
    assert got.item() == pytest.approx(want.item(), rel=1e-12)


def test_every_estimator_of_the_trace_has_the_same_minimum(gaussian, fields, signs, newton):
    """A = -P, b = P m: the sign included, for scores and for energies."""
    data = gaussian(3)
    vectors = signs(data.x)
    losses = {
        "implicit": lambda field: ImplicitScoreMatching().losses(field, data.x),
        "hutchinson": lambda field: HutchinsonScoreMatching().at(field, data.x, vectors),
        "sliced": lambda field: SlicedScoreMatching().at(field, data.x, vectors),
    }
    lower = torch.tril_indices(3, 3)

    def symmetric(entries):
        matrix = torch.zeros(3, 3, dtype=F64).index_put((lower[0], lower[1]), entries)
        return matrix + matrix.mT

    for name, loss in losses.items():
        best = newton(lambda p, f=loss: f(fields.linear(p[:9].reshape(3, 3), p[9:])).mean(), 12)
        torch.testing.assert_close(
            best[:9].reshape(3, 3), -data.precision, rtol=1e-9, atol=1e-10, msg=name
        )
        torch.testing.assert_close(best[9:], data.precision @ data.mean, rtol=1e-9, atol=1e-10)
        best = newton(lambda p, f=loss: f(fields.quadratic(symmetric(p[:6]), p[6:])).mean(), 9)
        torch.testing.assert_close(symmetric(best[:6]), data.precision, rtol=1e-9, atol=1e-10)
        assert bool((torch.linalg.eigvalsh(symmetric(best[:6])) > 0).all())


@pytest.fixture(params=[1, 2], ids=["line", "plane"])
def problem(request, nonlinear):
    """A mixture with noise sigma = 0.3 as the density, its quadrature, and a network as score."""
    dim = request.param
    means = torch.tensor([[-1.0, 0.4], [1.3, -0.5]], dtype=F64)[:, :dim]
    variances = torch.tensor([[0.2, 0.5], [0.4, 0.15]], dtype=F64)[:, :dim]
    weights = torch.tensor([0.35, 0.65], dtype=F64)
    ends, count = (14, 401) if dim == 1 else (11, 101)
    line = torch.linspace(-ends, ends, count, dtype=F64)
    x = line[:, None] if dim == 1 else torch.cartesian_prod(line, line)
    cell = (2 * ends / (count - 1)) ** dim

    def distribution(sigma):
        """Density and its gradient, from the formula of a mixture."""
        spread = variances + sigma**2
        off = x[:, None] - means
        normal = torch.exp(-0.5 * (off**2 / spread).sum(2)) / (2 * math.pi * spread).prod(1).sqrt()
        joint = weights * normal
        return joint.sum(1), -(joint[..., None] * off / spread).sum(1)

    return SimpleNamespace(
        dim=dim,
        x=x,
        distribution=distribution,
        mean=lambda values, density: (cell * density * values).sum(),
        truth=GaussianMixture(means, variances, EDM_SDE, weights),
        field=nonlinear((dim,), sde=EDM_SDE)[0],
    )


def test_on_a_mixture_explicit_is_implicit_plus_half_the_fisher_information(problem):
    density, gradient = problem.distribution(0.3)
    assert problem.mean(torch.ones_like(density), density).item() == pytest.approx(1, abs=1e-12)
    information = problem.mean(((gradient / density[:, None]) ** 2).sum(1), density)
    target = Marginal(problem.truth, 0.3)
    explicit = ExplicitScoreMatching(target=target).losses(problem.field, problem.x)
    implicit = ImplicitScoreMatching().losses(problem.field, problem.x)
    gap = problem.mean(explicit - implicit, density)
    assert gap.item() == pytest.approx(0.5 * information.item(), rel=1e-11)


def test_steins_identity(problem):
    """E[s_p . g + div g] = 0 for any field g: what integration by parts rests on, and with it that
    the implicit loss of c g is c^2 E|g|^2 / 2 - c E[s_p . g]."""
    density, gradient = problem.distribution(0.3)
    field = problem.field.score(problem.x)
    implicit = ImplicitScoreMatching().losses(problem.field, problem.x)
    divergence = implicit - 0.5 * (field**2).sum(1)
    along = ((gradient / density[:, None]) * field).sum(1)
    assert problem.mean(along + divergence, density).item() == pytest.approx(0, abs=1e-11)
    assert abs(problem.mean(divergence, density).item()) > 0.1


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_denoising_is_explicit_on_the_smoothed_mixture(problem, hermite, sigma):
    """DSM = ESM of p_sigma + (D / sigma^2 - I(p_sigma)) / 2, data by the trapezoidal rule and noise
    by Gauss-Hermite."""
    smooth, gradient = problem.distribution(sigma)
    information = problem.mean(((gradient / smooth[:, None]) ** 2).sum(1), smooth)
    target = Marginal(problem.truth, sigma)
    explicit = ExplicitScoreMatching(target=target).losses(problem.field, problem.x)
    want = problem.mean(explicit, smooth) + 0.5 * (problem.dim / sigma**2 - information)

    clean, _ = problem.distribution(0.0)
    noise, weights = hermite(120 if problem.dim == 1 else 20, problem.dim)
    objective, got = DenoisingScoreMatching(weighting="unit"), 0.0
    keep = clean > 1e-17
    x0, t = problem.x[keep], torch.full((int(keep.sum()),), sigma, dtype=F64)
    for z, weight in zip(noise, weights, strict=True):
        losses = objective.at(problem.field.model, x0, t, z.expand_as(x0)) * problem.dim / 2
        got += weight * problem.mean(losses, clean[keep]).item()
    tolerance = 1e-10 if problem.dim == 1 else 1e-6
    assert got.item() == pytest.approx(want.item(), rel=tolerance)


@pytest.mark.parametrize(
    ("separation", "divergence"), [(6, 3.6e-2), (8, 1.5e-3), (10, 2.1e-5), (12, 1.0e-7)]
)
def test_it_is_blind_to_the_weights_of_separated_modes(separation, divergence):
    """E |s_q - s_p|^2 for weights 0.2 and 0.8 swapped: the scores differ only where there are no
    data."""
    distribution = Mixture.two_modes(separation, 0.2)
    wrong = Mixture.two_modes(separation, 0.8)
    x = torch.linspace(-separation / 2 - 9, separation / 2 + 9, 4001, dtype=F64)[:, None]
    model = Marginal(wrong.diffused(EDM(sigma_min=1e-6, sigma_max=1.0)))
    losses = ExplicitScoreMatching(target=distribution).losses(model, x)
    got = 2 * torch.trapezoid(distribution.log_prob(x).exp() * losses, x[:, 0])
    assert got.item() == pytest.approx(divergence, rel=0.04)
