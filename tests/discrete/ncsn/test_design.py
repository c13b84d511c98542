"""The design rules of NCSNv2 against brute force, and the reasons against the numbers in them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.spatial.distance import pdist

from sde_score.discrete import (
    NoiseScales,
    count_scales,
    design,
    langevin_size,
    langevin_steps,
    largest_scale,
    level_overlap,
    scale_ratio,
    smallest_scale,
    variance_after_level,
)

# Of the published configurations: D, sigma_1, sigma_n, n, step_lr, T.
SHIPPED = {
    "CIFAR-10": (3 * 32**2, 50, 0.01, 232, 6.2e-6, 5),
    "CelebA": (3 * 64**2, 90, 0.01, 500, 3.3e-6, 5),
    "LSUN church": (3 * 96**2, 140, 0.01, 788, 4.9e-6, 4),
    "LSUN bedroom": (3 * 128**2, 190, 0.01, 1086, 1.8e-6, 3),
    "FFHQ": (3 * 256**2, 348, 0.01, 2311, 0.9e-6, 3),
}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 1), (40, 3), (1500, 2, 2), (1025, 1)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_largest_scale_is_the_largest_distance_of_all_pairs(shape, offset):
    x = draw(*shape) + offset
    choice = largest_scale(x)
    assert choice.value == pytest.approx(pdist(x.flatten(1).numpy()).max(), rel=1e-9)
    assert f"sigma_max = {choice.value:.4g}" in str(choice)
    assert f"on {shape[0]} examples" in choice.reason
    assert "technique 1" in choice.reason


@pytest.mark.parametrize("pair", [(0, 1), (3, 1200), (1100, 1499), (1023, 1024)])
def test_the_farthest_pair_is_found_wherever_it_is(pair):
    x = 0.01 * draw(1500, 2)
    x[pair[0], 0], x[pair[1], 0] = -5.0, 7.0
    assert largest_scale(x).value == pytest.approx(12.0, abs=0.1)


def test_many_examples_are_stood_in_for_by_a_subset():
    x = torch.arange(3000.0)[:, None]
    choice = largest_scale(x, examples=100)
    assert 2800 < choice.value < 2999  # a random subset, not the first
    assert largest_scale(x, examples=100) == choice
    assert "on 100 of 3000 examples, a lower bound" in choice.reason
    assert "lower bound" not in largest_scale(x).reason


def test_the_smallest_scale_is_a_hundredth_of_the_range():
    choice = smallest_scale(torch.tensor([[-1.0, 0.2], [0.5, 3.0]]))
    assert choice.value == pytest.approx(0.04)
    assert all(word in str(choice) for word in ("sigma_min = 0.04", "-1 to 3", "0.01 for images"))
    assert smallest_scale(torch.linspace(0, 1, 7)).value == pytest.approx(0.01)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ladders_overlap_by_a_little_more_than_half(name):
    dim, first, last, count, *_ = SHIPPED[name]
    assert level_overlap((first / last) ** (1 / (count - 1)), dim) == pytest.approx(0.567, abs=1e-3)


@pytest.mark.parametrize("dim", [20, 64, 3072])
@pytest.mark.parametrize("overlap", [0.5, 0.567, 0.1, 0.95])
def test_the_ratio_overlaps_as_it_should(dim, overlap):
    """Radii of sigma = 1 are N(sqrt D, 1/2); those of g lie in sqrt(D) g +- 3 g / sqrt 2."""
    choice = scale_ratio(dim, overlap)
    low, high = (math.sqrt(dim) * choice.value + k * choice.value / math.sqrt(2) for k in (-3, 3))
    distribution = stats.norm(math.sqrt(dim), math.sqrt(0.5))
    share, _ = integrate.quad(
        distribution.pdf, max(low, distribution.mean() - 8), min(high, distribution.mean() + 8)
    )
    assert share == pytest.approx(overlap, abs=1e-9)
    assert level_overlap(choice.value, dim) == pytest.approx(overlap, abs=1e-9)
    for word in (f"ratio = {choice.value:.5g}", f"D = {dim} ", f"overlap by {overlap:g}", "Phi("):
        assert word in choice.reason
    assert "technique 2" in choice.reason


@pytest.mark.parametrize("dim", [1, 2, 7, 3072])
def test_the_ratio_of_few_dimensions_is_by_the_exact_distribution(dim):
    """|x|^2 is chi-squared: the larger level's radii within those of the smaller one."""
    choice = scale_ratio(dim, 0.5, radius="chi")
    tail = stats.norm.sf(3)
    low, high = stats.chi2.ppf(tail, dim), stats.chi2.isf(tail, dim)
    x = choice.value**2 * np.random.default_rng(0).chisquare(dim, 400_000)
    assert ((x > low) & (x < high)).mean() == pytest.approx(0.5, abs=0.004)
    assert "chi-distributed" in choice.reason
    if dim == 3072:
        assert choice.value == pytest.approx(scale_ratio(dim).value, abs=2e-3)


def test_levels_that_are_equal_overlap_within_three_standard_deviations():
    for radius in ("normal", "chi"):
        assert level_overlap(1.0, 9, radius) == pytest.approx(math.erf(3 / math.sqrt(2)), rel=1e-9)


@pytest.mark.parametrize(
    ("first", "last", "ratio"), [(50.0, 0.01, 1.0398), (2.0, 1.0, 3.0), (9.0, 0.1, 1.5)]
)
def test_levels_are_counted_one_by_one(first, last, ratio):
    choice = count_scales(first, last, ratio)
    levels = [first]
    while levels[-1] > last:
        levels.append(levels[-1] / ratio)
    assert choice.value == len(levels)
    scales = NoiseScales.geometric(first, last, choice.value)
    assert scales.ratio <= ratio
    for word in (f"levels = {len(levels)}", f"{first:g} / {last:g}", f"becomes {scales.ratio:.5g}"):
        assert word in choice.reason


def test_a_whole_number_of_ratios_is_not_rounded_up():
    assert count_scales(125.0, 1.0, 5.0).value == 4  # log 125 / log 5 rounds to above 3
    assert count_scales(1.0, 1e-3, 10 ** (1 / 3)).value == 10


def settle(variance, sigma, s, steps, r):
    for _ in range(steps):
        variance = (1 - r * sigma**2 / (s**2 + sigma**2)) ** 2 * variance + 2 * r * sigma**2
    return variance


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_steps_keep_the_variance_of_a_level(name):
    """The published rule: near 1. By hand, and in the formula."""
    _, first, last, count, step_lr, steps = SHIPPED[name]
    g, r = (first / last) ** (1 / (count - 1)), step_lr / last**2
    got = variance_after_level(g, steps, r)
    assert got == pytest.approx(settle(g**2, 1.0, 0.0, steps, r), rel=1e-12)
    v = 2 * r / (1 - (1 - r) ** 2)
    assert got == pytest.approx((1 - r) ** (2 * steps) * (g**2 - v) + v, rel=1e-12)
    assert 1.005 < got < 1.065


def end(scales, s, steps, r):
    variance = s**2 + scales.sigma_max**2
    for sigma in scales:
        variance = settle(variance, sigma, s, steps, r)
    return variance / (s**2 + scales.sigma_min**2)


def test_shipped_steps_of_ncsn_miss_the_variance_of_wide_data():
    ncsn = NoiseScales.geometric(10.0, 0.01, 10)
    assert end(ncsn, 1.0, 100, 2e-5 / 0.01**2) * 1.0001 == pytest.approx(1.0532, abs=5e-5)
    size = langevin_size(ncsn, 100, 1.0)
    assert end(ncsn, 1.0, 100, size.value) == pytest.approx(1.0141, abs=1e-4)


@pytest.mark.parametrize("stds", [0.0, 0.5, (0.0, 0.3)])
def test_langevin_steps_are_the_fewest_that_keep_the_variance(stds):
    scales = NoiseScales.geometric(4.0, 0.05, 12)
    several = stds if isinstance(stds, tuple) else (stds,)

    def error(steps):
        sizes = np.geomspace(1e-3, 1.0, 400)
        return min(max(abs(end(scales, s, steps, r) - 1) for s in several) for r in sizes)

    steps = langevin_steps(scales, 0.1, stds)
    size = langevin_size(scales, steps.value, stds)
    assert max(abs(end(scales, s, steps.value, size.value) - 1) for s in several) <= 0.1
    assert error(steps.value - 1) > 0.0995
    assert f"steps_each = {steps.value}" in steps.reason
    assert "within 10 %" in steps.reason
    assert "technique 4" in steps.reason
    assert f"standard deviation {' and '.join(f'{s:g}' for s in several)} " in steps.reason
    for word in (
        f"step_ratio = {size.value:.4g}",
        f"step_lr = {size.value * 0.05**2:.4g}",
        f"{steps.value} steps",
        f"{scales.ratio:.5g} times",
        f"{variance_after_level(scales.ratio, steps.value, size.value):.4f} times the variance",
    ):
        assert word in size.reason


def test_a_design_applies_the_rules_in_turn():
    x = 0.4 * draw(200, 4, 4)
    found = design(x)
    first, last, ratio = largest_scale(x), smallest_scale(x), scale_ratio(16)
    count = count_scales(first.value, last.value, ratio.value)
    scales = NoiseScales.geometric(first.value, last.value, count.value)
    steps = langevin_steps(scales)
    size = langevin_size(scales, steps.value)
    assert found.scales == scales
    assert (found.steps_each, found.step_ratio) == (steps.value, size.value)
    assert found.step_lr == pytest.approx(size.value * last.value**2, rel=1e-12)
    reasons = [choice.reason for choice in (first, last, ratio, count, steps, size)]
    assert str(found) == "\n".join(reasons)
    sampler = found.sampler()
    assert sampler == scales.sampler(steps_each=steps.value, step_ratio=size.value)
    assert not found.sampler(denoise=False).denoise
    numbers = found.numbers()
    assert numbers["sigmas"] == list(scales)
    assert numbers["levels"] == len(scales)
    assert numbers["ratio"] == scales.ratio
    assert numbers["reasons"] == reasons
    want = {"sigma_max": first, "sigma_min": last, "steps_each": steps, "step_ratio": size}
    assert {key: numbers[key] for key in want} == {k: c.value for k, c in want.items()}
    assert numbers["step_lr"] == found.step_lr


def test_a_design_for_cifar_is_nearly_the_shipped_one():
    found = design(3072, sigma_max=50.0, sigma_min=0.01, overlap=0.5669, steps_each=5)
    assert len(found.scales) == 232
    assert found.steps_each == 5
    assert "sigma_max = 50: as given." in str(found)
    assert "steps_each = 5: as given." in str(found)
    assert "overlap by 0.5669" in str(found)


def test_what_is_given_is_taken():
    x = draw(50, 2)
    found = design(x, sigma_min=0.1, radius="chi", overlap=0.4, tolerance=0.2, data_std=0.3)
    assert found.scales.sigma_min == 0.1
    assert found.ratio == scale_ratio(2, 0.4, "chi")
    assert found.steps == langevin_steps(found.scales, 0.2, 0.3)
    assert found.size == langevin_size(found.scales, found.steps_each, 0.3)
    assert design(x, sigma_max=7.0, radius="chi").scales.sigma_max == 7.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: design(64, sigma_min=0.1), "sigma_max is measured on data.*not data=64"),
        (lambda: design(64, sigma_max=1.0), "sigma_min is measured on data"),
        (lambda: design(64, sigma_max=1.0, sigma_min=2.0), "sigma_max=1.0 must exceed"),
        (lambda: design(64, sigma_max=1.0, sigma_min=0.0), "sigma_min=0.0"),
        (lambda: design(0, sigma_max=1.0, sigma_min=0.1), "dim=0"),
        (lambda: design(64, sigma_max=1.0, sigma_min=0.1, steps_each=0), "steps_each=0"),
        (lambda: largest_scale(torch.ones(5, 2)), "5 examples that do not differ"),
        (lambda: largest_scale(torch.ones(1, 2)), "1 examples that do not differ"),
        (lambda: largest_scale(torch.ones(5, 2), examples=1), "examples=1"),
        (lambda: smallest_scale(torch.ones(5, 2)), "1 everywhere"),
        (lambda: scale_ratio(2), "dim=2: try radius='chi'"),
        (lambda: scale_ratio(4), "dim=4: try radius='chi'"),
        (lambda: scale_ratio(1, 0.01, "chi"), "dim=1: try a larger one"),
        (lambda: scale_ratio(64, 0.999), "must lie between 0 and 0.9973"),
        (lambda: scale_ratio(64, 0.0), "must lie between 0 and 0.9973"),
        (lambda: scale_ratio(64, math.nan), "must lie between 0"),
        (lambda: level_overlap(0.9, 64), "ratio=0.9 must be at least 1"),
        (lambda: level_overlap(1.1, 64, "uniform"), "radius='uniform'.*normal, chi"),
        (lambda: count_scales(1.0, 2.0, 1.1), "sigma_max=1.0 must exceed"),
        (lambda: count_scales(2.0, 1.0, 1.0), "ratio=1.0 must exceed"),
        (lambda: langevin_steps(NoiseScales([9.0, 0.01]), 1e-6), "use more levels"),
        (lambda: langevin_size(NoiseScales([9.0, 0.01]), 0), "steps_each=0"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_data_of_whole_numbers_are_refused():
    for rule in (largest_scale, smallest_scale, design):
        with pytest.raises(TypeError, match=r"data must be a floating-point tensor"):
            rule(torch.ones(5, 2, dtype=torch.int64))
