"""Fréchet distance against closed forms and scipy; its statistics against numpy; their files."""

import io
import math
import os

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from sde_score.data import DataError
from sde_score.evaluation import (
    FeatureStatistics,
    create,
    create_extractor,
    extract,
    frechet,
    frechet_distance,
)


def normals(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def covariance(size, seed, rank=None):
    root = normals(size, rank or size, seed=seed)
    return root @ root.T


@pytest.fixture
def moments(tmp_path):
    """Statistics of a given mean and covariance, by way of a file as others write it."""

    def make(mean, covariance):
        path = tmp_path / "foreign.npz"
        np.savez(path, mu=np.asarray(mean), sigma=np.asarray(covariance))
        return FeatureStatistics.load(path)

    return make


def by_scipy(mean_a, a, mean_b, b):
    """The formula as it is printed, with the root of the product."""
    shift = float((mean_a - mean_b).square().sum())
    a, b = a.numpy(), b.numpy()
    return shift + float(np.trace(a + b - 2 * sqrtm(a @ b).real))


def test_commuting_covariances_have_the_closed_form(moments):
    """Diagonal covariances: |shift|^2 + the sum of (sqrt a - sqrt b)^2."""
    a = moments([1.0, -2.0, 0.5], np.diag([4.0, 9.0, 0.25]))
    b = moments([0.0, 1.0, 0.5], np.diag([1.0, 16.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx(1 + 9 + 1 + 1 + 0.25, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_any_covariances_agree_with_the_root_of_their_product(moments, size):
    mean_a, mean_b = normals(size, seed=1), normals(size, seed=2)
    a, b = covariance(size, 3), 2 * covariance(size, 4)
    got = frechet_distance(moments(mean_a, a), moments(mean_b, b))
    assert got == pytest.approx(by_scipy(mean_a, a, mean_b, b), rel=1e-8)


def test_covariances_of_rank_one_overlap_by_the_product_of_their_directions(moments):
    """Covariances u u^T and v v^T in 50 dimensions: tr root = |u.v|, to rounding, not its root."""
    u, v = normals(50, seed=5), normals(50, seed=6)
    a, b = moments(0 * u, torch.outer(u, u)), moments(0 * u, torch.outer(v, v))
    expected = float(u @ u + v @ v - 2 * (u @ v).abs())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_distance_from_itself_is_zero_and_a_shift_is_its_square(moments, rank):
    spread = covariance(12, 7, rank) if rank else torch.zeros(12, 12)
    mean, shift = normals(12, seed=8), normals(12, seed=9)
    here, there = moments(mean, spread), moments(mean + shift, spread)
    assert frechet_distance(here, here) == pytest.approx(0, abs=1e-11)
    assert frechet_distance(here, there) == pytest.approx(float(shift @ shift), rel=1e-11)
    assert frechet_distance(there, here) == pytest.approx(float(shift @ shift), rel=1e-11)


def test_it_never_falls_below_zero(moments):
    values = []
    for seed in range(30):
        a = moments(torch.zeros(8), covariance(8, seed, rank=1 + seed % 8))
        values.append(frechet_distance(a, a))
    assert min(values) >= 0


@pytest.mark.parametrize(("n", "m"), [(30, 25), (30, 4), (4, 30), (5, 4), (6, 7), (7, 6)])
def test_sets_are_measured_by_their_unbiased_moments(n, m):
    """Six features, more and fewer examples than that; numpy divides by n - 1 as well."""
    x, y = 2 * normals(n, 6, seed=10), 1 + normals(m, 6, seed=11)
    a, b = (torch.as_tensor(np.cov(z.numpy().T)) for z in (x, y))
    expected = by_scipy(x.mean(0), a, y.mean(0), b)
    assert frechet(x, y) == pytest.approx(expected, rel=1e-6)
    by_statistics = frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(y))
    assert frechet(x, y) == pytest.approx(by_statistics, rel=1e-11)
    assert frechet(x.reshape(n, 1, 2, 3), y.reshape(m, 1, 2, 3)) == frechet(x, y)
    assert frechet(3 * x, 3 * y) == pytest.approx(9 * frechet(x, y), rel=1e-11)


def test_two_pairs_of_points_have_the_closed_form():
    """Two points p +- d have covariance 2 d d^T, of the divisor n - 1 = 1."""
    x, y = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]), torch.tensor([[3.0, 4, 7], [-3.0, -4, 7]])
    assert frechet(x, y) == pytest.approx(49 + 2 + 2 * 25 - 2 * 2 * 3, rel=1e-12)


def test_distance_of_large_samples_is_that_of_their_distributions():
    """N(0, I) and N(1, 4 I) in 3 dimensions: 3 + 3 (2 - 1)^2."""
    x, y = normals(8000, 3, seed=12), 1 + 2 * normals(8000, 3, seed=13)
    assert frechet(x, y) == pytest.approx(6, rel=0.04)


@pytest.mark.parametrize("offset", [0, 1e7])
def test_statistics_gathered_in_blocks_are_those_of_the_whole(offset):
    x = offset + normals(101, 4, seed=14) * torch.tensor([1.0, 2, 3, 0])
    statistics = FeatureStatistics(4)
    for block in x.split([1, 50, 2, 48]):
        statistics.update(block)
    first, second = FeatureStatistics.of(x[:1]), FeatureStatistics.of(x[1:])
    first.merge(second)
    first.merge(FeatureStatistics(4))
    for got in (statistics, first, FeatureStatistics.of(x), FeatureStatistics.of(x, batch_size=7)):
        assert got.count == 101
        np.testing.assert_allclose(got.mean, x.numpy().mean(0), rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(
            got.covariance, np.cov(x.numpy().T), atol=1e-13 if not offset else 1e-8
        )


def test_merging_leaves_the_other_as_it_was():
    a, b = (
        FeatureStatistics.of(normals(9, 2, seed=15)),
        FeatureStatistics.of(normals(8, 2, seed=16)),
    )
    mean, spread = b.mean.clone(), b.covariance.clone()
    b_before = FeatureStatistics(2)
    b_before.merge(b)
    b_before.merge(a)
    a.merge(b)
    assert (b.count, a.count) == (8, 17)
    assert torch.equal(b.mean, mean)
    assert torch.equal(b.covariance, spread)


def test_nothing_merged_with_nothing_is_nothing():
    empty = FeatureStatistics(2)
    empty.merge(FeatureStatistics(2))
    empty.update(torch.zeros(0, 2))
    assert empty.count == 0
    assert empty.mean.tolist() == [0, 0]
    empty.update(torch.tensor([[1.0, 2], [3.0, 2]]))
    assert empty.covariance.tolist() == [[2, 0], [0, 0]]


def test_internal_blocks_do_not_matter(monkeypatch):
    x = normals(23, 3, seed=17)
    whole = FeatureStatistics.of(x)
    monkeypatch.setattr("sde_score.evaluation.metrics._sets._BLOCK_EXAMPLES", 5)
    torch.testing.assert_close(FeatureStatistics.of(x).covariance, whole.covariance)


def test_half_precision_features_are_gathered_in_float64():
    """The sum of squares is beyond float16, whose largest number is 65504."""
    x = (1000 + 9 * normals(200, 2, seed=18)).half()
    got = FeatureStatistics.of(x)
    np.testing.assert_allclose(got.covariance, np.cov(x.double().numpy().T), rtol=1e-12)
    y = (1100 + 9 * normals(100, 2, seed=18)).half()
    assert frechet(x, y) == pytest.approx(frechet(x.double(), y.double()), rel=1e-12)
    assert frechet(x[:2], y[:2]) == frechet(x[:2].double(), y[:2].double())


def test_bad_statistics_are_refused():
    statistics = FeatureStatistics(3)
    with pytest.raises(ValueError, match="0 example"):
        _ = statistics.covariance
    statistics.update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="1 example"):
        _ = statistics.covariance
    with pytest.raises(ValueError, match=r"\(2, 4\) do not fit: accepted is \(n, 3\)"):
        statistics.update(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="do not fit"):
        statistics.update(torch.zeros(3))
    with pytest.raises(TypeError, match=r"features\.float"):
        statistics.update(torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="not finite"):
        statistics.update(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="other has 4 features, these are 3"):
        statistics.merge(FeatureStatistics(4))
    with pytest.raises(ValueError, match="a has 3 features and b has 4"):
        frechet_distance(statistics, FeatureStatistics(4))
    with pytest.raises(ValueError, match="features=0"):
        FeatureStatistics(0)
    with pytest.raises(ValueError, match="no examples"):
        FeatureStatistics.of(torch.zeros(0, 3))


def test_file_gives_back_the_same_statistics_and_they_can_grow(tmp_path):
    x = normals(60, 3, seed=19)
    path = tmp_path / "half.npz"
    FeatureStatistics.of(x[:25]).save(path)
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["mu"], FeatureStatistics.of(x[:25]).mean)
        np.testing.assert_allclose(stored["sigma"], np.cov(x[:25].numpy().T), rtol=1e-12)
    loaded = FeatureStatistics.load(path)
    assert loaded.count == 25
    loaded.update(x[25:])
    torch.testing.assert_close(loaded.covariance, FeatureStatistics.of(x).covariance)
    assert [p.name for p in tmp_path.iterdir()] == ["half.npz"]


def test_foreign_file_without_a_count_measures_but_does_not_grow(moments):
    foreign, ours = moments([0.0, 0], np.eye(2)), FeatureStatistics.of(normals(9, 2))
    assert foreign.count is None
    torch.testing.assert_close(foreign.covariance, torch.eye(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="without a count"):
        ours.merge(foreign)
    with pytest.raises(ValueError, match="no count"):
        foreign.merge(ours)
    with pytest.raises(ValueError, match="no count"):
        foreign.update(normals(3, 2))


def test_foreign_statistics_can_be_saved_again(moments, tmp_path):
    moments([1.0, 2], np.diag([3.0, 4])).save(tmp_path / "again.npz")
    again = FeatureStatistics.load(tmp_path / "again.npz")
    assert again.count is None
    assert again.covariance.tolist() == [[3, 0], [0, 4]]


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "kept.npz"
    FeatureStatistics.of(normals(5, 2)).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="at least 2"):
        FeatureStatistics.of(normals(1, 2)).save(path)
    assert path.read_bytes() == before


def test_a_disk_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "kept.npz"
    FeatureStatistics.of(normals(5, 2)).save(path)
    before = path.read_bytes()

    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr("sde_score._core.files.sync", fail)
    with pytest.raises(OSError, match="disk full"):
        FeatureStatistics.of(normals(6, 2)).save(path)
    assert path.read_bytes() == before


def packed(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


GOOD = packed(mu=np.zeros(2), sigma=np.eye(2), count=np.asarray(9))
PICKLE = packed(mu=np.array([{}, {}], dtype=object), sigma=np.eye(2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"\x93NUMPY", "cannot be read"),
        (GOOD[: len(GOOD) // 2], "cannot be read"),
        (GOOD.replace(b"NUMPY", b"NUMPZ"), "cannot be read"),
        (PICKLE, "cannot be read"),
        (packed(mu=np.zeros(2)), "cannot be read.*sigma"),
        (packed(mu=np.zeros((2, 1)), sigma=np.eye(2)), "are not a mean"),
        (packed(mu=np.zeros(3), sigma=np.eye(2)), r"mu of shape \(3,\)"),
        (packed(mu=np.zeros(0), sigma=np.zeros((0, 0))), "are not a mean"),
        (packed(mu=np.array([0, np.nan]), sigma=np.eye(2)), "not finite"),
        (packed(mu=np.zeros(2), sigma=np.diag([1, np.inf])), "not finite"),
        (packed(mu=np.zeros(2), sigma=np.array([[1.0, 0.1], [0, 1]])), "symmetric"),
        (packed(mu=np.zeros(2), sigma=np.diag([1.0, -1])), "diagonal"),
        (packed(mu=np.zeros(2), sigma=np.eye(2), count=np.asarray(1)), "count=1"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, content, words):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"damaged.npz: .*{words}"):
        FeatureStatistics.load(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    trap, path = tmp_path / "sprung", tmp_path / "hostile.npz"
    mu = np.array([Trap(trap), 0.0], dtype=object)
    path.write_bytes(packed(mu=mu, sigma=np.eye(2)))
    with pytest.raises(DataError, match="cannot be read"):
        FeatureStatistics.load(path)
    assert not trap.exists()


def test_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FeatureStatistics.load(tmp_path / "nowhere.npz")


def halved(x):
    return x.flatten(1)[:, ::2]


def test_distance_through_an_extractor_is_named_by_it():
    x, y = normals(9, 2, 4, seed=20), 1 + normals(8, 2, 4, seed=21)
    through = create("frechet(extractor='random-convolution(seed=3)')")
    assert through.name == "frechet[random-convolution(seed=3)]"
    assert create("kernel").name == "kernel[pixels]"
    mine = create("frechet", extractor=halved)
    assert mine.name == "frechet[halved]"
    assert mine(x, y) == pytest.approx(frechet(halved(x), halved(y)), rel=1e-12)
    images = normals(20, 1, 6, 6, seed=22), normals(20, 1, 6, 6, seed=23)
    source = create_extractor("random-convolution(seed=3)")
    expected = frechet(*(extract(images_of, source) for images_of in images))
    assert through(*images) == pytest.approx(expected, rel=1e-9)
    statistics = [FeatureStatistics.of(images_of, source) for images_of in images]
    assert frechet_distance(*statistics) == pytest.approx(expected, rel=1e-9)
