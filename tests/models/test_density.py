"""Densities at one time: a model's marginal, and energies of known distributions."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import (
    BaseEnergy,
    Density,
    EmpiricalDistribution,
    EnergyBased,
    EnergyFunction,
    EnergyModel,
    GaussianMixture,
    Marginal,
    ScoreFunction,
)
from sde_score.sdes import VP


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, generator=generator, dtype=torch.float64)


def mixture(sde):
    covariance = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.4]]])
    return GaussianMixture([[-1.0, 0.5], [0.8, 0.0]], covariance, sde, [0.3, 0.7])


def data_set(sde):
    points = torch.tensor([[-1.0, 0.5], [0.8, 0.0], [0.3, 0.9]], dtype=torch.float64)
    return EmpiricalDistribution(points, sde)


@pytest.mark.parametrize("make", [mixture, data_set])
def test_energy_of_a_known_distribution_is_minus_its_log_density(make, sde, times, x, gradient):
    """And its score is minus the gradient of that, at every time, from one evaluation."""
    distribution, times, x = (
        make(sde),
        times.clamp(min=sde.t_min + 0.02 * (sde.t_max - sde.t_min)),
        0.5 * x,
    )
    energy, score = distribution.energy_and_score(x, times)
    assert distribution.nfe == 1
    torch.testing.assert_close(energy, -distribution.log_prob(x, times), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.energy(x, times), energy, rtol=0, atol=0)
    torch.testing.assert_close(distribution.score(x, times), score, rtol=0, atol=0)
    want = -gradient(lambda x: -distribution.log_prob(x, times), x)
    torch.testing.assert_close(score, want, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(gradient(lambda x: -distribution.energy(x, times), x), score)
    assert isinstance(distribution, EnergyBased)
    assert not isinstance(distribution, BaseEnergy)


@pytest.mark.parametrize("make", [mixture, data_set])
def test_known_distributions_take_no_condition(make, sde, x):
    with pytest.raises(ValueError, match="takes no condition"):
        make(sde).energy(x, sde.t_max, torch.zeros(4))


def test_energy_of_a_mixture_integrates_to_one(sde):
    """exp(-energy) is a density and not only proportional to one."""
    distribution = GaussianMixture([[-1.0], [0.5]], 0.2, sde)
    t = 0.5 * (sde.t_min + sde.t_max)
    spread = 12 * float((sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt())
    grid = torch.linspace(-spread, spread, 20_001, dtype=torch.float64)
    total = torch.trapezoid(torch.exp(-distribution.energy(grid[:, None], t)), grid)
    assert float(total) == pytest.approx(1, abs=1e-9)


def test_a_marginal_is_the_model_at_its_time(sde, times, x):
    distribution = mixture(sde)
    for t in (times, float(times[2]), times[3]):
        marginal = Marginal(distribution, t)
        assert marginal.has_energy
        assert isinstance(marginal, Density)
        assert torch.equal(marginal.score(x), distribution.score(x, t))
        assert torch.equal(marginal.energy(x), distribution.energy(x, t))
        for got, want in zip(
            marginal.energy_and_score(x), distribution.energy_and_score(x, t), strict=True
        ):
            assert torch.equal(got, want)


def test_without_a_time_it_is_the_distribution_of_the_data(sde, x):
    """t_min stands for it."""
    distribution = mixture(sde)
    marginal = Marginal(distribution)
    assert marginal.t == sde.t_min
    assert torch.equal(marginal.score(x), distribution.score(x, sde.t_min))
    assert torch.equal(
        Marginal(distribution, 0.5 * sde.t_max).score(x), distribution.score(x, 0.5 * sde.t_max)
    )


def test_a_zero_time_is_a_time():
    """It is passed on, to be refused by the SDE, and not taken for none."""
    with pytest.raises(ValueError, match="leaves"):
        Marginal(mixture(VP()), 0.0).score(torch.zeros(1, 2))


def test_conditions_are_passed_on(x):
    condition = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    model = EnergyFunction(lambda x, t, c: (c[:, None] * x**2).sum(1))
    marginal = Marginal(model, 0.5, condition)
    want = (condition[:, None] * x**2).sum(1)
    torch.testing.assert_close(marginal.energy(x), want)
    torch.testing.assert_close(marginal.score(x), -2 * condition[:, None] * x)
    energy, score = marginal.energy_and_score(x)
    torch.testing.assert_close(energy, want)
    torch.testing.assert_close(score, -2 * condition[:, None] * x)


def test_evaluations_are_counted_on_the_model(x):
    model = EnergyFunction(lambda x, t: x.square().sum(1))
    marginal = Marginal(model)
    marginal.score(x), marginal.energy(x), marginal.energy_and_score(x)
    assert model.nfe == 3


def test_graphs_reach_the_parameters(x):
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    marginal = Marginal(EnergyFunction(lambda x, t: weight * x.square().sum(1)))
    for tensor in (marginal.energy(x), marginal.score(x), *marginal.energy_and_score(x)):
        assert torch.autograd.grad(tensor.sum(), weight)[0].isfinite()


def test_models_that_know_their_score_alone_have_no_energy(x):
    marginal = Marginal(ScoreFunction(lambda x, t: -x))
    assert not marginal.has_energy
    assert torch.equal(marginal.score(x), -x)
    for method in (marginal.energy, marginal.energy_and_score):
        with pytest.raises(TypeError, match="ScoreFunction has a score but no energy; accepted"):
            method(x)
    assert Marginal(EnergyModel(lambda x, label: x, VP())).has_energy
