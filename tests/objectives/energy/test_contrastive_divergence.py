"""Contrastive divergence on Gaussian data, where every chain is Gaussian in closed form.

With a linear score the end of a chain is linear in its draws, so that three Gauss-Hermite nodes per
draw give the expected loss of a quadratic energy without error.
"""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.mcmc import MALA, ULA
from sde_score.models import EnergyFunction, Marginal
from sde_score.objectives import ContrastiveDivergence, PersistentContrastiveDivergence, create
from sde_score.objectives.energy.short_run_chains import Scaled
from sde_score.sdes import VP

F64 = torch.float64
SPREAD = 0.8  # variance of the data
STEP = 0.3


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def well(w, t=None):
    """The distribution N(0, 1 / w) in one dimension, at a time."""
    return Marginal(EnergyFunction(lambda x, t: 0.5 * w * x[:, 0] ** 2, VP()), t)


def given(draws):
    """A source that hands out the columns of a table, one per call."""
    columns = iter(draws.unbind(1))
    return lambda: next(columns)[:, None]


def expected(objective, w, hermite, k, variance=SPREAD, t=None):
    """Expected loss over data N(0, variance) and k draws: exact."""
    nodes, weights = hermite(3, k + 1)
    x = variance**0.5 * nodes[:, :1]
    return weights @ objective.at(well(w, t), x, given(nodes[:, 1:]))


def slope(objective, w, hermite, k, **settings):
    leaf = torch.tensor(w, dtype=F64, requires_grad=True)
    loss = expected(objective, leaf, hermite, k, **settings)
    return loss, torch.autograd.grad(loss, leaf)[0]


def fixed_point(variance, h):
    return (1 - math.sqrt(1 - 2 * h / variance)) / h


@pytest.mark.parametrize("k", [1, 2, 4])
def test_with_ula_the_fixed_point_is_that_of_its_stationary_distribution(hermite, k):
    """w (1 - h w / 2) = 1 / S whatever k; below it the gradient says more, above it less."""
    objective = ContrastiveDivergence(k=k, kernel=ULA(step_size=STEP))
    w = fixed_point(SPREAD, STEP)
    assert slope(objective, w, hermite, k)[1].abs() < 1e-13
    assert slope(objective, 0.8 * w, hermite, k)[1] < -1e-2
    assert slope(objective, 1.2 * w, hermite, k)[1] > 1e-2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_expected_loss_follows_the_variance_of_the_chain(hermite, k):
    w, variance = 1.7, SPREAD
    for _ in range(k):
        variance = (1 - STEP * w) ** 2 * variance + 2 * STEP
    loss, gradient = slope(ContrastiveDivergence(k=k, kernel=ULA(STEP)), w, hermite, k)
    torch.testing.assert_close(loss.item(), 0.5 * w * (SPREAD - variance), rtol=0, atol=1e-13)
    torch.testing.assert_close(gradient.item(), 0.5 * (SPREAD - variance), rtol=0, atol=1e-13)


@pytest.mark.parametrize("h", [0.5, 0.1, 0.01])
def test_one_step_has_the_gradient_of_implicit_score_matching_as_h_falls(hermite, h):
    """The gradient over h is (w S - 1) - h w^2 S / 2, and w S - 1 that of w^2 S / 2 - w."""
    w = 1.9
    gradient = slope(ContrastiveDivergence(k=1, kernel=ULA(h)), w, hermite, 1)[1] / h
    want = (w * SPREAD - 1) - h * w**2 * SPREAD / 2
    torch.testing.assert_close(gradient.item(), want, rtol=0, atol=1e-12)


def test_the_fixed_point_in_two_dimensions_has_mean_and_covariance(hermite, fields, gaussian):
    distribution, k = gaussian(2), 1
    values, axes = torch.linalg.eigh(distribution.covariance)
    h = 0.2 * float(values.min())
    biased = (1 - (1 - 2 * h / values).sqrt()) / h
    precision = (axes @ torch.diag(biased) @ axes.mT).requires_grad_()
    shift = (precision.detach() @ distribution.mean).requires_grad_()
    nodes, weights = hermite(3, 4)
    x = distribution.mean + nodes[:, :2] @ torch.linalg.cholesky(distribution.covariance).mT
    objective = ContrastiveDivergence(k=k, kernel=ULA(h))
    loss = weights @ objective.at(fields.quadratic(precision, shift), x, lambda: nodes[:, 2:])
    for gradient in torch.autograd.grad(loss, [precision, shift]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-13)


def accepted_slope(w, h):
    """Expected gradient of a step of MALA, by a grid over data, proposals and the coin."""
    at = torch.linspace(-6, 6, 49, dtype=F64)
    density = torch.exp(-(at**2) / 2) / torch.exp(-(at**2) / 2).sum()
    coin = torch.special.ndtri((torch.arange(100, dtype=F64) + 0.5) / 100)
    x, z, u = (g.reshape(-1) for g in torch.meshgrid(at, at, coin, indexing="ij"))
    weights = (density[:, None, None] * density[:, None] / 100).expand(-1, -1, 100).reshape(-1)
    leaf = torch.tensor(w, dtype=F64, requires_grad=True)
    objective = ContrastiveDivergence(k=1, kernel=MALA(h))
    draws = given(torch.stack([z, u], 1))
    loss = objective.at(well(leaf), SPREAD**0.5 * x[:, None], draws)
    return torch.autograd.grad(weights @ loss, leaf)[0].item()


def test_with_mala_the_fixed_point_is_the_precision_of_the_data():
    h = 0.5
    assert abs(accepted_slope(1 / SPREAD, h)) < 5e-4
    assert accepted_slope(0.8 / SPREAD, h) < -0.02
    assert accepted_slope(1.2 / SPREAD, h) > 0.02
    assert abs(accepted_slope(fixed_point(SPREAD, 0.3), h)) > 0.02


@pytest.mark.parametrize("t", [0.15, 0.6])
def test_at_a_noise_level_lengths_are_in_units_of_sigma(hermite, t):
    """A chain of step h in these units is one of step h sigma^2, and the loss over sigma^2."""
    sde, h, k = VP(), 0.4, 2
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    variance = alpha**2 * SPREAD + sigma**2
    noisy = ContrastiveDivergence(time_sampler="uniform", k=k, kernel=ULA(h))
    clean = ContrastiveDivergence(k=k, kernel=ULA(h * sigma**2))
    w = fixed_point(variance, h * sigma**2)
    assert slope(noisy, w, hermite, k, variance=variance, t=t)[1].abs() < 1e-12
    for each in (0.7 * w, 1.4 * w):
        got = slope(noisy, each, hermite, k, variance=variance, t=t)
        want = slope(clean, each, hermite, k, variance=variance, t=t)
        torch.testing.assert_close(got[0], want[0] / sigma**2, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(got[1], want[1] / sigma**2, rtol=1e-11, atol=1e-12)


def test_each_example_has_the_sigma_of_its_own_time():
    sde, w = VP(), 1.3
    t, x = torch.tensor([0.1, 0.5, 0.9], dtype=F64), torch.full((3, 1), 0.7, dtype=F64)
    objective = ContrastiveDivergence(
        time_sampler="uniform", k=1, kernel=ULA(STEP), start_noise=0.5
    )
    draws = torch.tensor([[0.3, -1.1]], dtype=F64).expand(3, 2)
    got = objective.at(well(w, t), x, given(draws))
    for i in range(3):
        sigma = sde.sigma(t[i]).item()
        start = 0.7 + 0.5 * sigma * 0.3
        end = start - STEP * sigma**2 * w * start + math.sqrt(2 * STEP) * sigma * -1.1
        want = 0.5 * w * (0.7**2 - end**2) / sigma**2
        assert got[i].item() == pytest.approx(want, abs=1e-12)


def test_the_ends_of_the_chains_carry_no_gradient(nonlinear):
    """The gradient is that of the two energies with the end held fixed; none flows to the start."""
    marginal, parameters = nonlinear((3,), energy=True)
    x = torch.randn(5, 3, generator=seeded(), dtype=F64).requires_grad_()
    z = torch.randn(2, 5, 3, generator=seeded(1), dtype=F64)
    start = x.detach() + 0.3 * z[0]
    end = start + STEP * marginal.score(start).detach() + math.sqrt(2 * STEP) * z[1]
    draws = iter(z)
    objective = ContrastiveDivergence(k=1, kernel=ULA(STEP), start_noise=0.3)
    loss = objective.at(marginal, x, lambda: next(draws))
    want = marginal.energy(x) - marginal.energy(end)
    torch.testing.assert_close(loss, want, rtol=0, atol=1e-13)
    got = torch.autograd.grad(loss.sum(), [x, *parameters])
    for a, b in zip(got, torch.autograd.grad(want.sum(), [x, *parameters]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


def test_the_penalty_is_on_both_energies():
    x, z = torch.tensor([[0.9], [-1.4]], dtype=F64), torch.tensor([[0.2], [1.0]], dtype=F64)
    settings = {"k": 1, "kernel": ULA(STEP)}
    plain, penalized = (
        ContrastiveDivergence(**settings, energy_penalty=c).at(well(1.5), x, given(z))
        for c in (0.0, 0.25)
    )
    end = (1 - STEP * 1.5) * x + math.sqrt(2 * STEP) * z
    squares = (0.75 * x[:, 0] ** 2) ** 2 + (0.75 * end[:, 0] ** 2) ** 2
    torch.testing.assert_close(penalized - plain, 0.25 * squares)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_a_density_in_other_units_is_the_same_distribution(nonlinear, scale):
    density, _ = nonlinear((2,), energy=True)
    scaled = Scaled(density, torch.tensor(scale, dtype=F64))
    y = torch.randn(4, 2, generator=seeded(), dtype=F64).requires_grad_()
    energy = scaled.energy(y)
    torch.testing.assert_close(energy, density.energy(scale * y))
    (gradient,) = torch.autograd.grad(energy.sum(), y)
    both = scaled.energy_and_score(y)
    for got, want in ((both[0], energy), (both[1], -gradient), (scaled.score(y), -gradient)):
        torch.testing.assert_close(got, want)


class Watched(torch.nn.Module):
    """An energy that notes in which mode it and its dropout are."""

    def __init__(self):
        super().__init__()
        self.width = torch.nn.Parameter(torch.ones((), dtype=F64))
        self.dropout, self.frozen = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval()
        self.modes = []

    def forward(self, x, t):
        self.modes.append((self.training, self.dropout.training, self.frozen.training))
        return 0.5 * self.width * self.dropout(x**2).sum(1)


@pytest.mark.parametrize(
    "name", ["contrastive-divergence(k=2)", "persistent(k=2)", "recovery(k=2)"]
)
def test_chains_see_the_model_in_evaluation_mode_and_the_loss_does_not(name):
    model = EnergyFunction(Watched(), VP())
    x0 = torch.randn(6, 2, generator=seeded(), dtype=F64)
    objective = create(name)
    if isinstance(objective, PersistentContrastiveDivergence):
        objective.setup(x0)
    objective(model, x0, generator=seeded())
    watched = model.function
    assert watched.modes == [(False, False, False)] * 3 + [(True, True, False)] * 2
    assert model.training
    assert watched.dropout.training
    assert not watched.frozen.training


def test_modes_come_back_after_an_error():
    def broken(x, t):
        raise ValueError("broken")

    model = EnergyFunction(broken, VP())
    with pytest.raises(ValueError, match="broken"):
        create("contrastive-divergence")(model, torch.zeros(2, 2))
    assert model.training


def test_autocast_leaves_the_gradient_whole():
    """Weights that the chain cast to low precision are cached; the loss must reach them still."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(2, 1)
    model = EnergyFunction(lambda x, t: (layer(x) ** 2).sum(1) + 0.5 * (x**2).sum(1), VP())
    x0, gradients = torch.randn(64, 2, generator=seeded()), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            objective = ContrastiveDivergence(k=2, kernel=ULA(0.1))
            loss = objective(model, x0, generator=seeded(1)).mean()
        gradients.append(torch.autograd.grad(loss, layer.weight)[0])
    assert gradients[0].abs().max() > 0.01
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.2, atol=0.02)


@pytest.mark.parametrize("objective", [ContrastiveDivergence, PersistentContrastiveDivergence])
def test_wrong_arguments_are_refused(objective):
    for wrong in ({"k": 0}, {"k": 1.5}, {"energy_penalty": -1.0}, {"energy_penalty": math.nan}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            objective(**wrong)
    with pytest.raises(ValueError, match="unknown kernel 'mal'; did you mean 'mala'"):
        objective(kernel="mal")
    with pytest.raises(ValueError, match="does not take size"):
        objective(kernel="ula(size=2)")
    with pytest.raises(ValueError, match=r"start_noise=-0\.1"):
        ContrastiveDivergence(start_noise=-0.1)
