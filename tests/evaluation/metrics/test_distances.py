"""Distances by name, and two sets compared by hand."""

import math

import pytest
import torch

from sde_score.evaluation import (
    DISTANCES,
    DistanceEstimator,
    available,
    create,
    distances,
    energy_distance,
    frechet,
    kernel_distance,
    maximum_mean_discrepancy,
    neighbor_scores,
    register,
    sliced_wasserstein2,
)


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_names_stand_for_the_functions():
    x, y = normals(9, 3, seed=1), 1 + normals(8, 3, seed=2)
    names = ["sliced-wasserstein2", "mmd2", "energy", "frechet", "kernel"]
    names += ["precision-gap", "recall-gap", "density-gap", "coverage-gap"]
    assert available() == list(DISTANCES)
    assert [name for name in available() if name in names] == names
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


def test_distances_by_hand_tell_perfect_samples_from_shifted_ones():
    train, held_out = normals(1200, 2, 2, seed=5), normals(300, 2, 2, seed=8)
    perfect = distances(normals(400, 2, 2, seed=6), held_out, train=train)
    shifted = distances(0.5 + normals(400, 2, 2, seed=7), held_out, train=train)
    assert list(perfect) == ["sliced-wasserstein2", "mmd2", "energy"]
    for name, good in perfect.items():
        assert abs(good.distance.value - good.floor.value) < 3 * good.floor.margin
        assert shifted[name].distance.low > good.floor.high
        assert shifted[name].floor == good.floor


def test_distances_by_hand_are_those_of_the_estimator():
    x, held_out, train = normals(40, 2, seed=1), normals(30, 2, seed=2), normals(50, 2, seed=3)
    estimator = DistanceEstimator(train, held_out, 40, ["energy"])
    found = distances(x, held_out, ["energy"], train=train)["energy"]
    assert (found.distance,) == estimator(x)
    assert (found.floor,) == estimator.floors
    without = distances(x, held_out, ["energy"])["energy"]
    assert without.floor is None
    assert without.distance == found.distance  # 40 samples are halved either way


def test_value_is_the_distance_between_the_samples_and_the_data():
    """With one constant in the samples and another in the data the energy distance is known."""
    samples, data = torch.full((6, 1), 2.0), torch.full((12, 1), 5.0)
    found = distances(samples, data, ["energy"], train=data)["energy"]
    assert (found.distance.value, found.distance.standard_error) == (2 * 3.0, 0)
    assert (found.floor.value, found.floor.standard_error) == (0, 0)


@pytest.mark.parametrize("share", ["precision", "recall", "density", "coverage"])
def test_shares_of_neighbors_are_distances(share):
    x, y = 0.4 + normals(40, 2, seed=1) / 2, normals(30, 2, seed=2)
    want = 1 - getattr(neighbor_scores(x, y, 3), share)
    measure = create(f"{share}(k=3)")
    assert measure(x, y) == want
    assert measure.name == f"{share}-gap[pixels]"


def test_a_function_of_yours_is_measured_by_its_name(restored):
    restored(DISTANCES)

    def gap(x, y):
        return float((x.mean() - y.mean()).abs())

    assert register("mine", gap) is gap
    register("mine", gap)  # the same again, as in a notebook
    assert "mine" in available()
    x, y = normals(8, 2, seed=1), 1 + normals(9, 2, seed=2)
    assert create("mine")(x, y) == gap(x, y)
    assert list(distances(x, y, ["Mine", gap])) == ["mine", "gap"]
    with pytest.raises(ValueError, match="'mine' exists already"):
        register("mine", lambda x, y: 0.0)
    with pytest.raises(TypeError, match="must be a function"):
        register("other", 3)


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
        distances(x, x, train=x[:3])
    with pytest.raises(ValueError, match="unknown distance 'fid'"):
        distances(x, x, ["fid"])
    with pytest.raises(ValueError, match="count=3 "):
        distances(x[:3], x)
    with pytest.raises(ValueError, match="train=None"):
        _ = DistanceEstimator(None, x, 8).floors
