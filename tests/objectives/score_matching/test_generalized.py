"""Generalized score matching on distributions that end somewhere, by quadrature."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sde_score.objectives import (
    DOMAIN_WEIGHTS,
    GeneralizedScoreMatching,
    ImplicitScoreMatching,
    create,
)

F64 = torch.float64
POSITIVE = ["square", "identity", "clipped(bound=0.8)"]
BOUNDED = ["parabola(low=-1, high=2)", "distance(low=-1, high=2)"]


def panels(*ends, nodes=40):
    """A Gauss-Legendre rule on each interval, so that kinks at the ends cost nothing."""
    at, weight = np.polynomial.legendre.leggauss(nodes)
    x, w = [], []
    for low, high in itertools.pairwise(ends):
        x.append(low + (high - low) * (at + 1) / 2)
        w.append(weight * (high - low) / 2)
    return torch.tensor(np.concatenate(x)), torch.tensor(np.concatenate(w))


def rule(spec):
    """Where the weight's domain and kinks are."""
    return panels(-1, 0.5, 2) if spec in BOUNDED else panels(0, 0.8, 3, 12, 40)


def expected(objective, field, x, weights):
    return (weights * objective.losses(field, x)).sum() / weights.sum()


@pytest.mark.parametrize("spec", POSITIVE)
def test_the_rate_of_an_exponential_distribution_is_found(fields, newton, spec):
    """Exp(1): s = A x + b is best at A = 0, b = -1."""
    x, weights = rule(spec)
    weights = weights * torch.exp(-x)
    objective = GeneralizedScoreMatching(weight=spec)

    def loss(parameters):
        return expected(objective, fields.linear(parameters[:1, None], parameters[1:]), x, weights)

    best = newton(loss, 2)
    torch.testing.assert_close(best, torch.tensor([0.0, -1.0], dtype=F64), rtol=0, atol=1e-9)


def test_implicit_score_matching_finds_the_rate_zero(fields, newton):
    """The border term that it lacks: of s = -rate it sees rate^2 / 2 alone."""
    x, weights = panels(0, 3, 12, 40)
    weights = weights * torch.exp(-x)

    def loss(parameters):
        field = fields.linear(torch.zeros(1, 1, dtype=F64), parameters)
        return expected(ImplicitScoreMatching(), field, x, weights)

    assert newton(loss, 1).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("spec", [*POSITIVE, *BOUNDED])
def test_a_truncated_gaussian_is_found(fields, newton, spec):
    """p ~ exp(-0.7 x^2 + 1.1 x) within the domain: A = -1.4, b = 1.1, though p does not vanish at
    the border."""
    x, weights = rule(spec)
    weights = weights * torch.exp(-0.7 * x**2 + 1.1 * x)
    objective = GeneralizedScoreMatching(weight=spec)

    def loss(parameters):
        return expected(objective, fields.linear(parameters[:1, None], parameters[1:]), x, weights)

    best = newton(loss, 2)
    torch.testing.assert_close(best, torch.tensor([-1.4, 1.1], dtype=F64), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("spec", [*POSITIVE, *BOUNDED])
def test_it_is_the_weighted_explicit_loss_up_to_a_constant(nonlinear, spec):
    """E h (s - truth)^2 / 2 - E h truth^2 / 2, for any field and any h."""
    x, weights = rule(spec)
    weights = weights * torch.exp(-0.7 * x**2 + 1.1 * x)
    weights = weights / weights.sum()
    truth = 1.1 - 1.4 * x
    h, _ = DOMAIN_WEIGHTS.create(spec)(x)
    for seed in range(3):
        marginal, _ = nonlinear((), seed=seed)
        score = marginal.score(x)
        want = (weights * h * (0.5 * (score - truth) ** 2 - 0.5 * truth**2)).sum()
        got = expected(GeneralizedScoreMatching(weight=spec), marginal, x, weights)
        assert got.item() == pytest.approx(want.item(), rel=1e-9, abs=1e-10)


def test_entries_that_depend_on_each_other_are_told_apart(fields, newton):
    """A correlated Gaussian on the positive quadrant: each entry has its own weight and slope."""
    precision = torch.tensor([[1.6, -0.7], [-0.7, 0.9]], dtype=F64)
    pull = torch.tensor([0.3, -0.4], dtype=F64)
    at, w = panels(0, 3, 14)
    x = torch.cartesian_prod(at, at)
    density = torch.exp(-0.5 * ((x @ precision) * x).sum(1) + x @ pull)
    weights = (w[:, None] * w).flatten() * density
    objective = GeneralizedScoreMatching(weight="square")

    def loss(parameters):
        field = fields.linear(parameters[:4].reshape(2, 2), parameters[4:])
        return expected(objective, field, x, weights)

    best = newton(loss, 6)
    torch.testing.assert_close(best[:4].reshape(2, 2), -precision, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(best[4:], pull, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("spec", [*POSITIVE, *BOUNDED])
def test_each_weight_is_positive_inside_zero_at_the_border_and_has_its_slope(spec):
    weight = DOMAIN_WEIGHTS.create(spec)
    x = torch.linspace(max(weight.low, -1), min(weight.high, 2), 30, dtype=F64)[1:-1]
    leaf = x.clone().requires_grad_()
    h, slope = weight(leaf)
    (want,) = torch.autograd.grad(h.sum(), leaf)
    assert bool((h > 0).all())
    torch.testing.assert_close(slope, want)
    ends = torch.tensor([end for end in (weight.low, weight.high) if np.isfinite(end)], dtype=F64)
    assert bool((weight(ends)[0] == 0).all())
    assert weight(x.float())[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("square", 0.49),
        ("identity", 0.7),
        ("clipped", 0.7),
        ("clipped(bound=0.5)", 0.5),
        ("parabola", 0.21),
        ("distance", 0.3),
        ("parabola(low=-1, high=2)", 2.21),
    ],
)
def test_each_weight_has_the_value_of_its_formula(spec, value):
    h, _ = DOMAIN_WEIGHTS.create(spec)(torch.tensor([0.7], dtype=F64))
    assert h.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("spec", "outside"), [("square", -0.1), ("parabola", 1.2), ("distance", -0.1)]
)
def test_data_outside_the_domain_are_refused(fields, spec, outside):
    field = fields.linear(-torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64))
    objective = GeneralizedScoreMatching(weight=spec)
    inside = torch.tensor([[0.0, 0.2], [0.5, 1.0]], dtype=F64)
    assert objective.losses(field, inside).shape == (2,)
    for bad in (outside, float("nan")):
        x = torch.tensor([[0.5, 0.2], [0.5, bad]], dtype=F64)
        with pytest.raises(ValueError, match=r"outside the domain 0 \.\. (1|inf) of the weight"):
            objective.losses(field, x)


def test_wrong_arguments_are_refused():
    assert create("generalized") == GeneralizedScoreMatching(weight="square")
    with pytest.raises(ValueError, match="time_sampler='uniform' adds noise"):
        GeneralizedScoreMatching(time_sampler="uniform")
    with pytest.raises(ValueError, match="unknown domain weight 'cube'; accepted: square"):
        GeneralizedScoreMatching(weight="cube")
    for spec in ("parabola(low=1, high=1)", "distance(low=2, high=1)", "parabola(low=float)"):
        with pytest.raises(ValueError, match=r"must be finite, low < high|cannot read"):
            GeneralizedScoreMatching(weight=spec)
    with pytest.raises(ValueError, match="bound=-1 must be a finite number greater than 0"):
        GeneralizedScoreMatching(weight="clipped(bound=-1)")
