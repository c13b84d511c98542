"""Energy distance and maximum mean discrepancy against closed forms, brute force and scipy."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from sde_score.evaluation import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.metrics._sets import BLOCK_NUMBERS, blocks


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def unbiased(kernel, x, y):
    """The formula by brute force: loops over pairs, in numpy."""
    xx, yy, xy = kernel(cdist(x, x)), kernel(cdist(y, y)), kernel(cdist(x, y))
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return sum(within) - 2 * xy.mean()


def repeated(distance, draw_x, draw_y, repeats):
    """Mean of a distance over independent pairs of sets, and the standard error of that mean."""
    values = np.array([distance(draw_x(2 * r), draw_y(2 * r + 1)) for r in range(repeats)])
    return values.mean(), values.std(ddof=1) / math.sqrt(repeats)


def test_energy_distance_is_its_formula():
    x, y = normals(11, 3, seed=1), 0.4 + 1.5 * normals(8, 3, seed=2)
    expected = unbiased(lambda distance: -distance, x.numpy(), y.numpy())
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_on_a_line_is_scipys_with_its_bias_taken_away():
    """Scipy averages over all pairs, an example with itself among them, and takes the root."""
    x, y = normals(30, seed=3), 0.7 + normals(20, seed=4)
    biased = stats.energy_distance(x.numpy(), y.numpy()) ** 2
    within = [float((a[:, None] - a).abs().mean()) / (len(a) - 1) for a in (x, y)]
    assert energy_distance(x, y) == pytest.approx(biased - sum(within), rel=1e-10)


def test_energy_distance_of_two_normals_has_the_closed_form():
    """X - Y is normal, and E|N(m, s^2)| is the mean of a folded normal."""
    expected = 2 * stats.foldnorm(1.2 / math.sqrt(5), scale=math.sqrt(5)).mean() - 2 * math.sqrt(
        2
    ) / math.sqrt(2 * math.pi) * (1 + 2)
    mean, error = repeated(
        energy_distance,
        lambda seed: normals(400, 1, seed=seed),
        lambda seed: 1.2 + 2 * normals(300, 1, seed=seed),
        repeats=60,
    )
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < 0.03 * expected


def test_discrepancy_is_its_formula_at_given_bandwidths():
    x, y = normals(11, 3, seed=5), 0.4 + 1.5 * normals(8, 3, seed=6)

    def kernel(distance):
        return (np.exp(-(distance**2) / (2 * 0.7**2)) + np.exp(-(distance**2) / (2 * 2.5**2))) / 2

    got = maximum_mean_discrepancy(x, y, bandwidths=(0.7, 2.5))
    assert got == pytest.approx(unbiased(kernel, x.numpy(), y.numpy()), rel=1e-10)


def test_bandwidths_are_multiples_of_the_median_distance_of_the_reference():
    """15 pairs in y: the median is one of them. The samples x must not matter."""
    x, y = 5 * normals(9, 2, seed=7), normals(6, 2, seed=8)
    median = float(np.median(cdist(y, y)[np.triu_indices(6, 1)]))
    given = [factor * median for factor in (0.25, 0.5, 1, 2, 4)]
    assert maximum_mean_discrepancy(x, y) == pytest.approx(
        maximum_mean_discrepancy(x, y, given), rel=1e-12
    )
    assert maximum_mean_discrepancy(y, x) != pytest.approx(maximum_mean_discrepancy(x, y), rel=0.01)


def test_median_of_a_large_reference_is_that_of_its_distribution():
    """Above 1000 examples the median is of a subset: for N(0, I_4), |a - b|^2 / 2 ~ chi2(4)."""
    x, y = 1 + normals(50, 4, seed=9), normals(3000, 4, seed=10)
    median = math.sqrt(2 * stats.chi2(4).median())
    given = [factor * median for factor in (0.25, 0.5, 1, 2, 4)]
    assert maximum_mean_discrepancy(x, y) == pytest.approx(
        maximum_mean_discrepancy(x, y, given), rel=0.02
    )


def test_discrepancy_of_two_normals_has_the_closed_form():
    """E k(X, Y) = (h^2 / v)^(D/2) exp(-|m|^2 / 2 v) with v = h^2 + the variance of X - Y."""
    h, scale, shift, dims = 1.5, 2.0, 0.8, 3

    def expected_kernel(variance, distance_squared):
        v = h**2 + variance
        return (h**2 / v) ** (dims / 2) * math.exp(-distance_squared / (2 * v))

    expected = (
        expected_kernel(2, 0)
        + expected_kernel(2 * scale**2, 0)
        - 2 * expected_kernel(1 + scale**2, dims * shift**2)
    )
    mean, error = repeated(
        lambda x, y: maximum_mean_discrepancy(x, y, bandwidths=[h]),
        lambda seed: normals(300, dims, seed=seed),
        lambda seed: shift + scale * normals(400, dims, seed=seed),
        repeats=60,
    )
    assert mean == pytest.approx(expected, abs=4 * error)
    assert error < 0.02 * expected


@pytest.mark.parametrize("distance", [energy_distance, maximum_mean_discrepancy])
def test_two_sets_of_one_distribution_score_zero_on_average(distance):
    """Unbiased: with 7 and 9 examples, counting self pairs would add over 0.2 to the mean."""
    mean, error = repeated(
        distance,
        lambda seed: normals(7, 2, seed=seed),
        lambda seed: normals(9, 2, seed=seed),
        repeats=600,
    )
    assert abs(mean) < 4 * error
    assert error < 0.02


@pytest.mark.parametrize("distance", [energy_distance, maximum_mean_discrepancy])
def test_is_a_function_of_the_sets_alone(distance):
    """Order, event shape, storage, a common shift and a common rotation change nothing."""
    x, y = normals(20, 12, seed=11), 0.5 + 1.5 * normals(15, 12, seed=12)
    value = distance(x, y)
    rotation = torch.linalg.qr(normals(12, 12, seed=13)).Q
    same = pytest.approx(value, rel=1e-10)
    assert distance(x.flip(0), y.roll(4, 0)) == same
    assert distance(x.reshape(20, 3, 2, 2), y.reshape(15, 3, 2, 2)) == same
    assert distance(x @ rotation, y @ rotation) == same
    assert distance(x + 1e6, y + 1e6) == pytest.approx(value, rel=1e-6)
    scaled = 3 * value if distance is energy_distance else value
    assert distance(3 * x, 3 * y) == pytest.approx(scaled, rel=1e-10)
    narrow = x.float(), y.float()
    assert distance(*narrow) == distance(*(a.double() for a in narrow))


@pytest.mark.parametrize("distance", [energy_distance, maximum_mean_discrepancy])
def test_blocks_do_not_matter(distance, monkeypatch):
    x, y = normals(23, 3, seed=14), 1 + normals(17, 3, seed=15)
    value = distance(x, y)
    monkeypatch.setattr("sde_score.evaluation.metrics._sets._BLOCK_EXAMPLES", 5)
    assert distance(x, y) == pytest.approx(value, rel=1e-12)
    monkeypatch.setattr("sde_score.evaluation.metrics._sets.BLOCK_NUMBERS", 12)
    assert distance(x, y) == pytest.approx(value, rel=1e-12)


MEMORY = """
import resource, torch
from sde_score.evaluation import energy_distance, sliced_wasserstein2
x, y = torch.randn(6000, 2), torch.randn(6000, 2)
energy_distance(x[:100], y[:100])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
energy_distance(x, y)
sliced_wasserstein2(x, y, projections=1500)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux only")
def test_memory_does_not_grow_with_the_number_of_pairs():
    """All pairs at once, or all 1500 projections with their sorts, would take over 0.8 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 450 * 1024


@pytest.mark.parametrize("bandwidths", [[], [1.0, 0.0], [-1.0], [math.nan], [math.inf]])
def test_bandwidths_are_positive_numbers(bandwidths):
    x = normals(4, 2)
    with pytest.raises(ValueError, match="bandwidths"):
        maximum_mean_discrepancy(x, x, bandwidths)


def test_reference_made_of_copies_has_no_median_distance():
    with pytest.raises(ValueError, match="give bandwidths, or remove copies"):
        maximum_mean_discrepancy(normals(4, 2), torch.ones(5, 2, dtype=torch.float64))


@pytest.mark.parametrize("distance", [energy_distance, maximum_mean_discrepancy])
def test_half_precision_sets_are_summed_in_float64(distance):
    """The sum over the set is beyond float16, whose largest number is 65504."""
    x, y = (
        (1000 + 9 * normals(200, 2, seed=16)).half(),
        (1005 + 9 * normals(100, 2, seed=17)).half(),
    )
    assert distance(x, y) == distance(x.double(), y.double())


@pytest.mark.parametrize(("count", "features"), [(5000, 3), (5000, 3 << 20), (4, 1 << 25), (1, 1)])
def test_blocks_cover_every_row_once_within_their_budget(count, features):
    """An expanded tensor holds one number, whatever its shape; a row is never cut."""
    x = torch.zeros(1, 1).expand(count, features)
    parts = blocks(x)
    assert torch.cat([torch.arange(count)[rows] for rows in parts]).equal(torch.arange(count))
    assert all(len(x[rows]) * features <= max(BLOCK_NUMBERS, features) for rows in parts)
