"""Sliced Wasserstein distance against closed forms, brute force and a linear program."""

import math

import numpy as np
import pytest
import torch

from sde_score.evaluation import sliced_wasserstein2


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_two_normals_on_a_line_have_the_closed_form():
    """W2^2 = (m1 - m2)^2 + (s1 - s2)^2, exact for one set of points with mean 0 and variance 1."""
    z = normals(50, 1)
    z = (z - z.mean()) / z.std(correction=0)
    x, y = 0.3 + 2.0 * z, -1.2 + 0.5 * z
    expected = math.sqrt(1.5**2 + 1.5**2)
    assert sliced_wasserstein2(x[torch.randperm(50)], y, projections=3) == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 9), (7, 4), (5, 15), (2, 11)])
def test_sets_of_different_size_equal_transport_between_their_copies(n, m):
    """m copies of each x and n of each y have the same distributions: sort and pair those."""
    x, y = normals(n, seed=1).numpy(), normals(m, seed=2).numpy()
    gaps = np.sort(np.repeat(x, m)) - np.sort(np.repeat(y, n))
    expected = math.sqrt(np.mean(gaps**2))
    got = sliced_wasserstein2(torch.from_numpy(x), torch.from_numpy(y), projections=2)
    assert got == pytest.approx(expected, rel=1e-12)


def test_shift_in_many_dimensions_is_its_length_over_the_root_of_the_dimension():
    """E (u.d)^2 = |d|^2 / D; one direction has relative variance 2 (D - 1) / (D + 2)."""
    x, shift, projections = normals(4, 6, seed=3), normals(6, seed=4), 20_000
    expected = float(shift.square().sum()) / 6
    error = expected * math.sqrt(2 * 5 / 8 / projections)
    assert sliced_wasserstein2(x, x + shift, projections) ** 2 == pytest.approx(
        expected, abs=4 * error
    )


def test_scaling_an_isotropic_distribution_matches_its_closed_form():
    """N(0, I) against N(0, 9 I): projections are N(0, 1) against N(0, 9), at a distance of 2."""
    x, y = normals(20_000, 5, seed=5), 3 * normals(20_000, 5, seed=6)
    assert sliced_wasserstein2(x, y, projections=32) == pytest.approx(2.0, rel=0.01)


def test_agrees_with_optimal_transport_as_a_linear_program():
    """All couplings of the two sets are searched, on each of the distance's own directions."""
    from scipy.optimize import linprog
    from scipy.sparse import kron, vstack

    from sde_score.evaluation.metrics.sliced_wasserstein import _directions

    x, y = normals(14, 7, seed=7), 0.5 + normals(9, 7, seed=8)
    marginals = vstack([kron(np.eye(14), np.ones(9)), kron(np.ones(14), np.eye(9))])
    masses = np.repeat([1 / 14, 1 / 9], [14, 9])
    costs = []
    for direction in _directions(range(12), 7, seed=9):
        gaps = (x @ direction)[:, None] - (y @ direction)[None]
        costs.append(linprog(gaps.square().ravel().numpy(), A_eq=marginals, b_eq=masses).fun)
    assert sliced_wasserstein2(x, y, 12, seed=9) == pytest.approx(np.mean(costs) ** 0.5, rel=1e-9)


def test_is_a_function_of_the_sets_alone():
    """Order, event shape, float32 storage and a common shift change nothing; x and y may swap."""
    x, y = normals(20, 12, seed=10), 1 + 2 * normals(15, 12, seed=11)
    value = sliced_wasserstein2(x, y)
    same = pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein2(y, x) == same
    assert sliced_wasserstein2(x.flip(0), y.roll(4, 0)) == same
    assert sliced_wasserstein2(x.reshape(20, 3, 2, 2), y.reshape(15, 3, 2, 2)) == same
    assert sliced_wasserstein2(x + 7, y + 7) == pytest.approx(value, rel=1e-11)
    assert sliced_wasserstein2(-3 * x, -3 * y) == pytest.approx(3 * value, rel=1e-12)
    assert sliced_wasserstein2(x.float(), y.float()) == sliced_wasserstein2(
        x.float().double(), y.float().double()
    )
    assert sliced_wasserstein2(x, x.flip(0)) < 1e-12


def test_seed_names_the_directions_and_blocks_do_not_matter(monkeypatch):
    x, y = normals(9, 5, seed=12), 1 + normals(8, 5, seed=13)
    value = sliced_wasserstein2(x, y, projections=10)
    assert sliced_wasserstein2(x, y, projections=10, seed=1) != value
    for module in ("_sets", "sliced_wasserstein"):
        monkeypatch.setattr(f"sde_score.evaluation.metrics.{module}.BLOCK_NUMBERS", 27)
    assert sliced_wasserstein2(x, y, projections=10) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("projections", [0, 2.5, True])
def test_number_of_directions_is_a_whole_number(projections):
    x = normals(4, 2)
    with pytest.raises(ValueError, match="projections"):
        sliced_wasserstein2(x, x, projections)
