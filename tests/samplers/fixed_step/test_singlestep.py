"""Singlestep DPM-Solver: which orders make up a budget, where it stops, and its own order."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import Singlestep, create
from sde_score.samplers.problem import Problem
from sde_score.sdes import VP

START = torch.tensor([[0.7, -0.2], [-1.1, 0.4]], dtype=torch.float64)

TO_THE_END = {"grid": "uniform(end=0.05)", "denoise": False}


def mixture():
    return GaussianMixture([[-1.0, 0.5], [0.8, -0.6]], 0.3, VP(0.4, 9.0))


@pytest.mark.parametrize(
    ("order", "evaluations", "orders"),
    [
        (1, 3, (1, 1, 1)),
        (2, 6, (2, 2, 2)),
        (2, 7, (2, 2, 2, 1)),
        (3, 0, ()),
        (3, 1, (1,)),
        (3, 3, (2, 1)),
        (3, 10, (3, 3, 3, 1)),
        (3, 11, (3, 3, 3, 2)),
        (3, 12, (3, 3, 3, 2, 1)),
    ],
)
@pytest.mark.parametrize("stages", ["between", "grid"])
def test_orders_meet_any_number_of_evaluations(order, evaluations, orders, stages):
    sampler = Singlestep(steps=evaluations + 1, order=order, stages=stages)
    run = sampler(mixture(), START, trajectory=True, progress=False)
    assert sampler.orders == orders
    assert run.nfe == evaluations + 1
    times = sampler.times(mixture().sde)
    if stages == "grid":
        times = times[[sum(orders[:k]) for k in range(len(orders) + 1)]]
    assert run.times.tolist() == [*times.tolist(), 0.0]
    again = create(str(sampler))(mixture(), START, progress=False)
    assert torch.equal(again, run.samples)


@pytest.fixture(scope="module")
def truth():
    exact = create("ode", rtol=1e-11, atol=1e-12, steps=1, **TO_THE_END)
    return exact(mixture(), START, progress=False)


@pytest.mark.parametrize("family", ["dpmsolver", "taylor"])
@pytest.mark.parametrize("stages", ["between", "grid"])
@pytest.mark.parametrize("order", [2, 3])
def test_convergence(order, stages, family, truth):
    """At the times of the grid the stages come to stand evenly as steps shrink."""
    errors = []
    for steps in (16, 32):
        sampler = Singlestep(steps=steps * order, order=order, stages=stages, family=family,
                             fixed=True, **TO_THE_END)  # fmt: skip
        errors.append(float((sampler(mixture(), START, progress=False) - truth).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("stages", ["between", "grid"])
def test_steps_are_differentiable_in_the_times(stages):
    sampler, model = Singlestep(steps=3, denoise=False, stages=stages), mixture()
    levels = torch.linspace(-1.5, 1.0, 4 if stages == "grid" else 3, dtype=torch.float64)

    def end(times):
        *_, (_, state) = sampler.iterate(
            Problem(model, times, lambda: None, None, lambda: None), START.clone()
        )
        return state

    leaf = model.sde.time_of_log_snr(levels).requires_grad_()
    assert torch.autograd.gradcheck(end, (leaf,), eps=1e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"order": 4}, r"order=4 is not known; accepted: 1, 2, 3"),
        ({"stages": "ends"}, r"stages='ends' is not known; accepted: between, grid"),
        ({"family": "heun"}, r"family='heun' is not known; accepted: dpmsolver, taylor"),
        ({"prediction": "velocity"}, r"prediction='velocity' is not known; accepted: noise, data"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        Singlestep(**given)
