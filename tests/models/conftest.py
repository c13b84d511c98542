"""Every SDE, times over its whole range, and a backbone that knows the truth."""

from __future__ import annotations

import pytest
import torch

from sde_score import sdes
from sde_score.sdes import SDE

TUNED = {
    "subvp": {"beta_min": 0.4, "beta_max": 9.0},
    "ve": {"sigma_min": 0.2, "sigma_max": 7.0},
}
SDES = [sdes.create(name, **TUNED.get(name, {})) for name in sdes.SDES if name != "chain"]


@pytest.fixture(params=SDES, ids=lambda sde: type(sde).__name__)
def sde(request) -> SDE:
    return request.param


@pytest.fixture
def times(sde):
    """Four times, from the data to the prior, both ends among them."""
    fraction = torch.tensor([0.0, 0.05, 0.4, 1.0], dtype=torch.float64)
    return (sde.t_min + (sde.t_max - sde.t_min) * fraction).clamp(sde.t_min, sde.t_max)


@pytest.fixture
def derivative():
    """`(function, t) -> d function / dt` at each entry of t, by autograd (0 for a constant)."""

    def of(function, t):
        t = t.clone().requires_grad_()
        return torch.autograd.grad((function(t) + 0 * t).sum(), t)[0]

    return of


@pytest.fixture
def gradient():
    """`(function, x) -> gradient` of each example's value with respect to its own x."""

    def of(function, x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]

    return of
