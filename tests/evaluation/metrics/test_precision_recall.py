"""Counts of nearest neighbors against brute force, a lattice, and their expectations."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from sde_score.evaluation import NeighborScores, neighbor_scores


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_hand(samples, data, k):
    """The definitions by brute force; column 0 of a sorted row is the example itself."""
    samples, data = (z.flatten(1).numpy() for z in (samples, data))
    radius = np.sort(cdist(data, data), axis=1)[:, k]
    sample_radius = np.sort(cdist(samples, samples), axis=1)[:, k]
    between = cdist(samples, data)
    inside = between <= radius
    return NeighborScores(
        precision=inside.any(1).mean(),
        recall=(between <= sample_radius[:, None]).any(0).mean(),
        density=inside.sum() / (k * len(samples)),
        coverage=inside.any(0).mean(),
        k=k,
    )


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(("m", "n"), [(40, 40), (13, 60), (60, 6)])
def test_scores_are_their_definitions(k, m, n):
    samples, data = 0.6 + 0.7 * normals(m, 3, seed=1), normals(n, 3, seed=2)
    assert neighbor_scores(samples, data, k) == by_hand(samples, data, k)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_blocks_do_not_matter(monkeypatch, size):
    samples, data = 0.5 + normals(23, 2, 2, seed=3), normals(31, 2, 2, seed=4)
    monkeypatch.setattr("sde_score.evaluation.metrics._sets._BLOCK_EXAMPLES", size)
    assert neighbor_scores(samples, data, 4) == by_hand(samples, data, 4)
    far = neighbor_scores(samples + 1e5, data + 1e5, 4)
    assert far == by_hand(samples, data, 4)


def test_balls_are_closed():
    """Data 0 ... 9, radius 1: the sample 10 lies on the edge of the last ball, 0 on that of 10."""
    data, samples = torch.arange(10.0)[:, None], torch.tensor([[10.0], [20.0]])
    assert neighbor_scores(samples, data, k=1) == NeighborScores(
        precision=0.5, recall=1.0, density=0.5, coverage=0.1, k=1
    )


@pytest.mark.parametrize("k", [1, 3])
def test_copies_of_the_data_lie_in_their_own_ball_and_in_those_of_k_more(k):
    """Every ball holds its center and k neighbors, the last on its very edge."""
    data = normals(200, 5, seed=5).float() + 100
    scores = neighbor_scores(data.clone().roll(7, 0), data, k)
    assert scores == NeighborScores(
        precision=1.0, recall=1.0, density=(k + 1) / k, coverage=1.0, k=k
    )


@pytest.mark.parametrize(("n", "m", "k"), [(30, 20, 1), (20, 30, 3)])
def test_perfect_samples_have_the_expected_density_and_coverage(n, m, k):
    """A ball is missed if the k nearest of N - 1 data and M samples around it are all data."""
    missed = math.comb(n - 1, k) / math.comb(n + m - 1, k)
    scores = [
        neighbor_scores(normals(m, 3, seed=2 * r), normals(n, 3, seed=2 * r + 1), k)
        for r in range(600)
    ]
    for values, expected in (
        ([s.coverage for s in scores], 1 - missed),
        ([s.density for s in scores], 1.0),
    ):
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert np.mean(values) == pytest.approx(expected, abs=4 * error)
        assert error < 0.015


def test_lost_modes_cost_recall_and_coverage_and_strays_cost_precision_and_density():
    data = torch.cat([normals(100, 2, seed=6) - 20, normals(100, 2, seed=7) + 20])
    one_mode = neighbor_scores(normals(100, 2, seed=8) - 20, data)
    assert one_mode.precision > 0.9
    assert one_mode.recall < 0.55
    assert one_mode.coverage < 0.55
    strays = neighbor_scores(
        torch.cat([data + 0.1 * normals(200, 2, seed=9), 200 + normals(200, 2, seed=10)]), data
    )
    assert strays.recall == strays.coverage == 1
    assert strays.precision < 0.55
    assert strays.density < 0.65


def test_bad_arguments_are_refused():
    x = normals(6, 2)
    with pytest.raises(ValueError, match="k=6 neighbors need more than 6 examples"):
        neighbor_scores(normals(9, 2), x, 6)
    with pytest.raises(ValueError, match="got 3 samples and 9 data"):
        neighbor_scores(normals(3, 2), normals(9, 2), 3)
    with pytest.raises(ValueError, match="k=0"):
        neighbor_scores(x, x, 0)
    with pytest.raises(ValueError, match="event shapes must be equal"):
        neighbor_scores(x, normals(6, 3))
