"""Where the objective is smallest, and how large it is there, on Gaussian data.

Expectations are exact: the loss of a linear model is a quadratic in data and noise, and three
Gauss-Hermite nodes per dimension integrate those without error.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sde_score.models import GaussianMixture, ScoreModel
from sde_score.models.rows import OURS
from sde_score.objectives import WEIGHTINGS, DenoisingScoreMatching

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
SPECS = [*WEIGHTINGS.names(), "edm(sigma_data=1.7)", "min_snr(gamma=0.3)"]


def nodes():
    """Data, noise and weights of a rule in four dimensions that is exact for degree five."""
    at, weight = np.polynomial.hermite_e.hermegauss(3)
    weight = weight / weight.sum()
    grid = torch.tensor(list(itertools.product(at, repeat=4)), dtype=torch.float64)
    weights = torch.tensor(list(itertools.product(weight, repeat=4)), dtype=torch.float64).prod(1)
    x0 = MEAN + grid[:, :2] @ torch.linalg.cholesky(COVARIANCE).mT
    return x0, grid[:, 2:], weights


def mid_times(sde):
    return sde.time_of_log_snr(torch.tensor([-2.0, 0.3, 3.0], dtype=torch.float64))


def expected(objective, model, t):
    x0, noise, weights = nodes()
    return (objective.at(model, x0, t.expand(len(x0)), noise) * weights).sum()


def definition(spec, sde, t, score_error, data_error):
    """Each weighting in terms of the error it is named for, summed over entries."""
    leaf = t.clone().requires_grad_()
    (variance_rate,) = torch.autograd.grad((sde.sigma(leaf) ** 2).sum(), leaf)
    (log_rate,) = torch.autograd.grad((sde.alpha(leaf).log() + 0 * leaf).sum(), leaf)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    snr = (alpha / sigma) ** 2
    factors = {
        "variance": (sigma**2, score_error),
        "likelihood": (variance_rate - 2 * log_rate * sigma**2, score_error),
        "unit": (1.0, score_error),
        "edm": (snr + 1 / 0.5**2, data_error),
        "edm(sigma_data=1.7)": (snr + 1 / 1.7**2, data_error),
        "min_snr": (snr.clamp(max=5.0), data_error),
        "min_snr(gamma=0.3)": (snr.clamp(max=0.3), data_error),
    }
    factor, error = factors[spec]
    return factor * error


@pytest.mark.parametrize("spec", SPECS)
def test_each_weighting_is_its_definition(sde, spec):
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    model, t = GaussianMixture(MEAN[None], COVARIANCE[None], sde), mid_times(sde)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    xt = alpha * x0 + sigma * noise
    score_error = ((model.score(xt, t) + noise / sigma) ** 2).sum(1)
    data_error = ((model.denoise(xt, t) - x0) ** 2).sum(1)
    got = DenoisingScoreMatching(weighting=spec).at(model, x0, t, noise)
    want = definition(spec, sde, t, score_error, data_error) / 2
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("spec", SPECS)
def test_the_exact_model_has_the_known_loss(sde, spec):
    """E |noise_hat - noise|^2 = D - sigma^2 tr C^-1, C the covariance of x_t."""
    model = GaussianMixture(MEAN[None], COVARIANCE[None], sde)
    for t in mid_times(sde):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        precision = torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double())
        noise_error = 2 - sigma**2 * precision.trace()
        errors = noise_error / sigma**2, noise_error * (sigma / alpha) ** 2
        got = expected(DenoisingScoreMatching(weighting=spec), model, t)
        want = definition(spec, sde, t, *errors) / 2
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("prediction", OURS)
def test_the_minimizer_is_the_true_score_for_every_prediction(sde, prediction):
    """A linear backbone has six parameters; the loss is their quadratic, so Newton's step from
    anywhere is the minimizer, whatever the weighting."""
    truth = GaussianMixture(MEAN[None], COVARIANCE[None], sde)
    x = torch.tensor([[0.3, -1.0], [2.0, 0.7], [-0.4, 0.1]], dtype=torch.float64)

    def model_of(parameters):
        matrix, shift = parameters[:4].reshape(2, 2), parameters[4:]
        return ScoreModel(lambda y, level, condition: y @ matrix.mT + shift, sde, prediction, 0.8)

    for t, spec in zip(itertools.cycle(mid_times(sde)), SPECS[:5], strict=False):
        objective = DenoisingScoreMatching(weighting=spec)

        def loss(parameters, objective=objective, t=t):
            return expected(objective, model_of(parameters), t)

        start = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(start), start)
        hessian = torch.autograd.functional.hessian(loss, start.detach())
        assert bool((torch.linalg.eigvalsh(hessian) > 0).all())
        best = start.detach() - torch.linalg.solve(hessian, gradient)
        got = model_of(best).score(x, t)
        torch.testing.assert_close(got, truth.score(x, t), rtol=1e-6, atol=1e-7)


def test_a_worse_model_has_a_larger_loss(sde):
    exact = GaussianMixture(MEAN[None], COVARIANCE[None], sde)
    shifted = GaussianMixture(MEAN[None] + 0.3, COVARIANCE[None], sde)
    for t, spec in itertools.product(mid_times(sde), SPECS):
        objective = DenoisingScoreMatching(weighting=spec)
        assert expected(objective, shifted, t) > expected(objective, exact, t)
