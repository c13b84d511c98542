"""Sliced score matching: implicit score matching along directions of any distribution."""

from __future__ import annotations

import pytest
import torch

from sde_score.objectives import (
    HutchinsonScoreMatching,
    ImplicitScoreMatching,
    SlicedScoreMatching,
)
from sde_score.random import probes

F64 = torch.float64
MATRIX = torch.tensor([[-1.3, 0.7], [-0.4, -0.9]], dtype=F64)
SHIFT = torch.tensor([0.4, -1.2], dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("energy", [False, True], ids=["score", "energy"])
def test_it_is_unbiased_in_value_and_gradient(nonlinear, signs, energy):
    """Over all 2^D Rademacher vectors, without any sampling."""
    marginal, parameters = nonlinear((2, 2), energy)
    x = torch.randn(3, 2, 2, generator=seeded(1), dtype=F64)
    exact = ImplicitScoreMatching().losses(marginal, x)
    estimate = SlicedScoreMatching().at(marginal, x, signs(x))
    torch.testing.assert_close(estimate, exact, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    wanted = torch.autograd.grad((weights * exact).sum(), parameters)
    got = torch.autograd.grad((weights * estimate).sum(), parameters)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


def test_it_scales_right_for_every_distribution_of_the_directions(fields, signs, hermite):
    """The mean over each distribution, by an exact rule, is the implicit loss: unit vectors on the
    sphere would give 1 / D of it."""
    x = torch.tensor([[0.3, -0.8]], dtype=F64)
    angles = torch.arange(8, dtype=F64) * (2 * torch.pi / 8)
    circle = 2**0.5 * torch.stack([angles.cos(), angles.sin()], 1)
    nodes, weights = hermite(3, 2)
    rules = {
        "rademacher": (signs(x)[:, 0], torch.full((4,), 1 / 4, dtype=F64)),
        "gaussian": (nodes, weights),
        "sphere": (circle, torch.full((8,), 1 / 8, dtype=F64)),
    }
    marginal = fields.linear(MATRIX, SHIFT)
    exact = ImplicitScoreMatching().losses(marginal, x)
    for distribution, (vectors, weight) in rules.items():
        drawn = probes(400, x.expand(50, 2), distribution, seeded(2)).reshape(-1, 2)
        moments = drawn.mT @ drawn / len(drawn)
        torch.testing.assert_close(moments, torch.eye(2, dtype=F64), rtol=0, atol=0.05)
        each = [
            SlicedScoreMatching(probe_distribution=distribution).at(marginal, x, v[None, None])
            for v in vectors
        ]
        torch.testing.assert_close((weight * torch.cat(each)).sum(0, True), exact)


def test_on_one_vector_it_is_the_one_dimensional_problem(fields):
    """(v.s)^2 / 2 + v.Av by hand."""
    x = torch.tensor([[0.3, -0.8], [1.0, 2.0]], dtype=F64)
    v = torch.tensor([[0.5, 2.0], [-1.0, 0.1]], dtype=F64)
    got = SlicedScoreMatching().at(fields.linear(MATRIX, SHIFT), x, v[None])
    for i in range(2):
        score = MATRIX @ x[i] + SHIFT
        want = 0.5 * (v[i] @ score) ** 2 + v[i] @ MATRIX @ v[i]
        assert got[i].item() == pytest.approx(want.item(), rel=1e-13)


def test_images_are_sliced_over_the_whole_event(nonlinear):
    """Not over the last axis alone, nor divided by channels or rows."""
    marginal, _ = nonlinear((2, 3, 4))
    x = torch.randn(3, 2, 3, 4, generator=seeded(1), dtype=F64)
    v = probes(2, x, "gaussian", seeded(2))
    flat, _ = nonlinear((24,))
    got = SlicedScoreMatching().at(marginal, x, v)
    want = SlicedScoreMatching().at(flat, x.flatten(1), v.flatten(2))
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)


def test_its_variance_exceeds_the_reduced_one_as_computed(fields, gaussian, hermite):
    """Over Gaussian directions without sampling, the first term adds Var((v.s)^2 / 2) = |s|^4 / 2
    and twice the covariance s^T A s of the two: for a score far from zero, a gain."""
    data = gaussian(2)
    marginal = fields.linear(-data.precision, data.precision @ data.mean)
    nodes, weights = hermite(5, 2)

    def variance(objective, x):
        values = torch.cat([objective.at(marginal, x, v[None, None]) for v in nodes])
        return (weights * (values - (weights * values).sum()) ** 2).sum()

    for example in data.x[:4]:
        x = example[None]
        score = marginal.score(x)[0]
        plain = variance(SlicedScoreMatching(probe_distribution="gaussian"), x)
        reduced = variance(HutchinsonScoreMatching(probe_distribution="gaussian"), x)
        square = score @ score
        covariance = -(score @ data.precision @ score)
        want = reduced + 0.5 * square**2 + 2 * covariance
        assert plain.item() == pytest.approx(want.item(), rel=1e-11)


def test_probes_are_drawn_from_the_generator_with_their_number_and_distribution(fields):
    x = torch.randn(5, 2, generator=seeded(4), dtype=F64)
    objective = SlicedScoreMatching(probes=3, probe_distribution="sphere")
    marginal = fields.linear(MATRIX, SHIFT)
    want = objective.at(marginal, x, probes(3, x, "sphere", seeded(8)))
    assert torch.equal(objective.losses(marginal, x, seeded(8)), want)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="probes=0 must be an integer of at least 1"):
        SlicedScoreMatching(probes=0)
    with pytest.raises(ValueError, match="probe_distribution='normal' is not known"):
        SlicedScoreMatching(probe_distribution="normal")
