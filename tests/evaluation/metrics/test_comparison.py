"""Names, noise floors and the comparison of samples with data."""

import math

import pytest
import torch

from sde_score.evaluation import (
    DEFAULT,
    DISTANCES,
    Floor,
    available,
    compare,
    create,
    energy_distance,
    frechet,
    kernel_distance,
    maximum_mean_discrepancy,
    noise_floor,
    sliced_wasserstein2,
)


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_names_stand_for_the_functions():
    x, y = normals(9, 3, seed=1), 1 + normals(8, 3, seed=2)
    names = ["sliced-wasserstein2", "mmd2", "energy", "frechet", "kernel"]
    assert available() == list(DISTANCES) == names
    assert create("sliced-wasserstein2")(x, y) == sliced_wasserstein2(x, y)
    assert create("sliced-wasserstein2(projections=7, seed=3)")(x, y) == sliced_wasserstein2(
        x, y, 7, 3
    )
    assert create("mmd2")(x, y) == maximum_mean_discrepancy(x, y)
    assert create("mmd2(bandwidths=(0.5, 2))")(x, y) == maximum_mean_discrepancy(x, y, (0.5, 2))
    assert create("energy")(x, y) == energy_distance(x, y)
    assert create("frechet")(x, y) == frechet(x, y)
    assert create("kernel")(x, y) == kernel_distance(x, y)
    with pytest.raises(ValueError, match="did you mean 'energy'"):
        create("enrgy")


def test_floor_compares_disjoint_sets_of_the_given_size():
    """A distance that looks at its arguments sees whole, disjoint, ever new sets of the data."""
    data, seen = torch.arange(20.0)[:, None], []

    def spy(x, y):
        seen.append((set(x.flatten().tolist()), set(y.flatten().tolist())))
        return float(len(seen))

    floor = noise_floor(spy, data, size=8, repeats=4)
    assert floor == Floor(mean=2.5, std=pytest.approx(math.sqrt(5 / 3)), with_replacement=False)
    assert all(len(x) == len(y) == 8 and not x & y for x, y in seen)
    assert len({frozenset(x) for x, _ in seen}) == 4


def test_floor_of_too_little_data_says_that_it_was_drawn_with_replacement():
    """Two draws with replacement are independent samples of one law: the unbiased floor stays 0."""
    data = normals(30, 2, seed=3)
    floor = noise_floor("energy", data, size=16, repeats=400)
    assert floor.with_replacement
    assert abs(floor.mean) < 4 * floor.std / math.sqrt(400)
    assert not noise_floor("energy", data, size=15, repeats=2).with_replacement


def test_floor_is_the_law_of_perfect_samples():
    """The floor from one data set agrees with fresh, independent pairs of the same law."""
    size = 100
    floor = noise_floor("sliced-wasserstein2(projections=40)", normals(4000, 3), size, repeats=60)
    fresh = torch.tensor(
        [
            sliced_wasserstein2(normals(size, 3, seed=2 * r), normals(size, 3, seed=2 * r + 1), 40)
            for r in range(60)
        ]
    )
    error = math.hypot(floor.std, float(fresh.std())) / math.sqrt(60)
    assert floor.mean == pytest.approx(float(fresh.mean()), abs=4 * error)
    assert floor.std == pytest.approx(float(fresh.std()), rel=0.4)
    assert floor.mean > 10 * error


def test_floor_is_repeatable_and_its_seed_matters():
    data = normals(40, 2, seed=4)
    assert noise_floor("energy", data, 10, seed=1) == noise_floor("energy", data, 10, seed=1)
    assert noise_floor("energy", data, 10, seed=1) != noise_floor("energy", data, 10, seed=2)
    assert noise_floor(energy_distance, data, 10) == noise_floor("energy", data, 10)


def test_comparison_tells_perfect_samples_from_shifted_ones():
    data = normals(1200, 2, 2, seed=5)
    perfect = compare(normals(400, 2, 2, seed=6), data)
    shifted = compare(0.5 + normals(400, 2, 2, seed=7), data)
    assert tuple(score.name for score in perfect) == DEFAULT
    for good, bad in zip(perfect, shifted, strict=True):
        assert abs(good.value - good.floor_mean) < 5 * good.floor_std
        assert bad.value - bad.floor_mean > 10 * bad.floor_std
        assert (good.floor_mean, good.floor_std) == (bad.floor_mean, bad.floor_std)


@pytest.mark.parametrize(("n", "m", "size"), [(10, 50, 10), (50, 10, 5), (10, 21, 10), (10, 17, 8)])
def test_value_and_floor_are_taken_at_one_size(n, m, size):
    (score,) = compare(normals(n, 2, seed=8), normals(m, 2, seed=9), ["energy"])
    assert score.size == size
    floor = noise_floor("energy", normals(m, 2, seed=9), size)
    assert (score.floor_mean, score.floor_std) == (floor.mean, floor.std)


def test_value_is_the_distance_between_the_samples_and_as_many_data():
    """With one constant in the samples and another in the data the energy distance is known."""
    samples, data = torch.full((6, 1), 2.0), torch.full((12, 1), 5.0)
    (score,) = compare(samples, data, ["energy"])
    assert score.value == pytest.approx(2 * 3.0)
    assert (score.floor_mean, score.floor_std) == (0, 0)


@pytest.mark.parametrize("distance", [create(name) for name in available()])
@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), ValueError, r"shape \(3,\) and y of shape \(2,\)"),
        (torch.zeros(4, 1), torch.zeros(4), ValueError, "event shapes must be equal"),
        (torch.zeros(0, 3), torch.zeros(4, 3), ValueError, r"x holds 0 example\(s\)"),
        (torch.zeros(4, 3), torch.zeros(1, 3), ValueError, r"y holds 1 example\(s\)"),
        (torch.zeros(4, 0), torch.zeros(4, 0), ValueError, "holds no numbers"),
        (
            torch.zeros(4),
            torch.tensor([0, 0, math.nan]),
            ValueError,
            "y holds numbers that are not",
        ),
        (torch.tensor([0, -math.inf]), torch.zeros(4), ValueError, "x holds numbers that are not"),
        (torch.zeros(4, 3).long(), torch.zeros(4, 3), TypeError, r"x must be .*x\.float\(\)"),
        (torch.zeros(4, 3), [[0.0]], TypeError, "y must be .*list"),
        (torch.tensor(1.0), torch.zeros(4), ValueError, "x must have shape"),
    ],
)
def test_bad_sets_are_refused(distance, x, y, error, words):
    with pytest.raises(error, match=words):
        distance(x, y)


def test_bad_comparisons_are_refused():
    x = normals(8, 2)
    with pytest.raises(ValueError, match="need at least 4"):
        compare(x, x[:3])
    with pytest.raises(ValueError, match="unknown distance 'fid'"):
        compare(x, x, ["fid"])
    with pytest.raises(ValueError, match="size=1 "):
        noise_floor("energy", x, size=1)
    with pytest.raises(ValueError, match="repeats=1 "):
        noise_floor("energy", x, size=4, repeats=1)
