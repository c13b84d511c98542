"""Densities with exact draws, and the distance of draws from a distribution."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch


class Counted:
    """A density from a formula for the energy; counts its evaluations and those of the energy."""

    def __init__(self, formula) -> None:
        self.formula, self.nfe, self.energies = formula, 0, 0

    def energy(self, x):
        return self.energy_and_score(x)[0]

    def score(self, x):
        self.nfe += 1
        return self._both(x)[1]

    def energy_and_score(self, x):
        self.nfe += 1
        self.energies += 1
        return self._both(x)

    def _both(self, x):
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            energy = self.formula(point)
            (gradient,) = torch.autograd.grad(energy.sum(), point)
        return energy.detach(), -gradient


class Curve(Counted):
    """A distribution on the line, events of shape (1,), with its distribution function by
    quadrature."""

    def __init__(self, formula, coarse=0.5, width=12.0) -> None:
        super().__init__(lambda x: formula(x[:, 0]))
        self.coarse = coarse
        self.grid = torch.linspace(-width, width, 40001, dtype=torch.float64)
        self.on_grid = formula(self.grid)

    def distribution(self, temperature=1.0):
        weight = (-(self.on_grid - self.on_grid.min()) / temperature).exp()
        total = torch.cumulative_trapezoid(weight, self.grid)
        return torch.cat([torch.zeros(1, dtype=torch.float64), total / total[-1]])

    def sample(self, count, generator, temperature=1.0):
        u = torch.rand(count, generator=generator, dtype=torch.float64)
        return interpolate(u, self.distribution(temperature), self.grid)[:, None]

    def distance(self, x, temperature=1.0):
        """Kolmogorov's distance of draws from the distribution, in units that 2.3 exceeds 5 times
        in 1e5."""
        u = interpolate(
            x.double().flatten().sort().values, self.grid, self.distribution(temperature)
        )
        return kolmogorov(u)


def interpolate(at, xs, ys):
    index = torch.searchsorted(xs, at).clamp(1, len(xs) - 1)
    low, high = xs[index - 1], xs[index]
    share = ((at - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
    return ys[index - 1] + share * (ys[index] - ys[index - 1])


def kolmogorov(u):
    """sqrt(n) times the largest distance of sorted numbers u from the uniform distribution."""
    n = len(u)
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    u = u.sort().values
    return float(torch.maximum(ranks[1:] - u, u - ranks[:-1]).max()) * math.sqrt(n)


def mixture(x):
    """-log(0.3 N(-1.5, 0.6^2) + 0.7 N(1.2, 1)), with its constant."""
    means = x.new_tensor([-1.5, 1.2])
    stds = x.new_tensor([0.6, 1.0])
    weights = x.new_tensor([0.3, 0.7])
    each = -0.5 * ((x[:, None] - means) / stds) ** 2 - (stds * math.sqrt(2 * math.pi)).log()
    return -(each + weights.log()).logsumexp(1)


CURVES = {
    "gaussian": (lambda x: 0.5 * 1.7 * (x - 0.4) ** 2, 0.9),
    "double well": (lambda x: 1.5 * (x**2 - 1) ** 2 + 0.4 * x, 0.2),
    "mixture": (mixture, 0.8),
}
"""Energies, and a step so coarse that a trajectory's energy error is of the order of 1."""


@pytest.fixture(scope="session")
def exact():
    """Distributions to test kernels with: `counted(formula)`, `curve(name)`, `kolmogorov(u)`."""
    return SimpleNamespace(
        counted=Counted,
        curve=lambda name: Curve(*CURVES[name]),
        curve_of=Curve,
        kolmogorov=kolmogorov,
    )


@pytest.fixture(params=list(CURVES))
def curve(request):
    """Each distribution on the line."""
    return Curve(*CURVES[request.param])


@pytest.fixture(scope="session")
def normals():
    """A source of standard normal draws like a tensor, from a seed; counts its calls."""

    def source(like, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def draw():
            draw.calls += 1
            return torch.randn(like.shape, generator=generator, dtype=like.dtype)

        draw.calls = 0
        return draw

    return source
