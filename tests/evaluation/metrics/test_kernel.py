"""The cubic kernel distance against brute force, its moments, and its mean over many sets."""

import math

import numpy as np
import pytest
import torch

from sde_score.evaluation import kernel_distance


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_hand(x, y):
    """The formula by brute force, in numpy."""

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    x, y = (z.flatten(1).numpy() for z in (x, y))
    return within(x) + within(y) - 2 * kernel(x, y).mean()


@pytest.mark.parametrize("event", [(1,), (5,), (2, 3)])
def test_distance_is_its_formula(event):
    x, y = normals(11, *event, seed=1), 0.5 + 1.5 * normals(8, *event, seed=2)
    assert kernel_distance(x, y) == pytest.approx(by_hand(x, y), rel=1e-11)
    assert kernel_distance(y, x) == pytest.approx(by_hand(x, y), rel=1e-11)


def repeated(draw, repeats):
    values = np.array([draw(2 * r) for r in range(repeats)])
    return values.mean(), values.std(ddof=1) / math.sqrt(repeats)


def test_mean_is_the_distance_of_the_moments():
    """On a line the distance is d3^2 + 3 d2^2 + 3 d1^2, with d_i the difference of i-th moments."""
    m, s = 0.7, 1.3
    d1, d2, d3 = m, m**2 + s**2 - 1, m**3 + 3 * m * s**2
    mean, error = repeated(
        lambda r: kernel_distance(normals(300, 1, seed=r), m + s * normals(200, 1, seed=r + 1)),
        repeats=200,
    )
    expected = d3**2 + 3 * d2**2 + 3 * d1**2
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < 0.03 * expected


def test_two_sets_of_one_distribution_score_zero_on_average():
    """Unbiased: counting an example's pair with itself would add 3.4 to the mean."""
    mean, error = repeated(
        lambda r: kernel_distance(normals(7, 2, seed=r), normals(9, 2, seed=r + 1)),
        repeats=2000,
    )
    assert abs(mean) < 4 * error
    assert error < 0.2


def test_is_a_function_of_the_sets_alone(monkeypatch):
    x, y = normals(20, 6, seed=3), 0.5 + normals(17, 6, seed=4)
    value = kernel_distance(x, y)
    rotation = torch.linalg.qr(normals(6, 6, seed=5)).Q
    same = pytest.approx(value, rel=1e-10)
    assert kernel_distance(x.flip(0), y.roll(4, 0)) == same
    assert kernel_distance(x @ rotation, y @ rotation) == same
    assert kernel_distance(x + 1, y + 1) != pytest.approx(value, rel=0.01)
    narrow = x.float(), y.float()
    assert kernel_distance(*narrow) == kernel_distance(*(a.double() for a in narrow))
    monkeypatch.setattr("sde_score.evaluation.metrics._sets._BLOCK_EXAMPLES", 5)
    assert kernel_distance(x, y) == same
