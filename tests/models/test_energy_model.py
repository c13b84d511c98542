"""An energy model's score is minus its gradient, its formula is the documented one, and everything
that takes a model takes it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sde_score import nn as backbones
from sde_score import samplers
from sde_score.likelihood import log_prob
from sde_score.models import (
    HEADS,
    EnergyBased,
    EnergyFunction,
    EnergyModel,
    ScoreModel,
)
from sde_score.models.rows import OURS
from sde_score.sdes import VE, VP

SHAPE = (4, 2, 3)
SIGMA = float(VP().sigma(torch.tensor(0.4, dtype=torch.float64)))


class Wavy(nn.Module):
    """A backbone in closed form, different at each noise level: f(u) = sin(w u + level)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x, noise_level, condition=None):
        assert noise_level.shape == (len(x),)
        shift = noise_level.reshape(-1, *(1,) * (x.ndim - 1))
        shift = shift if condition is None else shift + condition.reshape(shift.shape)
        return torch.sin(self.weight * x + shift)


@pytest.fixture
def x():
    return torch.linspace(-1.5, 1.4, 24, dtype=torch.float64).reshape(SHAPE)


def quotient(energy, x, step=1e-5):
    """Gradient of each example's energy by central differences, one coordinate at a time."""
    gradient = torch.zeros_like(x)
    for index in range(x[0].numel()):
        change = torch.zeros_like(x).flatten(1)
        change[:, index] = step
        up, down = energy(x + change.reshape(x.shape)), energy(x - change.reshape(x.shape))
        gradient.flatten(1)[:, index] = (up - down) / (2 * step)
    return gradient


def head_value(head, u, f):
    """The four heads once more, example by example."""
    rows = []
    for a, b in zip(u.flatten(1).tolist(), f.flatten(1).tolist(), strict=True):
        rows.append(
            {
                "scalar": math.fsum(b),
                "square": 0.5 * math.fsum(q * q for q in b),
                "residual": 0.5 * math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)),
                "inner": math.fsum(p * q for p, q in zip(a, b, strict=True)),
            }[head]
        )
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("prediction", OURS)
@pytest.mark.parametrize("head", HEADS)
def test_score_is_minus_the_gradient(head, prediction, sde, times, x):
    """All heads, predictions and SDEs, at both ends of time, against central differences."""
    model = EnergyModel(Wavy(), sde, head, prediction, sigma_data=0.6)
    energy = model.energy(x, times)
    assert energy.shape == (4,)
    score = model.score(x, times).detach()
    want = -quotient(lambda x: model.energy(x, times).detach(), x)
    scale = score.flatten(1).abs().amax(1) + energy.detach().abs()
    error = (score - want).flatten(1).abs().amax(1)
    assert bool((error < 1e-7 * scale + 1e-8).all())


@pytest.mark.parametrize("prediction", OURS)
@pytest.mark.parametrize("head", HEADS)
def test_energy_is_the_formula_with_the_coefficients_of_a_score_model(
    head, prediction, sde, times, x
):
    """a and b are read off `ScoreModel` with constant outputs: score = a x + b F. Then E = -a
    |x|^2 / 2 + |b| S e(x / S)."""

    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x, noise_level, condition=None):
            return torch.full_like(x, self.value)

    ones = torch.ones_like(x)
    a = ScoreModel(Constant(0.0), sde, prediction, 0.6).score(ones, times)
    b = ScoreModel(Constant(1.0), sde, prediction, 0.6).score(ones, times) - a
    a, b = a[:, 0, 0], b[:, 0, 0]
    spread = (sde.sigma(times) ** 2 + 0.36 * sde.alpha(times) ** 2).sqrt()
    u = x / spread[:, None, None]
    f = Wavy()(u, 0.25 * (sde.sigma(times) / sde.alpha(times)).log()).detach()
    want = b.abs() * spread * head_value(head, u, f) - 0.5 * a * x.square().sum((1, 2))
    got = EnergyModel(Wavy(), sde, head, prediction, 0.6).energy(x, times)
    scale = (b.abs() * spread + a.abs() * x.square().sum((1, 2))).max()
    torch.testing.assert_close(got.detach(), want, rtol=1e-9, atol=1e-12 * float(scale))


@pytest.mark.parametrize("head", HEADS)
def test_one_evaluation_gives_both(head, sde, times, x):
    model = EnergyModel(Wavy(), sde, head)
    energy, score = model.energy_and_score(x, times)
    assert model.nfe == 1
    torch.testing.assert_close(energy, model.energy(x, times), rtol=0, atol=0)
    assert model.nfe == 2
    # The score alone takes a detour by a conversion whose coefficients are 0 and 1.
    torch.testing.assert_close(score, model.score(x, times), rtol=1e-12, atol=1e-12)
    assert model.nfe == 3
    for name in ("denoise", "noise", "velocity"):
        getattr(model, name)(x, times)
    assert model.nfe == 6


def test_views_agree_with_the_score(sde, times, x):
    """noise = -sigma score and alpha denoise + sigma noise = x, at every time."""
    model = EnergyModel(Wavy(), sde)
    alpha, sigma = (c(times)[:, None, None] for c in (sde.alpha, sde.sigma))
    score, noise = model.score(x, times), model.noise(x, times)
    torch.testing.assert_close(noise, -sigma * score, rtol=1e-9, atol=1e-12)
    seen = alpha * model.denoise(x, times) + sigma * noise
    torch.testing.assert_close(seen, x, rtol=1e-6, atol=1e-8)


def test_conditions_reach_the_backbone(x):
    model, condition = EnergyModel(Wavy(), VP()), torch.arange(4.0, dtype=torch.float64)
    got = model.energy(x, 0.5, condition)
    alone = torch.cat([model.energy(x[i : i + 1], 0.5, condition[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(got, alone)
    assert bool((got - model.energy(x, 0.5)).abs().gt(1e-3)[1:].all())
    got = model.score(x, 0.5, condition).detach()
    want = -quotient(lambda x: model.energy(x, 0.5, condition).detach(), x)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)
    assert torch.equal(model.energy_and_score(x, 0.5, condition)[1].detach(), got)


@pytest.mark.parametrize("head", HEADS)
def test_graphs_reach_the_parameters_and_x_exactly_where_gradients_are_enabled(head, x):
    model = EnergyModel(Wavy(), VP(), head)
    weight = model.backbone.weight
    for tensor in (model.energy(x, 0.5), model.score(x, 0.5), *model.energy_and_score(x, 0.5)):
        (slope,) = torch.autograd.grad(tensor.sum(), weight, retain_graph=True)
        assert float(slope) != 0
    point = x.clone().requires_grad_()
    for tensor in (*model.energy_and_score(point, 0.5), model.noise(point, 0.5)):
        (slope,) = torch.autograd.grad(tensor.sum(), point, retain_graph=True)
        assert bool(slope.any())
    with torch.no_grad():
        quiet = (model.energy(x, 0.5), model.score(point, 0.5), *model.energy_and_score(x, 0.5))
        assert not any(tensor.requires_grad for tensor in quiet)
        torch.testing.assert_close(quiet[1], model.score(x, 0.5))
        assert torch.is_grad_enabled() is False
    assert not x.requires_grad
    assert weight.grad is None


def test_samplers_do_not_pay_for_a_graph_of_the_gradient(x):
    """Under `torch.no_grad()` the backward pass itself records nothing."""
    recorded = []

    def energy(x, t):
        squares = x**2
        squares.register_hook(lambda gradient: recorded.append(torch.is_grad_enabled()))
        return squares.sum((1, 2))

    model = EnergyFunction(energy)
    with torch.no_grad():
        model.score(x, 0.5)
    model.score(x, 0.5)
    assert recorded == [False, True]


@pytest.mark.parametrize("kind", ["model", "function"])
def test_inference_mode_is_as_good_as_no_grad(kind, x):
    """Whether x, t and the condition were made in it or before."""
    condition, t = torch.arange(4.0, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    model, small = EnergyModel(Wavy(), VP()), EnergyModel(Wavy(), VP())
    if kind == "function":
        weight = model.backbone.weight
        model = EnergyFunction(lambda x, t, c: (weight * c[:, None, None] * t * x**2).sum((1, 2)))
    want = [tensor.detach() for tensor in model.energy_and_score(x, t, condition)]
    with torch.inference_mode():
        for copy in (torch.Tensor.clone, lambda tensor: tensor):
            got = model.energy_and_score(copy(x), copy(t), copy(condition))
            assert not any(tensor.requires_grad for tensor in got)
            torch.testing.assert_close(list(got), want)
            torch.testing.assert_close(model.noise(copy(x), t, copy(condition)), -want[1] * SIGMA)
        sample = samplers.create("ddim", steps=3)(small, (2, 3), seed=0)
    assert bool(sample.isfinite().all())


@pytest.mark.parametrize("prediction", ["scaled_score", "data", "edm"])
@pytest.mark.parametrize("head", HEADS)
def test_second_derivatives_and_those_of_parameters_are_right(head, prediction, x):
    """By finite differences in both x and the parameters: what objectives train through."""
    model, x = EnergyModel(Wavy(), VP(), head, prediction), x[:2, :1, :2]
    point = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.energy_and_score(x, 0.4), point)
    assert torch.autograd.gradgradcheck(lambda x: model.score(x, 0.4), point)
    weight = model.backbone.weight

    def sliced(point):
        """v^T (d score / dx) v for v = 1."""
        score = model.score(point, 0.4)
        return torch.autograd.grad(score.sum(), point, create_graph=True)[0].sum()

    (slope,) = torch.autograd.grad(sliced(point), weight)
    ends = []
    for change in (1e-5, -2e-5):
        weight.data += change
        ends.append(sliced(point).item())
    weight.data += 1e-5
    assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("sampler", samplers.available())
def test_every_sampler_runs_on_it(sampler):
    """Under `torch.no_grad()`, as samplers are run, and as they are run by default."""
    torch.manual_seed(0)
    model = EnergyModel(backbones.create("mlp(width=8, depth=1)", (3,)), VP(), prediction="edm")
    draw = samplers.create(sampler)
    if "steps" in vars(draw):
        draw = samplers.create(sampler, steps=4)
    with torch.no_grad():
        samples = draw(model, (5, 3), seed=1)
    assert samples.shape == (5, 3)
    assert bool(samples.isfinite().all())
    assert not samples.requires_grad
    assert model.nfe > 0


class Gaussian(nn.Module):
    """f such that |u - f|^2 / 2 times |b| S is the energy of N(0, v) data at every noise level."""

    def __init__(self, sde, variance):
        super().__init__()
        self.sde, self.variance = sde, variance

    def forward(self, u, noise_level, condition=None):
        ratio = torch.exp(8 * noise_level)  # sigma^2 / alpha^2
        share = (ratio + 1) / (ratio + self.variance)  # S^2 / variance of x_t, sigma_data = 1
        return u * (1 - share.sqrt())[:, None]


@pytest.mark.parametrize("sde_like", [VP(), VE(0.05, 20.0)], ids=["VP", "VE"])
def test_likelihood_of_a_gaussian_energy_is_that_of_the_gaussian(sde_like):
    """With the prediction `scaled_score`, E = S |b| |u - f|^2 / 2 with S |b| = 1: the flow of an
    energy with the right gradient has the right density, and the energy is -log of it but for Z."""
    model = EnergyModel(Gaussian(sde_like, 0.3), sde_like, "residual", "scaled_score")
    x = torch.tensor([[0.1, -0.4], [0.9, 0.2], [-0.2, 0.05]], dtype=torch.float64)
    alpha, sigma = (float(c(sde_like.t_min)) for c in (sde_like.alpha, sde_like.sigma))
    variance = 0.3 * alpha**2 + sigma**2
    true = -0.5 * x.square().sum(1) / variance - math.log(2 * math.pi * variance)
    energy = model.energy(x, sde_like.t_min)
    torch.testing.assert_close(-energy - math.log(2 * math.pi * variance), true)
    got = log_prob(model, x).log_prob
    # The prior stands for the marginal at t_max, exactly known for Gaussian data.
    end = 0.3 * float(sde_like.alpha(sde_like.t_max)) ** 2
    end += float(sde_like.sigma(sde_like.t_max)) ** 2
    latent = x.square().sum(1) * end / variance
    prior = sde_like.prior_std**2
    mismatch = 0.5 * latent * (1 / end - 1 / prior) + math.log(end / prior)
    torch.testing.assert_close(got, true + mismatch, rtol=0, atol=1e-5)


@pytest.mark.parametrize("state", [torch.float32, torch.float64])
@pytest.mark.parametrize("net", [torch.float32, torch.float64])
def test_dtype_of_the_answer_is_that_of_x(net, state, x):
    torch.manual_seed(0)
    network = backbones.create("mlp(width=8, depth=1)", (2, 3))
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3)
    model = EnergyModel(network, VP()).to(net)
    exact = EnergyModel(network, VP()).double().energy_and_score(x, 0.4)
    model = model.to(net)
    got = model.energy_and_score(x.to(state), torch.tensor(0.4, dtype=torch.float32))
    tolerance = 1e-4 if torch.float32 in (net, state) else 1e-6
    for tensor, want in zip(got, exact, strict=True):
        assert tensor.dtype == state
        torch.testing.assert_close(tensor.double(), want, rtol=tolerance, atol=tolerance)


def test_wrong_settings_are_refused_by_name(x):
    with pytest.raises(ValueError, match="head='linear' is not known; accepted: scalar, square"):
        EnergyModel(Wavy(), VP(), "linear")
    with pytest.raises(ValueError, match="unknown prediction 'eps'; accepted: noise, data"):
        EnergyModel(Wavy(), VP(), prediction="eps")
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="sigma_data="):
            EnergyModel(Wavy(), VP(), sigma_data=bad)
    model = EnergyModel(lambda x, noise_level, condition: x[:, :1], VP())
    with pytest.raises(ValueError, match=r"the backbone returned shape \(4, 1, 3\) for x of"):
        model.energy(x, 0.5)
    model = EnergyModel(Wavy(), VP())
    with pytest.raises(ValueError, match=r"t of shape \(3,\) does not fit x"):
        model.energy(x, torch.full((3,), 0.5))
    with pytest.raises(TypeError, match="x must be a floating-point tensor"):
        model.energy_and_score(x.long(), 0.5)
    assert model.nfe == 0


def test_it_is_a_module_that_says_what_it_is(x):
    model = EnergyModel(Wavy(), VP(), "inner", "edm")
    assert isinstance(model, EnergyBased)
    assert list(model.state_dict()) == ["backbone.weight"]
    assert "head='inner'" in repr(model)
    assert "prediction=edm(sigma_data=1.0)" in repr(model)
    assert EnergyModel(Wavy(), VP()).head == "residual"
    assert EnergyModel(Wavy(), VP()).parametrization.name == "scaled_score"
