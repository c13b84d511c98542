"""The price on curvature: where it puts the minimum, and the bound that it gives."""

from __future__ import annotations

import pytest
import torch

from sde_score.models import Marginal, ScoreFunction
from sde_score.objectives import ImplicitScoreMatching, RegularizedScoreMatching
from sde_score.sdes import VE

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_is_the_implicit_loss_plus_the_squares_of_the_diagonal(nonlinear):
    for energy in (False, True):
        marginal, _ = nonlinear((2, 2), energy)
        x = torch.randn(3, 2, 2, generator=seeded(1), dtype=F64)
        plain = ImplicitScoreMatching().losses(marginal, x)
        priced = RegularizedScoreMatching(strength=0.3).losses(marginal, x)
        for i, example in enumerate(x):
            field = lambda y, m=marginal: m.score(y.reshape(1, 2, 2)).flatten()  # noqa: E731
            jacobian = torch.autograd.functional.jacobian(field, example.flatten())
            want = 0.3 * (jacobian.diagonal() ** 2).sum()
            assert (priced - plain)[i].item() == pytest.approx(want.item(), rel=1e-11)


def test_the_minimum_on_correlated_gaussian_data_is_the_closed_form(gaussian, fields, newton):
    """Row i of A is -(row i of P) / (1 + 2 lambda P_ii), P the precision; the mean is kept."""
    data, strength = gaussian(3), 0.35
    objective = RegularizedScoreMatching(strength=strength)

    def loss(parameters):
        field = fields.linear(parameters[:9].reshape(3, 3), parameters[9:])
        return objective.losses(field, data.x).mean()

    best = newton(loss, 12)
    want = -data.precision / (1 + 2 * strength * data.precision.diagonal())[:, None]
    torch.testing.assert_close(best[:9].reshape(3, 3), want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(best[9:], -want @ data.mean, rtol=1e-9, atol=1e-10)


def test_independent_entries_are_smoothed_by_twice_the_strength(fields, newton):
    """Data of variance S and precision 1 / (S + 2 lambda), as if noise had been added."""
    x = torch.tensor([[-1.5], [1.5]], dtype=F64)

    def loss(parameters):
        field = fields.quadratic(parameters.reshape(1, 1), torch.zeros(1, dtype=F64))
        return RegularizedScoreMatching(strength=0.2).losses(field, x).mean()

    assert newton(loss, 1).item() == pytest.approx(1 / (1.5**2 + 0.4), rel=1e-12)


def test_on_isolated_points_it_is_bounded_and_the_bound_is_attained():
    """-D / (4 lambda), at s = -(x - x_i) / (2 lambda)."""
    points = torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=F64)
    objective = RegularizedScoreMatching(strength=0.1)

    def loss(variance):
        def nearest(x, t):
            return -(x - points[torch.cdist(x, points).argmin(1)]) / variance

        return objective.losses(Marginal(ScoreFunction(nearest, VE())), points).mean().item()

    assert loss(0.2) == pytest.approx(-2 / 0.4, rel=1e-12)
    assert loss(0.1) > loss(0.2)
    assert loss(0.3) > loss(0.2)
    assert loss(1e-4) > 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="strength=0 must be a finite number greater than 0"):
        RegularizedScoreMatching(strength=0)
