"""Gradients of likelihoods: with respect to x, conditions and parameters, or refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sde_score import sdes
from sde_score.discrete import HierarchicalVAE
from sde_score.likelihood import (
    GaussianReference,
    bits_per_dim,
    create,
    draw_probes,
    energy_log_prob,
    log_partition,
    log_prob,
    variational_bound,
)
from sde_score.models import EnergyFunction, GaussianMixture, ScoreFunction, ScoreModel
from sde_score.samplers.adaptive.ode_gradients import GRADIENT_SOLVERS
from sde_score.scaling import Scaling
from sde_score.sdes import VE, VP

SHARP = VP(0.1, 60.0)  # its distribution at t_max is the prior to 1e-13
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
DATA = torch.tensor([[0.3, -0.8], [1.1, 0.4], [-0.2, 0.1]], dtype=torch.float64)


class Network(nn.Module):
    """A smooth network of x, noise level and parameters."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        for name, shape in {"up": (2, 4), "level": (4,), "down": (4, 2)}.items():
            values = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, nn.Parameter(values))

    def forward(self, x, noise_level, condition):
        return torch.tanh(x @ self.up + noise_level[:, None] * self.level) @ self.down


@pytest.fixture
def network():
    return ScoreModel(Network(), VP())


def slope(value, model, step=1e-4):
    """Directional derivative of value() over the parameters of a model by central differences, and
    its direction."""
    generator, parameters = torch.Generator().manual_seed(0), list(model.parameters())
    direction = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    ends = []
    for move in (step, -2 * step, step):
        with torch.no_grad():
            for parameter, way in zip(parameters, direction, strict=True):
                parameter += move * way
        ends.append(float(value().detach()) if len(ends) < 2 else 0.0)
    return (ends[0] - ends[1]) / (2 * step), direction


def along(value, model, direction):
    """The same directional derivative by autograd."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    parts = [(g * way).sum() for g, way in zip(found, direction, strict=True) if g is not None]
    return float(torch.stack(parts).sum())


@pytest.mark.parametrize(
    ("name", "method", "divergence"),
    [
        *((name, "dopri5", "exact") for name in ("vp", "edm", "rectified", "chain")),
        ("cosine", "dopri5", "hutchinson"),
        ("ve", "torchdiffeq", "exact"),
    ],
)
def test_the_gradient_of_a_gaussians_log_density_is_that_of_the_closed_form(
    name, method, divergence, gaussian_flow
):
    """Data N(m, S): log p and the latent code as functions of x, differentiated by hand."""
    sde = sdes.create(name)
    flow = gaussian_flow(sde, (2, 1))
    ours = (flow.mean + DATA[:, :, None]).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    given = {} if divergence == "exact" else {"probes": 2}
    found = log_prob(flow.model, ours, divergence=divergence, method=method, grad=True, **given)
    weights = torch.arange(1.0, 7.0, dtype=torch.float64).reshape(3, 2, 1)
    (found.log_prob.sum() + (found.latent * weights).sum() / sde.prior_std).backward()
    truth = flow.log_prob(theirs).sum() + (flow.latent(theirs) * weights).sum() / sde.prior_std
    truth.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
    assert not found.standard_error.requires_grad


@pytest.mark.parametrize(
    ("sde", "method"), list(zip([SHARP, VE(0.01, 1e5)], GRADIENT_SOLVERS, strict=True))
)
def test_the_gradient_of_a_mixtures_log_density_is_its_score(sde, method):
    """Curved flows, where the divergence depends on x; each example by its own steps."""
    model = GaussianMixture([[0.5, 0.0], [-0.6, 0.3]], 0.05, sde, weights=[0.4, 0.6])
    x = torch.cat([DATA, torch.tensor([[0.0, 0.1], [4.0, -3.0]]).double()]).requires_grad_()
    found = log_prob(model, x, method=method, grad=True)
    given = {"method": method, "rtol": 1e-2, "atol": 1e-2}
    with_gradient = log_prob(model, x, grad=True, **given).log_prob.detach()
    assert torch.equal(with_gradient, log_prob(model, x.detach(), **given).log_prob)
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), x)
    torch.testing.assert_close(gradient, model.score(x.detach(), sde.t_min), **CLOSE)


@pytest.mark.parametrize(
    ("method", "mode"),
    [*((method, "reverse") for method in GRADIENT_SOLVERS), ("dopri5", "forward")],
)
def test_gradients_of_parameters_are_finite_differences(network, method, mode):
    given = {"method": method, "mode": mode, "start": 0.85, "rtol": 1e-6, "atol": 1e-6}
    measured, direction = slope(lambda: log_prob(network, DATA, **given).log_prob.sum(), network)
    found = log_prob(network, DATA, grad=True, **given)
    assert along(found.log_prob.sum(), network, direction) == pytest.approx(measured, rel=1e-4)


def test_the_gradient_of_a_variance_is_that_of_the_normal_density():
    """The network knows N(c, v): d log p / dv and d log p / dc in closed form, in float32."""

    class Normal(nn.Module):
        def __init__(self):
            super().__init__()
            self.variance = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, noise_level, condition):
            level = noise_level[:, None]
            alpha, sigma = torch.sigmoid(-8 * level).sqrt(), torch.sigmoid(8 * level).sqrt()
            return sigma * (x - alpha * condition) / (alpha**2 * self.variance + sigma**2)

    net, centers = Normal(), torch.tensor([[0.2], [-0.5], [1.0]], requires_grad=True)
    x = DATA.float()
    found = log_prob(ScoreModel(net, SHARP), x, condition=centers, grad=True)
    variance, mean = torch.autograd.grad(found.log_prob.sum(), (net.variance, centers))
    off = x - centers.detach()
    assert float(variance) == pytest.approx(float((off**2 / 0.5 - 1).sum()), rel=1e-3)
    torch.testing.assert_close(mean, off.sum(1, keepdim=True) / 0.5, rtol=1e-3, atol=1e-3)


def test_whatever_the_model_depends_on_takes_its_gradient():
    """Tensors that a function closes over, made from others: d log N(x; m, 1) / dm = x - m."""
    shift = torch.tensor([0.1, -0.1], dtype=torch.float64, requires_grad=True)
    mean = 2 * shift

    def score(x, t):
        return -(x - SHARP.alpha(t)[:, None] * mean)

    found = log_prob(ScoreFunction(score, SHARP), DATA, rtol=1e-6, atol=1e-6, grad=True)
    (gradient,) = torch.autograd.grad(found.log_prob.sum(), shift)
    torch.testing.assert_close(gradient, 2 * (DATA - mean.detach()).sum(0), **CLOSE)


def test_gradients_pass_through_energies():
    """E = stiffness x^2 / 2 at the data, by a score that is a gradient itself."""
    stiffness = nn.Parameter(torch.tensor([2.0, 4.0], dtype=torch.float64))

    def energy(x, t):
        alpha, sigma = SHARP.alpha(t)[:, None], SHARP.sigma(t)[:, None]
        return 0.5 * (x**2 / (alpha**2 / stiffness + sigma**2)).sum(1)

    x = DATA.clone().requires_grad_()
    found = log_prob(EnergyFunction(energy, SHARP), x, rtol=1e-4, atol=1e-4, grad=True)
    by_x, by_stiffness = torch.autograd.grad(found.log_prob.sum(), (x, stiffness))
    torch.testing.assert_close(by_x, -DATA * stiffness.detach(), rtol=1e-3, atol=1e-3)
    wanted = (0.5 / stiffness.detach() - 0.5 * DATA**2).sum(0)
    torch.testing.assert_close(by_stiffness, wanted, rtol=1e-3, atol=1e-3)


def test_an_examples_gradient_depends_on_no_other(network):
    given = {"start": 0.2, "rtol": 1e-5, "atol": 1e-5, "grad": True}
    x = torch.cat([DATA, 30 * DATA]).requires_grad_()
    (together,) = torch.autograd.grad(log_prob(network, x, **given).log_prob.sum(), x)
    alone = DATA[1:2].clone().requires_grad_()
    (single,) = torch.autograd.grad(log_prob(network, alone, **given).log_prob.sum(), alone)
    torch.testing.assert_close(together[1:2], single, rtol=1e-9, atol=1e-9)


def test_probes_are_held_fixed(network):
    probes = draw_probes(3, DATA, "gaussian")
    given = {"divergence": "hutchinson", "probes": probes, "start": 0.3}
    measured, direction = slope(lambda: log_prob(network, DATA, **given).log_prob.sum(), network)
    found = log_prob(network, DATA, grad=True, **given)
    assert along(found.log_prob.sum(), network, direction) == pytest.approx(measured, rel=1e-4)


SPECS = [
    "flow(rtol=1e-4, atol=1e-4, dequantizations=2)",
    "flow(rtol=1e-4, atol=1e-4, dequantizations=2, importance_weighted=True)",
    "bound(draws=2, times=3)",
    "bound(draws=2, times=3, dequantization='uniform', residual='kernel-entropy')",
    "elbo(layers=4, draws=2)",
]


@pytest.mark.parametrize(
    ("discrete", "spec"),
    [*((True, spec) for spec in SPECS[1:]), *((False, SPECS[i]) for i in (0, 2))],
)
def test_bits_per_dim_train_a_model(network, spec, discrete):
    """Every likelihood is differentiable in the parameters, for the noise of the same seeds."""
    raw = torch.tensor([[0, 3], [2, 1]], dtype=torch.uint8) if discrete else DATA
    scaling = Scaling.discrete(4) if discrete else Scaling(0.1, 2.0)

    def bits(grad=False):
        found = bits_per_dim(network, raw, scaling, spec, batch_size=2, grad=grad).values
        assert found.requires_grad == grad
        return found.sum()

    measured, direction = slope(bits, network)
    assert along(bits(grad=True), network, direction) == pytest.approx(measured, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("spec", SPECS[:1] + SPECS[2:3] + SPECS[4:])
def test_raw_continuous_data_take_a_gradient(spec):
    """log N(raw; 2.6, 9 * 0.3): its slope, on average over draws for the bounds."""
    model, scaling = GaussianMixture([[0.2, 0.2]], 0.3, SHARP), Scaling(2.0, 3.0)
    raw = torch.tensor([[2.0, 3.5]]).repeat(200, 1).requires_grad_()
    many = spec.replace("layers=4", "layers=100")
    found = create(many)(model, raw, scaling, seeds=range(200), grad=True)
    (gradient,) = torch.autograd.grad(found.values.sum(), raw)
    error = gradient.std(0) / math.sqrt(200)
    wanted = (2.6 - raw[0].detach()) / 2.7
    assert bool(((gradient.mean(0) - wanted).abs() < 4 * error + 2e-2).all())


def test_bounds_refuse_a_gradient_they_would_lose(network):
    vae, x = HierarchicalVAE.from_sde(VP(), 3), DATA.clone().requires_grad_()
    for bound in (
        lambda: vae.elbo(network, x),
        lambda: vae.importance_weighted(network, x, particles=2),
        lambda: variational_bound(network, x),
        lambda: log_prob(network, x),
        lambda: log_prob(network, DATA, condition=torch.zeros(3, requires_grad=True)),
        lambda: bits_per_dim(network, x, Scaling()),
    ):
        with pytest.raises(ValueError, match=r"requires a gradient, .* give grad=True, or"):
            bound()
    weighted = vae.importance_weighted(network, x, particles=2, grad=True)
    assert torch.autograd.grad(weighted.sum(), x)[0].isfinite().all()


def test_refusals_of_gradients_that_cannot_be(network):
    x = DATA.clone().requires_grad_()
    with pytest.raises(ValueError, match="'scipy' is not known; accepted: dopri5, torchdiffeq"):
        log_prob(network, x, method="scipy", grad=True)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="grad=True needs gradients to be enabled"),
    ):
        log_prob(network, x, grad=True)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="nor anything that the model depends on"):
        log_prob(network, DATA, grad=True)
    found = log_prob(network, x, grad=True).log_prob.sum()
    (first,) = torch.autograd.grad(found, x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice|does not require grad"):
        first.sum().backward()


def test_the_gradient_of_an_energys_log_density_is_its_score():
    energy = EnergyFunction(lambda x, t: 0.5 * x.square().sum(1), SHARP)
    partition = log_partition(energy, GaussianReference(torch.zeros(2)), steps=2, chains=4)
    with pytest.raises(ValueError, match="that gradient is its score"):
        energy_log_prob(energy, DATA.clone().requires_grad_(), partition)
