"""Gradients through sampling runs: of the start and of the model, where asked for."""

from __future__ import annotations

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture, ScoreFunction
from sde_score.sdes import EDM, VE, VP

NAMES = samplers.available()
DIFFERENTIABLE = [name for name in NAMES if not samplers.create(name).undifferentiable]
TIGHT = "ode(rtol=1e-8, atol=1e-8, denoise=False, grid='log_snr')"


def modes(sde):
    return GaussianMixture([[-1.0, 0.4], [1.0, 0.2]], 0.3, sde)


def scaled(sde, weight):
    """A model with a parameter: the score of two modes, times a weight."""
    exact = modes(sde)
    return ScoreFunction(lambda x, t: weight * exact.score(x, t), sde)


def start_of(sde):
    draw = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return draw * sde.prior_std


@pytest.mark.parametrize(
    ("name", "sde"),
    [
        *(pytest.param(name, VP(), id=f"{name}-vp") for name in DIFFERENTIABLE),
        *(pytest.param(name, EDM(0.05, 9.0), id=f"{name}-edm") for name in DIFFERENTIABLE[::4]),
    ],
)
def test_gradients_are_those_of_differences(name, sde):
    """In a direction of the start and in a weight of the model, with the noise held fixed."""
    sampler = samplers.create(name) if name == "ode" else samplers.create(name, steps=5)
    start, along = start_of(sde), torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    probe = torch.linspace(-1, 2, 6, dtype=torch.float64).reshape(3, 2)
    inputs = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def value(inputs, grad):
        x = start + inputs[0] * along
        x0 = sampler(scaled(sde, 1 + inputs[1]), x, seed=4, grad=grad, progress=False)
        return (x0 * probe).sum()

    (found,) = torch.autograd.grad(value(inputs, True), inputs)
    h = 1e-3 if name == "ode" else 1e-5  # whose solution changes by its tolerance
    with torch.no_grad():
        steps = h * torch.eye(2, dtype=torch.float64)
        expected = [(value(step, False) - value(-step, False)) / (2 * h) for step in steps]
    tolerance = 2e-3 if name == "ode" else 1e-5
    torch.testing.assert_close(found, torch.stack(expected), rtol=tolerance, atol=tolerance)
    assert bool((found.abs() > 1e-4).all())


@pytest.mark.parametrize(
    ("solver", "sde"), [("dopri5", VP()), ("torchdiffeq", VE(0.05, 9.0))], ids=["vp", "ve"]
)
def test_the_gradient_of_the_flow_of_a_gaussian_is_its_contraction(sde, solver):
    """The flow maps x_T to alpha m + (x_T - alpha_T m) std / std_T."""
    variance = 0.3
    sampler = samplers.create(TIGHT, solver=solver)
    start = start_of(sde).requires_grad_()
    end = sampler(GaussianMixture([[0.5, -1.0]], variance, sde), start, grad=True, progress=False)
    (found,) = torch.autograd.grad(end.sum(), start)
    ends = sampler.times(sde)[[0, -1]]
    first, last = (sde.alpha(ends) ** 2 * variance + sde.sigma(ends) ** 2).sqrt()
    torch.testing.assert_close(found, (last / first).expand(3, 2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["adams", "heun", "ddim(eta=0.5)", "restart", "ode"])
def test_samples_with_a_graph_are_those_without_and_leave_the_start_alone(name):
    model, sampler, start = modes(VP()), samplers.create(name), start_of(VP())
    kept = start.clone()
    given = sampler(model, start.requires_grad_(), seed=2, grad=True, progress=False)
    plain = sampler(model, kept, seed=2, progress=False)
    torch.testing.assert_close(given, plain, rtol=1e-9, atol=1e-9)
    assert torch.equal(start, kept)
    run = sampler(model, start, seed=2, grad=True, progress=False, trajectory=True)
    assert run.states.requires_grad
    assert not plain.requires_grad


def test_a_drawn_start_leads_gradients_to_the_parameters():
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    x = samplers.create("unipc", steps=4)(scaled(VP(), weight), (2, 2), seed=0, grad=True)
    x.square().sum().backward()
    assert float(weight.grad.abs()) > 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DIFFERENTIABLE])
def test_samplers_without_a_gradient_say_why(name):
    with pytest.raises(ValueError, match=f"grad=True: no gradient goes through {name}.*: .+"):
        samplers.create(name)(modes(VP()), (2, 2), grad=True)


def test_a_graph_that_would_be_lost_is_refused():
    start = start_of(VP()).requires_grad_()
    with pytest.raises(ValueError, match=r"set grad=True, or give start\.detach"):
        samplers.create("ddim", steps=2)(modes(VP()), start)
    with pytest.raises(ValueError, match="'dopri5', 'torchdiffeq'"):
        samplers.create("ode(solver='scipy')")(modes(VP()), start, grad=True)
