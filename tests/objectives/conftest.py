"""What the tests of objectives share: Gaussian data with exact moments, fields, enumerations."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sde_score.models import EnergyFunction, Marginal, ScoreFunction
from sde_score.sdes import VE

F64 = torch.float64


def _gaussian(dim, count=12, seed=3):
    """Data whose empirical mean and covariance are `mean` and `covariance` to rounding."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.linspace(-0.7, 1.1, dim, dtype=F64)
    root = torch.randn(dim, dim, generator=generator, dtype=F64) / dim**0.5
    covariance = root @ root.mT + 0.4 * torch.eye(dim, dtype=F64)
    raw = torch.randn(count, dim, generator=generator, dtype=F64)
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.mT @ raw / count)).mT
    x = mean + white @ torch.linalg.cholesky(covariance).mT
    return SimpleNamespace(
        dim=dim, mean=mean, covariance=covariance, precision=torch.linalg.inv(covariance), x=x
    )


@pytest.fixture(scope="session")
def gaussian():
    """`dim -> data` of exact mean and covariance, in float64."""
    return _gaussian


@pytest.fixture(scope="session")
def fields():
    """Marginals with a linear score A x + b, and with the energy x P x / 2 - b x."""

    def linear(matrix, shift, sde=None):
        function = lambda x, t: (x.reshape(len(x), -1) @ matrix.mT + shift).reshape(x.shape)  # noqa: E731
        return Marginal(ScoreFunction(function, sde or VE()))

    def quadratic(precision, shift, sde=None):
        def energy(x, t):
            flat = x.reshape(len(x), -1)
            return 0.5 * ((flat @ precision) * flat).sum(1) - flat @ shift

        return Marginal(EnergyFunction(energy, sde or VE()))

    return SimpleNamespace(linear=linear, quadratic=quadratic)


@pytest.fixture(scope="session")
def signs():
    """`x -> all 2^D Rademacher vectors for each example`, shape (2^D, batch, *event)."""

    def enumerate_signs(x):
        size = x[0].numel()
        table = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=size)), dtype=x.dtype)
        return table.reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)

    return enumerate_signs


@pytest.fixture(scope="session")
def hermite():
    """`(count, dim) -> nodes (n, dim) and weights (n,)` of a rule for N(0, I)."""

    def rule(count, dim):
        at, weight = np.polynomial.hermite_e.hermegauss(count)
        weight = weight / weight.sum()
        nodes = torch.tensor(list(itertools.product(at, repeat=dim)), dtype=F64)
        weights = torch.tensor(list(itertools.product(weight, repeat=dim)), dtype=F64).prod(1)
        return nodes, weights

    return rule


@pytest.fixture(scope="session")
def newton():
    """The minimizer of a quadratic `loss(parameters)`, by one Newton step from anywhere."""

    def minimize(loss, size):
        start = torch.linspace(-0.4, 0.5, size, dtype=F64).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(start), start)
        hessian = torch.autograd.functional.hessian(loss, start.detach())
        assert bool((torch.linalg.eigvalsh(hessian) > 1e-9).all()), "no minimum"
        return start.detach() - torch.linalg.solve(hessian, gradient)

    return minimize


@pytest.fixture(scope="session")
def nonlinear():
    """`(event_shape, energy, dtype) -> Marginal, parameters` of a small smooth network."""

    def make(event, energy=False, dtype=F64, seed=0, sde=None):
        size = int(np.prod(event, dtype=int))
        generator = torch.Generator().manual_seed(seed)
        hidden = 7
        shapes = [(hidden, size), (hidden,), (1 if energy else size, hidden)]
        w1, b1, w2 = parameters = [
            (0.6 * torch.randn(s, generator=generator, dtype=F64)).to(dtype).requires_grad_()
            for s in shapes
        ]

        def output(x):
            flat = x.reshape(x.shape[0], size)
            return torch.tanh(flat @ w1.mT + b1) @ w2.mT - 0.3 * flat.sum(1, keepdim=True) ** 2

        if energy:
            well = lambda x: 0.6 * (x.reshape(x.shape[0], size) ** 2).sum(1)  # noqa: E731
            model = EnergyFunction(lambda x, t: output(x)[:, 0] + well(x), sde or VE())
        else:
            model = ScoreFunction(lambda x, t: (output(x)).reshape(x.shape), sde or VE())
        return Marginal(model), parameters

    return make
