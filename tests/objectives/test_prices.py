"""The price of each objective: passes of one training step, counted and compared with what is said.

F is a forward pass, B a backward pass, D a pass backward through a backward pass.
"""

from __future__ import annotations

import re

import pytest
import torch

from sde_score.models import EnergyFunction, Marginal
from sde_score.objectives import OBJECTIVES

OWN = ["explicit", "target-score", "implicit", "hutchinson", "sliced", "finite-difference"]
OWN += ["regularized", "generalized"]


class Passes:
    """Counts passes through a point of a network: forward, backward, double-backward."""

    def __init__(self):
        self.forward = self.backward = self.double = 0
        passes = self

        class Back(torch.autograd.Function):
            @staticmethod
            def forward(ctx, gradient):
                passes.backward += 1
                return gradient.clone()

            @staticmethod
            def backward(ctx, gradient):
                passes.double += 1
                return gradient

        class Fore(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                passes.forward += 1
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return Back.apply(gradient)

        self.through = Fore.apply

    @property
    def counted(self):
        return self.forward, self.backward, self.double


def stated(cost, **sizes):
    """The numbers of F, B and D in a cost such as `F + (n + 1) B + n D`."""
    formula = re.sub(r"(?<=[\w)]) (?=[FBD])", "*", cost)
    formula = re.sub(r"(\d)([a-z])", r"\1*\2", formula)
    units = [{"F": 0, "B": 0, "D": 0} | {unit: 1} for unit in "FBD"]
    return tuple(eval(formula, {}, {**sizes, **unit}) for unit in units)


@pytest.fixture
def count_passes(nonlinear):
    """Passes of one training step on events of five entries, and evaluations of the model."""

    def count(name, kind, probes):
        normal = Marginal(EnergyFunction(lambda x, t: 0.5 * (x**2).sum(1)))
        settings = {
            "explicit": {"target": normal},
            "target-score": {"target": normal, "information": 1.0},
        }.get(name, {} if probes == 1 else {"probes": probes})
        inner, passes = nonlinear((5,), energy=kind == "energy")[0].model, Passes()
        model = type(inner)(lambda x, t: inner.function(passes.through(x), t))
        x0 = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        OBJECTIVES.create(name, **settings)(model, x0).sum().backward()
        return passes.counted, model.nfe

    return count


PRICED = [(name, 1) for name in OWN]
PRICED += [(name, 3) for name in ("hutchinson", "sliced", "finite-difference")]


@pytest.mark.parametrize(("name", "probes"), PRICED)
def test_the_price_of_a_score_model_is_the_one_stated(count_passes, name, probes):
    """d = 5 entries, n probes. Passes are counted at the network's input, which the pass to the
    parameters reaches only where the input has a graph."""
    counted, nfe = count_passes(name, "score", probes)
    forward, backward, double = stated(OBJECTIVES[name].cost, d=5, n=probes)
    reached = backward if OBJECTIVES[name].second_derivatives else 0
    assert counted == (forward, reached, double)
    assert nfe == forward


ENERGY = {
    "explicit": "F + 2 B + D",
    "target-score": "F + 2 B + D",
    "implicit": "F + (d + 2) B + (2d + 1) D",
    "hutchinson": "F + (n + 2) B + (2n + 1) D",
    "sliced": "F + (n + 2) B + (2n + 1) D",
    "finite-difference": "(2n + 1) F",
    "regularized": "F + (d + 2) B + (2d + 1) D",
    "generalized": "F + (d + 2) B + (2d + 1) D",
}


@pytest.mark.parametrize(("name", "probes"), PRICED)
def test_the_price_of_an_energy(count_passes, name, probes):
    """As the classes say; for finite differences no derivative before that of the parameters."""
    counted, _ = count_passes(name, "energy", probes)
    assert counted == stated(ENERGY[name], d=5, n=probes)


def test_second_derivatives_are_announced_where_they_are_taken(count_passes):
    for name in OWN:
        (_, _, double), _ = count_passes(name, "score", 1)
        assert OBJECTIVES[name].second_derivatives == (double > 0), name
