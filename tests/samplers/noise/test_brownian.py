"""The Brownian path: its distribution at every scale, what it depends on, and what it is for."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from scipy import stats

from sde_score.random import example_seeds
from sde_score.samplers import BrownianPath, EulerMaruyama
from sde_score.samplers.noise import brownian
from sde_score.sdes import EDM, VE, VP

SDE = EDM(0.05, 9.0)
DOUBLE = {"dtype": torch.float64}


def path(shape=(4, 3), seed=0, **given):
    return BrownianPath(SDE, shape, seed=seed, **DOUBLE, **given)


def unit(shape, seed=0):
    """A path over the clock from 0 to 1."""
    return path(shape, seed, span=(0.0, 1.0))


def change(of, a, b):
    """W(b) - W(a)."""
    return of.between(a, b) * math.sqrt(abs(b - a))


def test_the_clock_is_that_of_the_sde(sde):
    for t, end in ((sde.t_min, "low"), (sde.t_max, "high")):
        want = float(torch.log(sde.sigma(t) / sde.alpha(t)))
        assert getattr(BrownianPath(sde, (1, 1)), end) == pytest.approx(want, rel=1e-9)


def test_changes_over_adjacent_stretches_add():
    of = unit((5, 3))
    a, b, c = 0.123456, 0.5 + 1e-7, 0.876
    whole = change(of, a, c)
    torch.testing.assert_close(change(of, a, b) + change(of, b, c), whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(change(of, c, a), -whole, rtol=0, atol=1e-12)
    stops = torch.linspace(0, 1, 38, dtype=torch.float64).tolist()
    pieces = [change(of, *ends) for ends in pairwise(stops)]
    torch.testing.assert_close(sum(pieces), change(of, 0.0, 1.0), rtol=0, atol=1e-8)


def test_answers_do_not_depend_on_the_order_of_the_questions():
    asked = [(0.9, 0.2), (0.2, 0.1), (0.5, 0.25), (0.7, 0.30001), (1.0, 0.0), (0.25, 0.2)]
    forward, backward = unit((3, 2)), unit((3, 2))
    answers = [forward.between(*ends) for ends in asked]
    for ends, want in reversed(list(zip(asked, answers, strict=True))):
        assert torch.equal(backward.between(*ends), want)
        assert torch.equal(unit((3, 2)).between(*ends), want)


def test_each_example_has_its_own_time():
    """The same values as asked for all at once, in units of the clock."""
    of = path()
    clocks = torch.tensor([-2.5, 0.3, 2.0, -1.0], dtype=torch.float64)
    got = of.at(clocks, torch.arange(4))
    for i, clock in enumerate(clocks.tolist()):
        want = change(of, of.low, clock)[i]
        torch.testing.assert_close(got[i], want, rtol=1e-9, atol=1e-9)
    rows = torch.tensor([2, 0])
    assert torch.equal(of.at(clocks[rows], rows), got[rows])
    ends = torch.tensor([of.low - 1, of.low], dtype=torch.float64)
    assert torch.equal(of.at(ends, torch.arange(2)), torch.zeros(2, 3).double())


def test_example_i_depends_on_seed_and_i_alone():
    whole, draw = path((64, 2, 3), 11), path((64, 2, 3), 11)()
    for rows in ([0], list(range(7)), [40, 5], list(range(3, 50))):
        seeds = [example_seeds(11, 64)[i] for i in rows]
        part = path((len(rows), 2, 3), seeds)
        assert torch.equal(part(), draw[rows])
        assert torch.equal(part.between(1.3, 0.2), whole.between(1.3, 0.2)[rows])
    assert len(set(whole.between(1.3, 0.2).flatten().tolist())) == 64 * 6
    assert not torch.equal(path((64, 2, 3), 12).between(1.3, 0.2), whole.between(1.3, 0.2))
    assert not torch.equal(path(seed=None).between(1.3, 0.2), path(seed=None).between(1.3, 0.2))


def test_large_events_are_cut_into_parts_that_change_nothing(monkeypatch):
    want = [path((2, 40)).between(1.3, 0.2), path((2, 40))()]
    monkeypatch.setattr(brownian, "_CHUNK", 64)
    got = [path((2, 40)).between(1.3, 0.2), path((2, 40))()]
    assert torch.equal(torch.stack(got), torch.stack(want))


# Ends of stretches at all scales: halves, thirds, within one cell of the 12th, 20th and 28th level,
# and neighbors among the 2^32 points.
STRETCHES = [
    (0.0, 1.0),
    (0.0, 0.5),
    (0.25, 0.5),
    (0.3, 1 / 3),
    (0.1234, 0.9),
    (2**-12 * (5 + 0.1), 2**-12 * (5 + 0.7)),
    (2**-20 * (77777 + 0.4), 2**-20 * (77777 + 0.5)),
    (2**-28 * (1 + 0.25), 2**-28 * (1 + 0.8)),
    (0.5, 0.5 + 2**-32),
    (1 / 3, 1 / 3 + 3 * 2**-32),
]


@pytest.mark.parametrize("ends", STRETCHES, ids=str)
def test_a_change_is_standard_normal_at_every_scale(ends):
    draws = unit((200, 101), seed=5).between(*ends).flatten()
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert float(draws.mean()) == pytest.approx(0, abs=4 / math.sqrt(20200))
    assert float(draws.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 20200))
    assert float(draws.pow(4).mean()) == pytest.approx(3, abs=4 * math.sqrt(96 / 20200))


def correlations(columns):
    """Largest correlation off the diagonal, in standard errors."""
    rows = len(columns)
    found = columns.mT @ columns / rows - torch.eye(columns.shape[1]).double()
    found.fill_diagonal_(0)
    return float(found.abs().max()) * math.sqrt(rows)


@pytest.mark.parametrize("scale", [1.0, 2**-11, 2**-26])
@pytest.mark.parametrize("pieces", [7, 16])
def test_changes_over_separate_stretches_are_independent(scale, pieces):
    stops = (0.5 + scale * torch.linspace(0, 0.5, pieces + 1, dtype=torch.float64)).tolist()
    of = unit((150, 101), seed=2)
    draws = torch.stack([of.between(*ends).flatten() for ends in pairwise(stops)], 1)
    assert correlations(draws) < 4.5
    assert correlations((draws.square() - 1) / math.sqrt(2)) < 5.5


def test_examples_and_entries_are_independent():
    """Neighboring seeds, and the two halves that one hash makes."""
    of = path((24, 6), list(range(24)), span=(0.0, 1.0))
    stops = torch.linspace(0, 1, 601, dtype=torch.float64).tolist()
    draws = torch.stack([of.between(*ends).flatten() for ends in pairwise(stops)])
    assert correlations(draws) < 5
    assert correlations((draws.square() - 1) / math.sqrt(2)) < 6


def test_a_change_and_the_middle_of_it_have_the_distribution_of_the_bridge():
    """Given both ends, the middle has mean half way and a quarter of the variance, at any place."""
    for a, b in ((0.0, 1.0), (0.3, 0.41), (0.7, 0.7 + 1e-6)):
        of = unit((150, 101), seed=8)
        whole, first = change(of, a, b), change(of, a, (a + b) / 2)
        residual = (first - whole / 2) / math.sqrt((b - a) / 4)
        assert stats.kstest(residual.flatten(), "norm").pvalue > 1e-3
        assert abs(float((residual * whole).mean())) < 4 * math.sqrt((b - a) / 15150)


def test_plain_draws_have_no_part_in_the_path():
    of = unit((150, 101), seed=3)
    columns = [of().flatten() for _ in range(4)]
    columns += [of.between(*ends).flatten() for ends in ((0.0, 1.0), (0.0, 0.5), (0.4, 0.45))]
    kept = torch.stack(columns, 1)
    assert correlations(kept[:, [0, 1, 2, 3, 4]]) < 4.5
    assert correlations(kept[:, [0, 1, 2, 3, 6]]) < 4.5
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in columns)
    assert torch.equal(of.restart()().flatten(), columns[0])
    assert torch.equal(of().flatten(), columns[1])


def test_draws_have_the_shape_and_precision_asked_for():
    for dtype in (torch.float32, torch.float16):
        of = BrownianPath(VP(), (2, 3, 4), seed=0, dtype=dtype)
        assert of().shape == of.between(1.0, 0.5).shape == (2, 3, 4)
        assert of().dtype == of.between(1.0, 0.5).dtype == dtype
    odd = BrownianPath(VP(), (2, 1), seed=0)
    assert odd.between(1.0, 0.5).shape == odd().shape == (2, 1)
    scalar = BrownianPath(VP(), (2,), seed=0)
    assert scalar.between(1.0, 0.5).shape == (2,)


def test_memory_is_bounded():
    of = path((8, 5))
    for k in range(100):
        of.between(2.0 - 0.01 * k, 1.9 - 0.012 * k)
    held = [v for v in vars(of).values() if isinstance(v, torch.Tensor)] + [*of._known.values()]
    assert sum(v.numel() for v in held) < 5 * 8 * 5


def test_nothing_is_read_back_from_the_device():
    of = BrownianPath(SDE, (4, 2), seed=0, device="meta")
    assert of().device == of.between(1.0, 0.3).device == torch.device("meta")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: path().between(9.0, 0.0), r"clock=9 leaves \[-2.99573, 2.19722\]"),
        (lambda: path().between(0.0, -5.0), "clock=-5 leaves"),
        (lambda: path().between(float("nan"), 0.0), "clock=nan"),
        (lambda: path().between(0.5, 0.5), "a=0.5 and b=0.5 are the same point"),
        (lambda: path().between(0.5, 0.5 + 1e-11), "same point of the path"),
        (lambda: path((4, 0)), r"shape\[1\]=0"),
        (lambda: path(seed=[1, 2]), "2 entries for 4 examples"),
        (lambda: path(span=(1.0, 1.0)), r"span=\(1.0, 1.0\) must increase"),
        (lambda: path(span=(0.0, math.inf)), "high=inf must be a finite number"),
    ],
)
def test_refusals(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_integer_are_no_noise():
    with pytest.raises(TypeError, match=r"torch\.int64 must be floating point"):
        BrownianPath(SDE, (2, 2), dtype=torch.int64)


@pytest.mark.parametrize("sde", [VE(0.05, 9.0), VP(beta_min=0.4, beta_max=9.0)], ids=["VE", "VP"])
def test_euler_maruyama_converges_strongly_on_one_path(sde, gaussian_model):
    """Additive noise: the end points approach that of many steps as 1 / steps, example by example;
    with noise of its own for each number of steps they would stay as far apart as they are."""
    mean, covariance = torch.tensor([0.7, -0.3]), torch.tensor([[0.6, 0.3], [0.3, 0.8]])
    distribution = gaussian_model(mean.double(), covariance.double(), sde)
    of = BrownianPath(sde, (50, 2), seed=4, **DOUBLE)

    @cache
    def end(steps):
        sampler = EulerMaruyama(steps=steps, grid="log_snr", denoise=False)
        return sampler(distribution, (50, 2), noise=of.restart(), progress=False)

    counts = (32, 64, 128)
    errors = [float((end(n) - end(2 * n)).square().mean().sqrt()) for n in counts]
    slopes = [math.log2(errors[i] / errors[i + 1]) for i in (0, 1)]
    assert slopes[1] == pytest.approx(1, abs=0.2), errors
    other = BrownianPath(sde, (50, 2), seed=5, **DOUBLE)
    apart = EulerMaruyama(steps=128, grid="log_snr", denoise=False)(
        distribution, (50, 2), noise=other, progress=False
    )
    assert errors[-1] < 0.1 * float((end(128) - apart).square().mean().sqrt())
