from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sde_score.data import Scaling, load

TOYS = ["ring", "gaussians", "moons", "checkerboard", "spirals"]


@pytest.mark.parametrize("name", TOYS)
def test_the_distribution_of_a_toy_has_mean_zero_and_mean_variance_one(name):
    """Within four standard errors of 200 000 draws: a wrong constant in a closed form is seen."""
    x = load(f"{name}(n=200000, seed=3)").tensor().double()
    error = x.std(0) / math.sqrt(len(x))
    assert (x.mean(0).abs() < 4 * error).all()
    squares = x.square().sum(1) / 2
    assert abs(squares.mean() - 1) < 4 * squares.std() / math.sqrt(len(x))


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_named_by_its_seed_and_size(name):
    data = load(f"{name}(n=300, seed=1)")
    assert (len(data), data.event_shape, data.scaling) == (300, (2,), Scaling())
    assert torch.equal(data.tensor(), load(f"{name}(seed=1, n=300)").tensor())
    assert not torch.equal(data.tensor(), load(f"{name}(n=300, seed=2)").tensor())


def test_the_ring_has_an_even_angle_and_a_normal_radius():
    x = load("ring(n=5000)").tensor().double() * math.sqrt((1 + 0.05**2) / 2)
    radius = stats.norm(1, 0.05)
    assert stats.kstest(x.norm(dim=1).numpy(), radius.cdf).pvalue > 0.01
    angle = torch.atan2(x[:, 1], x[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


def test_each_blob_is_a_normal_about_its_own_center():
    data = load("gaussians(n=8000)")
    x = data.tensor().double() * math.sqrt(0.5 + 0.1**2)
    for blob in range(8):
        center = torch.tensor([math.cos(math.pi * blob / 4), math.sin(math.pi * blob / 4)])
        rest = (x[data.labels == blob] - center).flatten().numpy()
        assert stats.kstest(rest, stats.norm(0, 0.1).cdf).pvalue > 1e-3


def test_the_checkerboard_fills_its_dark_squares_evenly():
    x = load("checkerboard(n=8000)").tensor().double() * math.sqrt(4 / 3) + 2
    square = x.floor().clamp(0, 3).long()
    assert (square.sum(1) % 2 == 0).all()
    counts = (4 * square[:, 0] + square[:, 1]).bincount(minlength=16)
    assert stats.chisquare(counts[counts > 0].numpy()).pvalue > 1e-3
    assert (counts > 0).sum() == 8
    for axis in (0, 1):
        assert stats.kstest((x[:, axis] % 1).numpy(), stats.uniform.cdf).pvalue > 0.01


def test_each_moon_lies_on_its_half_circle():
    data = load("moons(n=4000)")
    x = data.tensor().double() * math.sqrt((0.75 + 0.5625 - 1 / math.pi) / 2 + 0.05**2)
    x = x + torch.tensor([0.5, 0.25])
    upper, lower = x[data.labels == 0], x[data.labels == 1]
    lower = torch.tensor([1.0, 0.5]) - lower
    for moon in (upper, lower):
        assert (moon.norm(dim=1) - 1).abs().max() < 0.3
        assert (moon[:, 1] > -0.25).all()
        assert abs(moon[:, 0].mean()) < 0.06


def test_each_spiral_arm_turns_with_its_radius():
    data = load("spirals(n=4000)")
    x = data.tensor().double() * math.sqrt(9 * math.pi**2 / 4 + 0.2**2)
    x = torch.where(data.labels[:, None] == 0, x, -x)
    radius, angle = x.norm(dim=1), torch.atan2(x[:, 1], x[:, 0])
    # Noise across the arm turns a point by noise / radius, noise along the radius by noise itself.
    error = torch.remainder(angle - radius + math.pi, 2 * math.pi) - math.pi
    error = error / (0.2 * (1 + radius**-2).sqrt())
    assert stats.kstest(error[radius > 4].numpy(), stats.norm.cdf).pvalue > 1e-3
    distribution = stats.uniform(0, 9 * math.pi**2)
    assert stats.kstest(radius.square().numpy(), distribution.cdf).statistic < 0.03


def test_targets_are_data_sets_in_their_own_terms():
    """The scaling is the identity, so that the target's score is that of the data."""
    from sde_score.data import Scaling, load
    from sde_score.models import TARGETS
    from sde_score.random import generator_from

    for name in TARGETS:
        found = load(f"target(name={name!r}, n=20, seed=3)")
        want = TARGETS.create(name).sample(20, generator_from(3)).float()
        assert torch.equal(found.raw(), want)
        assert found.scaling == Scaling()
        assert found.name == name
