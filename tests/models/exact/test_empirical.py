"""The data set as a distribution, against sums written out one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sde_score.models import EmpiricalDistribution, GaussianMixture, Model
from sde_score.models.exact import empirical
from sde_score.sdes import VP


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(21)
    return torch.randn(37, 2, 3, generator=generator, dtype=torch.float64)


@pytest.fixture
def points(sde, times, data):
    generator = torch.Generator().manual_seed(22)
    noise = torch.randn(4, 2, 3, generator=generator, dtype=torch.float64)
    return sde.perturb(data[:4], times, noise)


def rounding(sde, x, t):
    """What differences of squared lengths lose to rounding, in nats: matters at tiny sigma."""
    return 1e-15 * float((x.flatten(1).square().sum(1) / sde.sigma(t) ** 2).max())


def brute(sde, data, x, t):
    """Posterior mean and log density at one point, one data point after the other."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    exponents = [-0.5 * ((x - alpha * y) / sigma).square().sum().item() for y in data]
    top = max(exponents)
    masses = [math.exp(e - top) for e in exponents]
    mean = sum(m * y for m, y in zip(masses, data, strict=True)) / sum(masses)
    volume = 0.5 * x.numel() * math.log(2 * math.pi * sigma**2)
    return mean, math.log(sum(masses) / len(data)) + top - volume


def test_denoiser_and_density_are_the_sums_of_the_definition(sde, times, data, points):
    model = EmpiricalDistribution(data, sde)
    x0, density = model.denoise(points, times), model.log_prob(points, times)
    for i, t in enumerate(times):
        mean, log_prob = brute(sde, data, points[i], t)
        torch.testing.assert_close(x0[i], mean, rtol=1e-7, atol=1e-7)
        atol = rounding(sde, points[i : i + 1], t)
        assert density[i].item() == pytest.approx(log_prob, rel=1e-7, abs=atol)


def test_is_the_mixture_of_points(sde, times, data, points):
    model = EmpiricalDistribution(data, sde)
    mixture = GaussianMixture(data, 0.0, sde)
    for name in ("score", "denoise", "noise", "velocity", "log_prob"):
        got, want = (getattr(m, name)(points, times) for m in (model, mixture))
        atol = 1e-7 * float(want.abs().max())
        torch.testing.assert_close(got, want, rtol=1e-6, atol=atol)


def test_score_is_the_gradient_of_the_log_density(sde, times, data, points, gradient):
    model = EmpiricalDistribution(data, sde)
    want = gradient(lambda x: model.log_prob(x, times), points)
    atol = 1e-6 * float(want.abs().max())
    torch.testing.assert_close(model.score(points, times), want, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("numbers", [1, 25, 100, 390])
def test_chunks_do_not_change_the_result(sde, times, data, points, numbers, monkeypatch):
    """Also where the nearest data point comes in the last chunk, or in the first."""
    far_first = data[torch.arange(36, -1, -1)]
    for order in (data, far_first):
        model = EmpiricalDistribution(order, sde)
        whole = model.denoise(points, times), model.log_prob(points, times)
        with monkeypatch.context() as patch:
            patch.setattr(empirical, "_CHUNK_NUMBERS", numbers)
            parts = model.denoise(points, times), model.log_prob(points, times)
        atol = 1e-9 + rounding(sde, points, times)
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=atol)


class Largest(TorchDispatchMode):
    """Keeps the largest number of entries of any tensor that owns its memory."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("batch", [1, 64])
def test_memory_is_bounded_by_the_chunk_however_many_data_there_are(batch, monkeypatch):
    monkeypatch.setattr(empirical, "_CHUNK_NUMBERS", 1 << 14)
    data, x = torch.ones(4000, 3, 4, 4), torch.zeros(batch, 3, 4, 4)
    with Largest() as largest:
        EmpiricalDistribution(data, VP()).denoise(x, 0.5)
    assert 1 << 12 < largest.numbers <= 1 << 14


def test_nothing_under_or_overflows_at_the_ends_or_far_away(sde, data):
    """Far from all data, at little noise: the posterior is the nearest point alone."""
    model = EmpiricalDistribution(data.float(), sde)
    x = torch.full((1, 2, 3), 100.0)
    for t in (sde.t_min, sde.t_max):
        for name in ("score", "denoise", "noise", "velocity", "log_prob"):
            assert bool(getattr(model, name)(x, t).isfinite().all())
    alpha = sde.alpha(sde.t_min).item()
    nearest = (x.double() - alpha * data).square().sum((1, 2)).argmin()
    got = EmpiricalDistribution(data, sde).denoise(x.double(), sde.t_min)[0]
    torch.testing.assert_close(got, data[nearest], rtol=1e-6, atol=1e-6)


def test_much_noise_gives_the_mean_of_the_data_and_little_gives_the_point(sde, data):
    model = EmpiricalDistribution(data, sde)
    near = model.denoise(sde.alpha(sde.t_min) * data, sde.t_min)
    if sde.sigma(sde.t_min) < 0.1:
        torch.testing.assert_close(near, data, rtol=1e-6, atol=1e-6)
    x = torch.zeros(1, 2, 3, dtype=torch.float64)
    mean = model.denoise(x, sde.t_max)[0]
    torch.testing.assert_close(mean, data.mean(0), rtol=0, atol=0.08)


def test_each_example_sees_its_own_time(sde, times, points, data):
    model = EmpiricalDistribution(data, sde)
    for name in ("score", "denoise", "noise", "velocity", "log_prob"):
        method = getattr(model, name)
        rows = torch.cat([method(points[i : i + 1], times[i]) for i in range(4)])
        atol = 1e-8 + rounding(sde, points, times)
        torch.testing.assert_close(method(points, times), rows, rtol=1e-8, atol=atol)


def test_dtypes_evaluations_and_state(sde, times, points, data):
    model = EmpiricalDistribution(data.float(), sde)
    assert isinstance(model, Model)
    assert model.denoise(points.float(), times).dtype == torch.float32
    assert model.log_prob(points, times).dtype == torch.float64
    assert model.nfe == 1
    assert list(model.state_dict()) == ["data"]


def test_draws_are_data_with_replacement(data):
    model = EmpiricalDistribution(data, VP())
    draws = model.sample(3700, torch.Generator().manual_seed(0))
    counts = (draws[:, None] == data).flatten(2).all(2).sum(0)
    assert counts.sum().item() == 3700
    assert 50 < counts.min().item() < counts.max().item() < 160
    assert torch.equal(draws, model.sample(3700, torch.Generator().manual_seed(0)))


def test_wrong_arguments_are_refused_by_name(data, sde):
    with pytest.raises(TypeError, match="data must be a floating-point tensor"):
        EmpiricalDistribution(data.long(), sde)
    hole = data.clone()
    hole[3, 0, 0] = math.nan
    peak = data.clone()
    peak[-1, 1, 2] = -math.inf
    for bad in (hole, peak, -peak, data[:0], data[:, 0, 0]):
        with pytest.raises(ValueError, match="finite, not empty"):
            EmpiricalDistribution(bad, sde)
    model = EmpiricalDistribution(data, sde)
    with pytest.raises(ValueError, match=r"x has event shape \(3, 2\), the data have \(2, 3\)"):
        model.denoise(data.mT, sde.t_max)
    with pytest.raises(ValueError, match="takes no condition"):
        model.denoise(data, sde.t_max, condition=data)
    with pytest.raises(ValueError, match="count=0"):
        model.sample(0)
    for count in (1, 3):
        t = torch.full((count,), sde.t_max)
        for call in (model.score, model.log_prob):
            with pytest.raises(ValueError, match=rf"t of shape \({count},\) does not fit x"):
                call(data[:4], t)
