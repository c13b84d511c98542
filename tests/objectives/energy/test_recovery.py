"""Recovery likelihood: the conditional distribution, its noise, and the minimum."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import MALA, ULA
from sde_score.models import EnergyFunction, Marginal
from sde_score.objectives import RecoveryLikelihood
from sde_score.objectives.energy.recovery import Observed
from sde_score.sdes import VP

F64 = torch.float64
SPREAD, STEP = 0.8, 0.15


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def well(w, t=None):
    """The distribution N(0, 1 / w) in one dimension, at a time."""
    return Marginal(EnergyFunction(lambda x, t: 0.5 * w * x[:, 0] ** 2, VP()), t)


def given(draws):
    columns = iter(draws.unbind(1))
    return lambda: next(columns)[:, None]


def test_given_a_noisy_look_a_gaussian_is_the_known_gaussian():
    """N(x~ / (1 + w s^2), 1 / (w + 1 / s^2)): energies up to a constant of x, and the score."""
    w = 1.7
    std = torch.tensor([0.2, 0.9, 3.0], dtype=F64)
    seen = torch.tensor([[0.4], [-1.0], [2.0]], dtype=F64)
    distribution = Observed(well(w), seen, std)
    mean, variance = seen[:, 0] / (1 + w * std**2), 1 / (w + 1 / std**2)
    x = torch.tensor([[-0.3], [0.8], [1.9]], dtype=F64)
    want = (x[:, 0] - mean) ** 2 / (2 * variance)
    at_mean = distribution.energy(mean[:, None])
    torch.testing.assert_close(distribution.energy(x) - at_mean, want, rtol=1e-13, atol=1e-14)
    score = -((x[:, 0] - mean) / variance)[:, None]
    torch.testing.assert_close(distribution.score(x), score, rtol=1e-13, atol=1e-14)
    energy, both = distribution.energy_and_score(x)
    torch.testing.assert_close(energy, distribution.energy(x))
    torch.testing.assert_close(both, distribution.score(x))


def test_the_score_is_minus_the_gradient_of_the_energy(nonlinear):
    prior, _ = nonlinear((2, 3), energy=True)
    x, seen = torch.randn(2, 4, 2, 3, generator=seeded(), dtype=F64)
    x.requires_grad_()
    distribution = Observed(prior, seen, torch.tensor([0.3, 0.5, 1.0, 2.0], dtype=F64))
    (gradient,) = torch.autograd.grad(distribution.energy(x).sum(), x)
    torch.testing.assert_close(distribution.score(x), -gradient)


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_the_noisy_look_is_the_data_at_a_later_time(sde, noise):
    """Where log-SNR is lower by log(1 + noise^2) the transition is scale (x_t + s epsilon)."""
    low, high = sde.log_snr_range
    for share in (0.4, 0.7, 0.95):
        log_snr = torch.tensor(low + share * (high - low), dtype=F64)
        early = sde.time_of_log_snr(log_snr)
        late = sde.time_of_log_snr(log_snr - math.log1p(noise**2))
        assert late < sde.t_max
        scale, std = sde.transition(early, late)
        torch.testing.assert_close(std / scale, noise * sde.sigma(early), rtol=1e-7, atol=0)


@pytest.mark.parametrize("t", [None, 0.3])
@pytest.mark.parametrize("k", [1, 2])
def test_the_expected_loss_follows_the_chain(hermite, k, t):
    """ULA on a Gaussian: x_k = a_k x~ + noise of variance v_k, by its recursion; the expected loss
    is w (S - a_k^2 (S + s^2) - v_k) / 2, over sigma^2, and its gradient that without w."""
    sde, noise = VP(), 0.7
    sigma = 1.0 if t is None else sde.sigma(t).item()
    s2 = (noise * sigma) ** 2
    w = torch.tensor(1.9, dtype=F64, requires_grad=True)
    shrink = 1 - STEP * (1 + w.item() * s2)
    a, v = 1.0, 0.0
    for _ in range(k):
        a, v = shrink * a + STEP, shrink**2 * v + 2 * STEP * s2
    end = a**2 * (SPREAD + s2) + v
    nodes, weights = hermite(3, k + 2)
    settings = {} if t else {"time_sampler": None}
    objective = RecoveryLikelihood(k=k, kernel=ULA(STEP), noise=noise, **settings)
    loss = objective.at(well(w, t), SPREAD**0.5 * nodes[:, :1], given(nodes[:, 1:]))
    loss = weights @ loss
    gradient = torch.autograd.grad(loss, w)[0].item()
    assert gradient == pytest.approx(0.5 * (SPREAD - end) / sigma**2, abs=1e-12)
    assert loss.item() == pytest.approx(w.item() * gradient, abs=1e-12)


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_long_chains_make_the_distribution_of_the_data_the_minimum(factor):
    """With MALA the gradient is zero at w = 1 / S, negative below and positive above."""
    n, w = 20000, torch.tensor(factor / SPREAD, dtype=F64, requires_grad=True)
    x = SPREAD**0.5 * torch.randn(n, 1, generator=seeded(), dtype=F64)
    objective = RecoveryLikelihood(k=30, kernel=MALA(0.3), time_sampler=None, noise=0.9)
    loss = objective(well(w).model, x, generator=seeded(1))
    # The gradient of each example is its loss over w, as the energy is linear in w.
    gradients = (loss / w).detach()
    error = (gradients.std() / n**0.5).item()
    mean = torch.autograd.grad(loss.mean(), w)[0].item()
    assert mean == pytest.approx(gradients.mean().item())
    if factor == 1:
        assert abs(mean) < 4 * error
    else:
        assert mean * (factor - 1) > 0
        assert abs(mean) > 10 * error


def test_negatives_carry_no_gradient_and_start_at_the_noisy_look(nonlinear):
    marginal, parameters = nonlinear((3,), energy=True)
    x = torch.randn(5, 3, generator=seeded(), dtype=F64).requires_grad_()
    z = torch.randn(2, 5, 3, generator=seeded(1), dtype=F64)
    s = 0.6
    seen = x.detach() + s * z[0]
    end = seen + STEP * s**2 * marginal.score(seen).detach() + math.sqrt(2 * STEP) * s * z[1]
    draws = iter(z)
    objective = RecoveryLikelihood(k=1, kernel=ULA(STEP), time_sampler=None, noise=s)
    loss = objective.at(marginal, x, lambda: next(draws))
    want = marginal.energy(x) - marginal.energy(end)
    torch.testing.assert_close(loss, want)
    got = torch.autograd.grad(loss.sum(), [x, *parameters])
    for a, b in zip(got, torch.autograd.grad(want.sum(), [x, *parameters]), strict=True):
        torch.testing.assert_close(a, b)


def test_it_looks_at_all_noise_levels_unless_told_otherwise():
    assert RecoveryLikelihood().all_noise_levels
    assert not RecoveryLikelihood(time_sampler=None).all_noise_levels


def test_wrong_arguments_are_refused():
    for wrong in ({"k": 0}, {"noise": 0.0}, {"noise": math.inf}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RecoveryLikelihood(**wrong)
    with pytest.raises(ValueError, match="unknown kernel"):
        RecoveryLikelihood(kernel="langevin")
    with pytest.raises(ValueError, match="unknown time sampler"):
        RecoveryLikelihood(time_sampler="unifrm")
