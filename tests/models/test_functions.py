"""Functions become models: what they are given, what they may return, and what follows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sde_score.models import (
    EnergyBased,
    EnergyFunction,
    GaussianMixture,
    Model,
    ScoreFunction,
)
from sde_score.sdes import VE, VP

EVENTS = [(), (3,), (2, 3), (1, 2, 2)]


class Seen:
    """Remembers what it was called with; a score if `reduce` is false, else an energy."""

    def __init__(self, reduce):
        self.reduce, self.calls = reduce, []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        x = arguments[0]
        return 0.5 * x.reshape(len(x), -1).square().sum(1) if self.reduce else -x


def normal_distribution(sde, event=(3,)):
    """N(0, 0.5 I) at every time: precision 1 / (alpha^2 / 2 + sigma^2)."""

    def precision(t, x):
        value = 1 / (0.5 * sde.alpha(t.double()) ** 2 + sde.sigma(t.double()) ** 2)
        return value.to(x).reshape(-1, *(1,) * (x.ndim - 1)) if t.ndim else value.to(x)

    return precision


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("kind", [ScoreFunction, EnergyFunction])
def test_every_view_is_that_of_the_exact_distribution(kind, event, sde, times):
    """A Gaussian written as a function gives what the mixture of one component gives."""
    precision = normal_distribution(sde)

    def score(x, t):
        return -precision(t, x) * x

    def energy(x, t):
        return (0.5 * precision(t, x) * x**2).reshape(len(x), -1).sum(1)

    model = kind(score if kind is ScoreFunction else energy, sde)
    x = torch.linspace(-1, 1, 4 * max(1, torch.Size(event).numel()), dtype=torch.float64)
    x = x.reshape(4, *event)
    columns = x.reshape(4, -1)
    exact = GaussianMixture(torch.zeros(1, columns.shape[1]), 0.5, sde)
    for name in ("score", "denoise", "noise", "velocity"):
        want = getattr(exact, name)(columns, times).reshape(x.shape)
        for t, rows in ((times, slice(None)), (float(times[2]), slice(2, 3))):
            got = getattr(model, name)(x[rows], t)
            torch.testing.assert_close(got, want[rows], rtol=1e-7, atol=1e-8)
    if kind is EnergyFunction:
        torch.testing.assert_close(model.energy(x, times), energy(x, times))
        got, both = model.energy_and_score(x, times)
        torch.testing.assert_close(got, energy(x, times))
        torch.testing.assert_close(both, score(x, times))


@pytest.mark.parametrize("kind", [ScoreFunction, EnergyFunction])
def test_time_and_condition_are_passed_on(kind):
    """t in the dtype of x and the shape it was given in; a condition only where there is one."""
    function = Seen(kind is EnergyFunction)
    model, x, condition = kind(function, VP()), torch.zeros(4, 3), torch.arange(4)
    model.score(x, 0.25)
    model.noise(x, torch.linspace(0.1, 1, 4).double(), condition)
    (first_x, first_t), (_, second_t, second_condition) = function.calls
    assert first_x.shape == (4, 3)
    assert first_t.dtype == second_t.dtype == torch.float32
    assert first_t.shape == ()
    assert float(first_t) == 0.25
    assert torch.equal(second_t, torch.linspace(0.1, 1, 4))
    assert second_condition is condition
    assert model.nfe == 2


def test_condition_reaches_the_energy_in_every_way():
    model = EnergyFunction(lambda x, t, c: (x * c[:, None]).sum(1))
    x, condition = torch.ones(2, 3), torch.tensor([1.0, 2.0])
    assert torch.equal(model.energy(x, 0.5, condition), torch.tensor([3.0, 6.0]))
    energy, score = model.energy_and_score(x, 0.5, condition)
    assert torch.equal(energy, torch.tensor([3.0, 6.0]))
    assert torch.equal(score, -condition[:, None].expand(2, 3))
    assert torch.equal(model.score(x, 0.5, condition), score)


@pytest.mark.parametrize("kind", [ScoreFunction, EnergyFunction])
def test_a_modules_parameters_become_the_models(kind):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def forward(self, x, t):
            score = -self.weight * x
            return score if kind is ScoreFunction else -(score * x).sum(1) / 2

    model = kind(Scaled())
    assert list(model.state_dict()) == ["function.weight"]
    x = torch.tensor([[1.0, 3.0]])
    assert torch.equal(model.score(x, 0.5), -2 * x)
    (slope,) = torch.autograd.grad(model.score(x, 0.5).sum(), model.function.weight)
    assert float(slope) == -4
    with torch.no_grad():
        assert not model.score(x, 0.5).requires_grad
    assert model.double().function.weight.item() == 2
    assert model.score(x, 0.5).dtype == torch.float32


def test_sde_is_vp_unless_given():
    assert ScoreFunction(lambda x, t: -x).sde == VP()
    assert EnergyFunction(lambda x, t: x.sum(1)).sde == VP()
    assert ScoreFunction(lambda x, t: -x, VE()).sde == VE()
    assert EnergyFunction(lambda x, t: x.sum(1), VE()).sde == VE()
    assert isinstance(ScoreFunction(lambda x, t: -x), Model)
    assert not isinstance(ScoreFunction(lambda x, t: -x), EnergyBased)
    assert isinstance(EnergyFunction(lambda x, t: x.sum(1)), EnergyBased)


def test_other_shapes_are_refused():
    x = torch.zeros(4, 2, 3)
    for wrong in ((4, 2), (1, 2, 3), (4, 3, 2), (4,)):
        model = ScoreFunction(lambda x, t, shape=wrong: torch.zeros(shape))
        with pytest.raises(ValueError, match=r"function returned shape .*: ScoreFunction needs"):
            model.score(x, 0.5)
    for wrong in ((), (1,), (4, 1), (4, 2, 3)):
        energy = EnergyFunction(lambda x, t, shape=wrong: x.sum() + torch.zeros(shape))
        for method in (energy.energy, energy.score, energy.energy_and_score):
            with pytest.raises(ValueError, match=r"EnergyFunction needs \(4,\)"):
                method(x, 0.5)


def test_a_condition_for_a_function_of_two_arguments_is_refused_by_name():
    model = ScoreFunction(lambda x, t: -x)
    with pytest.raises(TypeError, match="takes x and t alone: give it a third argument"):
        model.score(torch.zeros(2, 1), 0.5, torch.zeros(2))
