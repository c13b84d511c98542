"""The posterior of parameters in their own terms: bounds, densities, the most probable."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score._core.errors import NumericalError
from sde_score.models import GaussianMixture
from sde_score.posterior.simulation import Box, Compositional, ParameterPosterior
from sde_score.scaling import Scaling

QUICK = "dpmpp-2m(steps=12)"
TOLD = torch.tensor([[1.0, -0.5, 0.3, 2.0]], dtype=torch.float64)
RAW = Scaling((10.0, -3.0), (2.0, 0.3))  # theta = 10 + 2 x_1, -3 + 0.3 x_2


def test_the_density_of_a_posterior_is_that_of_its_closed_form(normal_posterior):
    model = normal_posterior()
    mean, covariance = (part[0] for part in model.moments(TOLD))
    found = ParameterPosterior(model, (2,), TOLD, scaling=RAW)
    width = torch.diag(torch.tensor(RAW.width, dtype=torch.float64))
    center = torch.tensor(RAW.center, dtype=torch.float64) + width @ mean
    exact = torch.distributions.MultivariateNormal(center, width @ covariance @ width)
    theta = center + torch.tensor([[0.5, 0.1], [-1.0, 0.2]], dtype=torch.float64)
    density = found.log_prob(theta, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(density.log_prob, exact.log_prob(theta), rtol=0, atol=0.03)
    assert density.standard_error.tolist() == [0, 0]
    best, height = found.map(starts=8)
    torch.testing.assert_close(best.double(), center, rtol=0, atol=5e-3)
    assert height == pytest.approx(float(exact.log_prob(center)), abs=0.02)


def test_bounds_are_kept_and_the_density_is_that_within():
    model = GaussianMixture([[0.0]], 1.0, "edm")
    found = ParameterPosterior(model, (1,), box=Box([0.0], [1.0]), sampler=QUICK)
    theta = found.sample(400, seed=2)
    assert bool(((theta >= 0) & (theta <= 1)).all())
    assert float(theta.mean()) == pytest.approx(0.4598, abs=0.045)  # of a truncated normal
    assert torch.equal(theta[:7], found.sample(7, seed=2))
    share = found.share_inside(2000)
    assert abs(share.value - 0.3413) < 3 * share.standard_error
    assert share.standard_error == pytest.approx(math.sqrt(0.3413 * 0.6587 / 2000), rel=0.05)
    x = torch.tensor([[0.2], [0.9], [1.1]], dtype=torch.float64)
    density = found.log_prob(x, share)
    exact = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 0]) - math.log(0.3413)
    gap = (density.log_prob - exact)[:2].abs()
    assert bool((gap < 3 * density.standard_error[:2] + 0.01).all())
    assert float(density.log_prob[2]) == -math.inf
    relative = share.standard_error / share.value  # the error of its logarithm
    assert density.standard_error.tolist() == pytest.approx([relative] * 3)


def test_samples_do_not_depend_on_the_batch():
    model = GaussianMixture([[0.0]], 1.0, "edm")
    parts = [
        ParameterPosterior(model, (1,), box=Box([0], [1]), sampler=QUICK, batch_size=size).sample(9)
        for size in (2, 100)
    ]
    torch.testing.assert_close(*parts)


def test_the_most_probable_is_the_higher_mode_of_a_skewed_density():
    model = GaussianMixture(
        [[0.0, 0.0], [1.5, 0.0], [-4.0, 0.0]],
        torch.tensor([[0.1, 0.5], [1.5, 0.5], [0.5, 0.5]]),
        "edm",
        weights=[0.3, 0.5, 0.2],
    )
    grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    line = torch.stack([grid, 0 * grid], 1)
    mode = line[model.log_prob(line, model.sde.t_min).argmax()]
    best, _ = ParameterPosterior(model, (2,), sampler=QUICK).map(starts=16)
    torch.testing.assert_close(best.double(), mode, rtol=0, atol=2e-2)
    away = ParameterPosterior(model, (2,), box=Box([1, -2], [3, 2]), sampler=QUICK)
    best, _ = away.map(starts=16)
    assert best.tolist() == pytest.approx([1.5, 0.0], abs=0.02)  # the other lies outside


def test_several_observations_have_one(normal_posterior, observed):
    told, mean, _ = observed
    many = ParameterPosterior(Compositional(normal_posterior(), told), (2,), sampler=QUICK)
    assert float((many.sample(300).mean(0) - mean).abs().max()) < 0.06


def test_what_does_not_fit_is_refused(normal_posterior):
    model = normal_posterior()
    for arguments, says in (
        ({"condition": TOLD.repeat(2, 1)}, "condition"),
        ({"box": (0, 1)}, "box"),
        ({"sampler": "nuts"}, "nuts"),
    ):
        with pytest.raises(ValueError, match=says):
            ParameterPosterior(model, (2,), **arguments)
    far = ParameterPosterior(
        GaussianMixture([[0.0]], 1.0, "edm"), (1,), box=Box([50], [51]), sampler="ddim(steps=2)"
    )
    with pytest.raises(NumericalError, match="100 draws"):
        far.sample(2)
    with pytest.raises(ValueError, match="share"):
        far.log_prob(torch.zeros(1, 1))
