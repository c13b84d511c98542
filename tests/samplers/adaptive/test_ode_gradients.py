"""Gradients of adaptive solves against closed forms of linear and logistic equations."""

from __future__ import annotations

import pytest
import torch

from sde_score.samplers.adaptive.dormand_prince import dormand_prince
from sde_score.samplers.adaptive.ode_gradients import GRADIENT_SOLVERS, leaves_of

STOPS = torch.tensor([0.0, 0.4, 1.5], dtype=torch.float64)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def start():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x * torch.tensor([0.1, 1.0, 5.0, 30.0])[:, None].double()).requires_grad_()


@pytest.mark.parametrize("solver", GRADIENT_SOLVERS)
def test_gradients_of_a_linear_flow_are_those_of_the_matrix_exponential(solver, start):
    """x(t) = exp(A t) x(0) at two stops, weighed at random: gradients of the start and of A."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    weights = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)

    def derivative(time, state, rows):
        return state @ matrix.mT

    solution = GRADIENT_SOLVERS[solver](derivative, start, STOPS, (matrix,), **TIGHT)
    truth = torch.stack([start @ torch.matrix_exp(matrix * t).mT for t in STOPS])
    torch.testing.assert_close(solution.path, truth, rtol=1e-6, atol=1e-6)
    found = torch.autograd.grad((solution.path * weights).sum(), (start, matrix))
    wanted = torch.autograd.grad((truth * weights).sum(), (start, matrix))
    for ours, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", GRADIENT_SOLVERS)
def test_gradients_of_a_nonlinear_flow_that_depends_on_time(solver):
    """x' = k cos(t) x (1 - x): logit x grows by k sin t, for the start and for k."""
    start = torch.tensor([[0.2], [0.9]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def derivative(time, state, rows):
        return rate * time.cos()[:, None] * state * (1 - state)

    path = GRADIENT_SOLVERS[solver](derivative, start, STOPS, (rate,), **TIGHT).path
    end = torch.sigmoid(torch.logit(start) + rate * STOPS[-1].sin())
    found = torch.autograd.grad(path[-1].sum(), (start, rate))
    for ours, exact in zip(found, torch.autograd.grad(end.sum(), (start, rate)), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-7)


def test_the_gradient_through_the_steps_is_that_of_the_solution_at_any_tolerance(start):
    """Coarse steps of a linear equation are a matrix: the gradient is its transpose, exactly."""
    rounds, matrix = [], torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 2.0], [0.3, 0.0, -1.0]])

    def derivative(time, state, rows):
        return state @ matrix.double().mT

    coarse = {"rtol": 1e-5, "atol": 1e-3}
    kept = dormand_prince(derivative, start.detach(), STOPS, record=rounds.append, **coarse)
    solution = GRADIENT_SOLVERS["dopri5"](derivative, start, STOPS, (), **coarse)
    assert torch.equal(solution.path, kept.path)
    assert torch.equal(solution.steps, kept.steps)
    assert sum(len(each.rows) for each in rounds) == int(kept.steps.sum())
    assert int(kept.steps.max()) > int(kept.steps.min())  # each example has its own steps
    (found,) = torch.autograd.grad(solution.path[-1].sum(), start)
    # Euler's identity: a linear map of x has x . gradient = the map itself
    torch.testing.assert_close((found * start).sum(1), kept.path[-1].sum(1), rtol=1e-12, atol=0)


def test_a_step_keeps_no_graph_and_is_not_differentiated_twice(start):
    solution = GRADIENT_SOLVERS["dopri5"](lambda t, x, rows: -x, start, STOPS, (), **TIGHT)
    (first,) = torch.autograd.grad(solution.path[-1].sum(), start, create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiated twice|does not require grad"):
        torch.autograd.grad(first.sum(), start)


def test_leaves_are_parameters_and_whatever_else_the_graph_ends_at():
    net = torch.nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    aside, unused = torch.zeros(2, requires_grad=True), torch.nn.Parameter(torch.zeros(1))
    net.register_parameter("unused", unused)
    found = leaves_of(net(torch.zeros(1, 2)) * (aside * 2).exp(), net)
    assert {id(leaf) for leaf in found} == {id(net.weight), id(aside), id(unused)}
