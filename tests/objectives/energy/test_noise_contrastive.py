"""Noise-contrastive estimation: the noise is the Gaussian it says, and the minimum has log Z."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.models import EnergyFunction, Marginal
from sde_score.objectives import NoiseContrastive
from sde_score.sdes import VP

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(shape, generator=seeded(9), dtype=F64)


def correlated(count, dim):
    return 1.5 + data(count, dim) @ (torch.eye(dim, dtype=F64) + 0.5 * data(dim, dim).tril())


def fitted(examples, ratio=1):
    objective = NoiseContrastive(ratio).double()
    objective.setup(examples)
    return objective


def distribution_of(energy):
    return Marginal(EnergyFunction(energy, VP()))


def test_the_noise_is_the_gaussian_of_the_data():
    """Its mean and, but for a ridge of 1e-4 of the mean variance, its covariance."""
    examples = correlated(300, 4)
    objective = fitted(examples)
    covariance = torch.cov(examples.mT, correction=0)
    ridge = 1e-4 * covariance.diagonal().mean()
    want = torch.distributions.MultivariateNormal(
        examples.mean(0), covariance + ridge * torch.eye(4, dtype=F64)
    )
    x = data(6, 4)
    torch.testing.assert_close(objective.log_noise(x), want.log_prob(x), rtol=1e-9, atol=1e-9)
    axes = torch.cat([torch.zeros(1, 4, dtype=F64), torch.eye(4, dtype=F64)])
    drawn = objective.noise(axes)
    torch.testing.assert_close(drawn[0], examples.mean(0))
    columns = (drawn[1:] - drawn[0]).mT
    torch.testing.assert_close(columns @ columns.mT, want.covariance_matrix)


def test_large_events_have_noise_without_correlations():
    examples = correlated(40, 3)[:, [0, 1, 2] * 100].reshape(40, 30, 10)
    objective = fitted(examples)
    flat = examples.flatten(1)
    variance = flat.var(0, correction=0)
    std = (variance + 1e-4 * variance.mean()).sqrt()
    x = data(5, 30, 10)
    want = torch.distributions.Normal(flat.mean(0), std).log_prob(x.flatten(1)).sum(1)
    torch.testing.assert_close(objective.log_noise(x), want)
    torch.testing.assert_close(objective.noise(x).flatten(1), flat.mean(0) + std * x.flatten(1))


def test_data_on_a_plane_have_noise_with_a_density():
    examples = correlated(50, 1) * torch.tensor([1.0, 2.0, 0.0])
    assert bool(fitted(examples).log_noise(examples).isfinite().all())


def test_log_z_starts_at_that_of_the_gaussian_energy():
    """exp(-(x - m) C^-1 (x - m) / 2) integrates to sqrt det(2 pi C)."""
    objective = fitted(correlated(300, 4))
    covariance = objective.factor @ objective.factor.mT
    want = 0.5 * torch.logdet(2 * math.pi * covariance)
    torch.testing.assert_close(objective.log_z.detach(), want)
    x = data(3, 4)
    off = x - objective.mean
    energy = 0.5 * (off @ torch.linalg.inv(covariance) * off).sum(1)
    torch.testing.assert_close(-energy - objective.log_z.detach(), objective.log_noise(x))


@pytest.mark.parametrize("ratio", [1, 3])
def test_the_loss_is_that_of_a_classifier(ratio):
    """-log of the chance that x0 is data, and of those that each y is not, as Bayes has them."""
    objective, x0 = fitted(data(100, 2), ratio), data(5, 2)
    with torch.no_grad():
        objective.log_z.fill_(0.7)
    noise = [objective.noise(data(5, 2) + i) for i in range(ratio)]
    marginal = distribution_of(lambda x, t: (x**4).sum(1) / 4)

    def chance(x):
        p = torch.exp(-marginal.energy(x) - 0.7)
        q = ratio * torch.exp(objective.log_noise(x))
        return p / (p + q)

    want = -chance(x0).log() - sum((1 - chance(y)).log() for y in noise)
    torch.testing.assert_close(objective.at(marginal, x0, noise), want)


@pytest.mark.parametrize("ratio", [1, 4])
def test_its_minimum_has_the_constant_of_the_energy(ratio):
    """Energy a x^4 / 4 - b x^2 / 2, whose Z is a sum over a grid; the expected loss too. At the
    truth every gradient is zero, and moving any parameter either way makes the loss larger."""
    truth = torch.tensor([0.6, 0.9], dtype=F64)
    grid = torch.linspace(-9, 9, 721, dtype=F64)[:, None]
    step = grid[1, 0] - grid[0, 0]

    def energy(x, parameters):
        return parameters[0] * x[:, 0] ** 4 / 4 - parameters[1] * x[:, 0] ** 2 / 2

    weights = torch.exp(-energy(grid, truth))
    log_z = (weights.sum() * step).log()
    weights = weights / weights.sum()
    objective = fitted(0.3 + 1.2 * data(200, 1), ratio)
    noise_weights = objective.log_noise(grid).exp() * step
    assert noise_weights.sum() == pytest.approx(1, abs=1e-12)
    parameters = truth.clone().requires_grad_()

    def loss():
        # With no noise the loss is the data's part, with the grid as noise the rest as well.
        marginal = distribution_of(lambda x, t: energy(x, parameters))
        positive = objective.at(marginal, grid, [])
        negative = objective.at(marginal, grid, [grid]) - positive
        return weights @ positive + ratio * (noise_weights @ negative)

    with torch.no_grad():
        objective.log_z.copy_(log_z)
    least = loss()
    for gradient in torch.autograd.grad(least, [parameters, objective.log_z]):
        assert gradient.abs().max() < 1e-10
    for tensor in (parameters, objective.log_z):
        for index in range(tensor.numel()):
            for shift in (-0.05, 0.05):
                with torch.no_grad():
                    tensor.view(-1)[index] += shift
                    assert loss() > least + 1e-5
                    tensor.view(-1)[index] -= shift


def test_a_step_down_the_gradient_moves_log_z_to_the_truth():
    x0, w = data(4000, 1), 2.0
    objective = fitted(data(100, 1))
    model = EnergyFunction(lambda x, t: 0.5 * w * (x[:, 0] * 2**-0.5) ** 2, VP())
    log_z = 0.5 * math.log(2 * math.pi)
    for start, sign in ((log_z + 0.5, 1), (log_z - 0.5, -1)):
        with torch.no_grad():
            objective.log_z.fill_(start)
        loss = objective(model, x0, generator=seeded()).mean()
        assert torch.autograd.grad(loss, objective.log_z)[0].sign() == sign


def test_each_example_has_its_own_draws():
    """Two examples at one point have different losses; the draws are the generator's, in turn."""
    objective, x0 = fitted(data(100, 2), 2), torch.zeros(3, 2, dtype=F64)
    model = EnergyFunction(lambda x, t: (x**2).sum(1), VP())
    losses = objective(model, x0, generator=seeded(1))
    assert len(losses.unique()) == 3
    source = seeded(1)
    noise = [objective.noise(torch.randn(3, 2, generator=source, dtype=F64)) for _ in range(2)]
    torch.testing.assert_close(losses, objective.at(Marginal(model), x0, noise))


def test_far_from_the_data_the_loss_is_the_log_odds_itself():
    """No saturation: at odds of e^-50 the loss is 50 to rounding, at e^50 it is e^-50."""
    objective = fitted(data(100, 1))
    x = objective.mean[None].clone()
    bias = -objective.log_noise(x)
    for odds in (-50.0, 50.0):
        marginal = distribution_of(lambda x, t, odds=odds: 0 * x[:, 0] + bias - odds)
        with torch.no_grad():
            objective.log_z.fill_(0.0)
        want = math.log1p(math.exp(-odds)) if odds < 0 else math.exp(-odds)
        assert objective.at(marginal, x, []).item() == pytest.approx(want, rel=1e-10)
        other = math.exp(odds) if odds < 0 else odds
        total = objective.at(marginal, x, [x]).item()
        assert total - want == pytest.approx(other, rel=1e-9, abs=1e-14)


def test_a_checkpoint_holds_the_noise_and_the_constant():
    first, second = fitted(correlated(100, 3)), fitted(data(100, 3))
    with torch.no_grad():
        first.log_z.fill_(1.25)
    assert set(first.state_dict()) == {"log_z", "mean", "factor"}
    second.load_state_dict(first.state_dict())
    model, x0 = EnergyFunction(lambda x, t: (x**2).sum(1), VP()), data(5, 3)
    assert torch.equal(*(o(model, x0, generator=seeded()) for o in (first, second)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="ratio=0 must be an integer of at least 1"):
        NoiseContrastive(0)
    model = EnergyFunction(lambda x, t: (x**2).sum(1), VP())
    with pytest.raises(RuntimeError, match="call setup"):
        NoiseContrastive()(model, data(4, 2))
    with pytest.raises(ValueError, match=r"event shape \(3,\), the noise has \(2,\)"):
        fitted(data(9, 2))(model, data(4, 3))
    with pytest.raises(ValueError, match="all alike"):
        fitted(torch.ones(5, 2, dtype=F64))
    with pytest.raises(TypeError, match="examples must be a floating-point tensor"):
        fitted(torch.ones(5, 2, dtype=torch.long))
    assert "ratio=2" in repr(NoiseContrastive(2))
