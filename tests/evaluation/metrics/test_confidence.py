"""Intervals cover what they promise, and the noise floor is where perfect samples fall."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.evaluation import DistanceEstimator, Interval, frechet

DIMENSIONS, HELD_OUT = 3, 60


def gaussian(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, DIMENSIONS, generator=generator) + shift


def mean_gap(x, y):
    """A distance that is linear in x: its subset means have an exact theory."""
    return float(x.double().mean() - y.double().mean())


def test_interval_is_196_standard_errors_to_either_side():
    found = Interval(3.0, 0.5)
    assert (found.low, found.high) == pytest.approx((3 - 1.959964 * 0.5, 3 + 1.959964 * 0.5))
    assert found.margin == pytest.approx(0.979982)


def test_linear_distance_has_the_error_of_a_mean():
    """For a mean the halves cancel: the value is that of all samples, the error std / sqrt(n)."""
    count, repeats = 200, 400
    x, held_out = gaussian(count, 1, shift=0.7), gaussian(HELD_OUT, 2)
    (found,) = DistanceEstimator(gaussian(900, 3), held_out, count, [mean_gap], repeats=repeats)(x)
    assert found.value == pytest.approx(mean_gap(x, held_out), abs=1e-12)
    rows = x.double().mean(1)
    exact = float(rows.std(unbiased=False)) / math.sqrt(count - 1)
    # s = n / 2: the jackknife's share is 1, the subsets add 1 / R
    assert found.standard_error == pytest.approx(exact * math.sqrt(1 + 1 / repeats), rel=0.12)


@pytest.mark.parametrize(("train", "size"), [(900, 100), (120, 60)])
def test_linear_floor_has_the_error_of_a_mean_of_the_population(train, size):
    """One subset of s has variance v / s, whatever the size of the training data it comes from."""
    count, repeats = 200, 400
    data, held_out = gaussian(train, 1), gaussian(HELD_OUT, 2)
    estimator = DistanceEstimator(data, held_out, count, [mean_gap], repeats=repeats)
    (floor,) = estimator.floors
    assert estimator.size == size
    rows = data.double().mean(1)
    of_one = float(rows.std()) / math.sqrt(size)
    exact = of_one * math.sqrt(size / count + 1 / repeats)
    assert floor.standard_error == pytest.approx(exact, rel=0.1)
    # a mean of disjoint pairs of subsets lies near that of the population
    assert floor.value == pytest.approx(mean_gap(data, held_out), abs=0.15 * of_one)


def test_few_training_data_shrink_the_subsets_and_their_error_tells():
    """With s < n / 2 the value averages subsets of n: se^2 = v (s / (n - s) + 1 / R)."""
    count, repeats = 200, 400
    x, held_out = gaussian(count, 1), gaussian(HELD_OUT, 2)
    (found,) = DistanceEstimator(gaussian(80, 3), held_out, count, [mean_gap], repeats=repeats)(x)
    size, rows = 40, x.double().mean(1)
    between_subsets = float(rows.var()) / size * (1 - size / count)
    exact = math.sqrt(between_subsets * (size / (count - size) + 1 / repeats))
    assert found.standard_error == pytest.approx(exact, rel=0.1)


def expected(shift, held_out, size, draws=300):
    """E D of `size` fresh samples against the held-out set, by brute force."""
    return sum(frechet(gaussian(size, 10_000 + i, shift), held_out) for i in range(draws)) / draws


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_intervals_cover_the_expected_distance(shift):
    """Fresh samples each time: 95% of the intervals hold E D, up to the chance of 100 trials."""
    held_out, count, trials = gaussian(HELD_OUT, 5), 80, 100
    estimator = DistanceEstimator(gaussian(400, 6), held_out, count, [frechet], repeats=20)
    truth = expected(shift, held_out, estimator.size)
    found = [estimator(gaussian(count, 100 + i, shift))[0] for i in range(trials)]
    covered = sum(each.low <= truth <= each.high for each in found)
    assert 89 <= covered <= 100
    # and no wider than need be: the errors are those of the values
    values = torch.tensor([each.value for each in found])
    claimed = torch.tensor([each.standard_error for each in found]).square().mean().sqrt()
    assert 0.8 < float(claimed / values.std()) < 1.5


def test_floor_holds_perfect_samples_and_no_shifted_ones():
    held_out, count, trials = gaussian(HELD_OUT, 5), 80, 100
    estimator = DistanceEstimator(gaussian(1000, 6), held_out, count, [frechet], repeats=20)
    (floor,) = estimator.floors
    values = [estimator(gaussian(count, 100 + i))[0].value for i in range(trials)]
    assert sum(floor.low <= value <= floor.high for value in values) >= 89
    assert floor.value == pytest.approx(sum(values) / trials, rel=0.1)
    shifted = [estimator(gaussian(count, 100 + i, 0.5))[0].value for i in range(10)]
    assert min(shifted) > floor.high


def test_features_are_what_a_feature_distance_compares():
    """Through pixels, the estimator's Fréchet is that of the examples; the name says so."""
    x, held_out, train = gaussian(40, 1), gaussian(HELD_OUT, 2), gaussian(100, 3)
    by_name = DistanceEstimator(train, held_out, 40, ["frechet(extractor='pixels')", "energy"])
    plain = DistanceEstimator(train, held_out, 40, [frechet])
    assert by_name.names == ("frechet[pixels]", "energy")
    assert plain.names == ("frechet",)
    assert by_name(x)[0] == plain(x)[0]
    assert by_name.floors[0] == plain.floors[0]


def test_seed_names_the_subsets():
    x, held_out, train = gaussian(40, 1), gaussian(HELD_OUT, 2), gaussian(100, 3)
    estimators = [
        DistanceEstimator(train, held_out, 40, [frechet], seed=seed) for seed in (0, 0, 1)
    ]
    first, again, other = (estimator(x)[0] for estimator in estimators)
    assert first == again
    assert first != other
    assert estimators[0].floors != estimators[2].floors


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"count": 3}, "count=3"),
        ({"repeats": 1}, "repeats=1"),
        ({"train": torch.zeros(3, DIMENSIONS)}, "train holds 3"),
        ({"held_out": torch.zeros(9, 2)}, "event shapes"),
        ({"distances": []}, "distances is empty"),
        ({"distances": ["frechet-inception"]}, "unknown distance"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed, says):
    good = {"train": gaussian(50, 1), "held_out": gaussian(9, 2), "count": 20}
    with pytest.raises(ValueError, match=says):
        DistanceEstimator(**{**good, **changed})


def test_another_number_of_samples_is_refused():
    estimator = DistanceEstimator(gaussian(50, 1), gaussian(9, 2), 20, [frechet])
    with pytest.raises(ValueError, match=r"21 samples came.*count=20"):
        estimator(gaussian(21, 3))
    with pytest.raises(ValueError, match="not finite"):
        estimator(torch.full((20, DIMENSIONS), math.nan))
