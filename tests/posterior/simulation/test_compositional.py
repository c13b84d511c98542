"""Posteriors of several observations: against the closed form of normal distributions."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.likelihood import log_prob
from sde_score.models import BaseModel, GaussianMixture, parametrization
from sde_score.posterior.simulation import Compositional, covariances

NONE = torch.full((1, 4), torch.nan, dtype=torch.float64)


def composed(model, told, correction):
    exact = None
    if correction == "gauss":
        exact = model.moments(torch.cat([NONE, told]))[1]
    return Compositional(model, told, correction, covariances=exact)


def divergence(sampler, model, mean, covariance):
    """KL of what an affine sampler makes of normal noise to a normal distribution: its moments."""
    std = sampler.start_spread(model.sde)
    starts = torch.cat([torch.zeros(1, 2), std * torch.eye(2)]).double()
    ends = sampler(model, starts, seed=0, progress=False)
    factor = (ends[1:] - ends[0]).T
    found, inverse = factor @ factor.T, torch.linalg.inv(covariance)
    gap = ends[0] - mean
    trace = torch.trace(inverse @ found) + gap @ inverse @ gap - 2
    return float(trace + torch.logdet(covariance) - torch.logdet(found)) / 2


@pytest.mark.parametrize("sde", ["edm", "vp"])
@pytest.mark.parametrize("correction", ["jacobian", "gauss"])
def test_the_score_is_that_of_the_joint_posterior(correction, sde, normal_posterior, observed):
    told, mean, covariance = observed
    model = normal_posterior(sde)
    many = composed(model, told, correction)
    exact = GaussianMixture(mean[None], covariance[None], sde)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.linspace(model.sde.t_min, model.sde.t_max, 6, dtype=torch.float64)
    torch.testing.assert_close(many.score(x, times), exact.score(x, times), rtol=1e-6, atol=1e-8)
    mid = float(times[2])
    torch.testing.assert_close(many.denoise(x, mid), exact.denoise(x, mid), rtol=1e-6, atol=1e-8)
    assert model.rows == [36, 36]  # all observations and the prior in one batch
    assert many.nfe == 2 * 6


def test_samples_have_the_moments_of_the_closed_form(normal_posterior, observed):
    told, mean, covariance = observed
    sampler = samplers.create("dpmpp-2m(steps=60, grid='karras')")
    kl = {
        name: divergence(sampler, composed(normal_posterior(), told, name), mean, covariance)
        for name in ("jacobian", "gauss", "fnpe")
    }
    assert max(kl["jacobian"], kl["gauss"]) < 2e-4
    assert abs(kl["jacobian"] - kl["gauss"]) < 1e-8
    assert kl["fnpe"] > 0.3


def test_one_observation_is_what_the_model_says(normal_posterior, observed):
    told, model = observed[0][:1], normal_posterior()
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    for correction in ("jacobian", "gauss", "fnpe"):
        found = composed(model, told, correction).denoise(x, 0.7)
        torch.testing.assert_close(found, model.denoise(x, 0.7, told))


def test_without_correction_scores_are_summed(normal_posterior, observed):
    told, model = observed[0][:3], normal_posterior("vp")
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    scores = sum(model.score(x, 0.4, row[None]) for row in told) - 2 * model.score(x, 0.4)
    torch.testing.assert_close(Compositional(model, told, "fnpe").score(x, 0.4), scores)


class Shifted(BaseModel):
    """Two modes, and their distance to what is told."""

    takes_condition = True

    def __init__(self, variance=0.3):
        self.inside = GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], variance, "vp")
        self._sde = self.inside.sde

    def _predict(self, x, at, condition):
        away = torch.nan_to_num(condition)
        return self.inside.denoise(x - at.alpha * away, at.t) + away

    def _coefficients(self, at):
        return parametrization.data(at)


@pytest.mark.parametrize("correction", ["jacobian", "fnpe"])
def test_derivatives_go_through_the_precisions(correction):
    told = torch.tensor([[0.2, -0.1], [0.3, 0.4]], dtype=torch.float64)
    wide = GaussianMixture([[0.0, 0.0]], 4.0, "vp")  # so that every observation adds precision
    many = Compositional(Shifted(), told, correction, prior=wide)
    x = torch.tensor([[0.3, 0.2], [-0.6, 0.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: many.denoise(z, 0.3), x)


def test_derivatives_are_finite_where_all_directions_are_alike():
    one = Shifted()
    one.inside = GaussianMixture([[0.0, 0.0]], 1.0, "vp")
    x = torch.tensor([[0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    found = Compositional(one, torch.zeros(2, 2).double()).denoise(x, 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert bool(gradient.isfinite().all())


def test_covariances_are_those_of_samples(normal_posterior, observed):
    told, model = observed[0][:2], normal_posterior()
    found = covariances(model, told, (2,), draws=2000, sampler="dpmpp-2m(steps=12)")
    exact = model.moments(torch.cat([NONE, told]))[1]
    for mine, true in zip(found, exact, strict=True):
        assert float((torch.linalg.solve(true, mine) - torch.eye(2)).abs().max()) < 0.15
    prior = GaussianMixture([[0.0, 0.0]], 9.0, "edm")
    wide = covariances(model, told, (2,), prior=prior, draws=100, sampler="dpmpp-2m(steps=12)")
    assert float(wide[0].diagonal().min()) > 5  # of the prior that is given


def test_an_exact_prior_takes_the_place_of_no_condition(normal_posterior, observed):
    told, model = observed[0], normal_posterior()
    prior = GaussianMixture([[0.0, 0.0]], model.moments(NONE)[1], "edm")
    x = torch.tensor([[0.3, -1.0], [2.0, 0.1]], dtype=torch.float64)
    with_prior = Compositional(model, told, prior=prior)
    expected = Compositional(model, told).score(x, 0.5)
    torch.testing.assert_close(with_prior.score(x, 0.5), expected)
    assert (model.rows, with_prior.nfe) == ([12, 10], 6)


def test_an_observation_never_lowers_a_precision(normal_posterior, observed):
    """Where samples are wider than the prior, by chance or for a mixture, there still is a
    distribution."""
    told, model = observed[0], normal_posterior()
    wide = torch.stack([torch.eye(2), *[torch.diag(torch.tensor([1.5, 0.5]))] * 5]).double()
    many = Compositional(model, told, "gauss", covariances=wide)
    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(
        many.precisions, torch.stack([eye, *[eye * torch.tensor([0, 1])] * 5])
    )


def test_it_is_a_model_with_a_likelihood(normal_posterior, observed):
    told, mean, covariance = observed
    many = Compositional(normal_posterior(), told)
    x = mean + torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    exact = GaussianMixture(mean[None], covariance[None], "edm")
    found, true = (log_prob(model, x, rtol=1e-3, atol=1e-3).log_prob for model in (many, exact))
    torch.testing.assert_close(found, true, rtol=0, atol=1e-6)


def test_jacobians_that_are_no_covariances_give_finite_answers():
    """As of networks at large noise, where they hardly depend on x."""

    class Falling(Shifted):
        def _predict(self, x, at, condition):
            return -0.1 * x

    falling = Falling()
    x = torch.tensor([[0.3, 0.2]], dtype=torch.float64)
    for time in (0.01, 0.9):
        found = Compositional(falling, torch.zeros(3, 2).double()).denoise(x, time)
        torch.testing.assert_close(found, -0.1 * x)  # all say the same


def test_samples_do_not_depend_on_the_batch(normal_posterior, observed):
    many = Compositional(normal_posterior(), observed[0])
    whole = samplers.sample(many, "ddpm(steps=4)", (2,), 5, seed=3, progress=False)
    parts = samplers.sample(many, "ddpm(steps=4)", (2,), 5, seed=3, batch_size=2, progress=False)
    torch.testing.assert_close(whole, parts)


def test_it_says_what_is_wrong(normal_posterior, observed):
    told, model = observed[0], normal_posterior()
    for arguments, says in (
        ({"correction": "mmps"}, "correction"),
        ({"correction": "gauss"}, "covariances"),
        ({"covariances": torch.eye(2)}, "covariances"),
        ({"correction": "gauss", "covariances": torch.eye(2).expand(2, 2, 2)}, r"\(6, d, d\)"),
        ({"prior": GaussianMixture([[0.0, 0.0]], 1.0, "vp")}, "prior"),
    ):
        with pytest.raises(ValueError, match=says):
            Compositional(model, told, **arguments)
    with pytest.raises(ValueError, match="observations"):
        Compositional(model, None)
    model.needs_condition = True
    with pytest.raises(ValueError, match="does not know the prior"):
        Compositional(model, told)
    assert "biased" in repr(Compositional(normal_posterior(), told, "fnpe"))
