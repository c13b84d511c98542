"""Explicit score matching: regression on known scores, without noise and with it."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import TARGETS, Gaussian, GaussianMixture, Marginal, Mixture, ScoreFunction
from sde_score.objectives import ExplicitScoreMatching, create
from sde_score.sdes import VE, VP

F64 = torch.float64
MATRIX = torch.tensor([[-1.3, 0.7, -0.2], [-0.4, -0.9, 0.5], [0.9, 0.3, -2.1]], dtype=F64)
SHIFT = torch.tensor([0.4, -1.2, 0.8], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_on_gaussian_data_it_has_the_closed_form(gaussian, fields):
    """E |(A + P) x + b - P m|^2 / 2, P the precision."""
    data = gaussian(3)
    truth = fields.quadratic(data.precision, data.precision @ data.mean)
    got = ExplicitScoreMatching(target=truth).losses(fields.linear(MATRIX, SHIFT), data.x).mean()
    off = MATRIX + data.precision
    want = (off @ data.covariance @ off.mT).trace() + ((MATRIX @ data.mean + SHIFT) ** 2).sum()
    assert got.item() == pytest.approx(0.5 * want.item(), rel=1e-12)


def test_it_is_zero_at_the_truth_and_its_minimum_is_the_truth(gaussian, fields, newton):
    data = gaussian(2)
    distribution = Gaussian(mean=tuple(data.mean.tolist()), covariance=data.covariance)
    objective = ExplicitScoreMatching(target=distribution)

    def loss(parameters):
        field = fields.linear(parameters[:4].reshape(2, 2), parameters[4:])
        return objective.losses(field, data.x).mean()

    best = newton(loss, 6)
    assert loss(best).item() == pytest.approx(0, abs=1e-20)
    torch.testing.assert_close(best[:4].reshape(2, 2), -data.precision, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(best[4:], data.precision @ data.mean, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["gaussian", "mixture", "ring", "double-well"])
@pytest.mark.parametrize("noise", [VE(sigma_min=0.05, sigma_max=5.0), VP()], ids=["VE", "VP"])
def test_the_diffused_target_has_loss_zero_at_all_noise_levels(name, noise):
    distribution = TARGETS.create(name)
    objective = ExplicitScoreMatching(target=name, time_sampler="uniform")
    x0 = distribution.sample(16, seeded(1))
    loss = objective(distribution.diffused(noise), x0, generator=seeded(2))
    torch.testing.assert_close(loss, torch.zeros(16, dtype=F64), rtol=0, atol=1e-18)


def test_with_noise_it_is_the_weighted_distance_to_the_diffused_score(sde):
    distribution, seen = Mixture(), []

    def field(x, t):
        seen.append((x.detach(), t))
        return -0.5 * x

    x0 = distribution.sample(8, seeded(1))
    objective = ExplicitScoreMatching(
        target=distribution, time_sampler="uniform", weighting="likelihood"
    )
    got = objective(ScoreFunction(field, sde), x0, generator=seeded(2))
    ((x, t),) = seen
    mean, spread = (
        torch.tensor(m, dtype=F64) for m in (distribution.means, distribution.covariances)
    )
    truth = GaussianMixture(mean, spread, sde, distribution.weights).score(x, t)
    want = 0.5 * sde.diffusion(t) ** 2 * ((-0.5 * x - truth) ** 2).sum(1)
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)
    assert objective.all_noise_levels


def test_without_noise_the_target_is_that_of_the_data(fields):
    """Not the one at t_min, where the model stands for the data."""
    sde = VE(sigma_min=0.5, sigma_max=5.0)
    x = torch.tensor([[2.0], [-1.0]], dtype=F64)
    distribution = Gaussian(mean=(0.0,), covariance=((1.0,),))
    zero = fields.linear(torch.zeros(1, 1, dtype=F64), torch.zeros(1, dtype=F64), sde)
    got = ExplicitScoreMatching(target=distribution)(zero.model, x)
    torch.testing.assert_close(got, torch.tensor([2.0, 0.5], dtype=F64))


def test_the_gradient_is_that_of_the_model_alone(nonlinear):
    """A target that can be trained is left alone."""
    marginal, parameters = nonlinear((2,))
    truth, theirs = nonlinear((2,), energy=True, seed=1)
    x = torch.randn(4, 2, generator=seeded(1), dtype=F64)
    loss = ExplicitScoreMatching(target=truth).losses(marginal, x).sum()
    gradients = torch.autograd.grad(loss, [*parameters, *theirs], allow_unused=True)
    assert all(bool(g.abs().sum() > 0) for g in gradients[:3])
    assert gradients[3:] == (None, None, None)
    error = (marginal.score(x) - truth.score(x).detach()).detach()
    want = torch.autograd.grad(marginal.score(x), parameters, error)
    torch.testing.assert_close(gradients[:3], want)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown target 'mixtures'; did you mean 'mixture'"):
        create("explicit", target="mixtures")
    distribution = Marginal(GaussianMixture(torch.zeros(1, 2), 1.0, VP()))
    with pytest.raises(TypeError, match="target is a Marginal, whose score with noise is not"):
        ExplicitScoreMatching(target=distribution, time_sampler="uniform")
    with pytest.raises(ValueError, match="unknown weighting 'varianc'"):
        ExplicitScoreMatching(target="mixture", weighting="varianc")
    assert create("explicit", target="mixture") == ExplicitScoreMatching(target="mixture")
