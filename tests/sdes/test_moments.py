"""The mathematics of a linear Gaussian diffusion, each distribution computed a second way."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from sde_score.sdes import VE, VP, SubVP


def derivative(function, t):
    """d function / dt at each entry of t, by autograd (0 for a constant)."""
    t = t.clone().requires_grad_()
    return torch.autograd.grad((function(t) + 0 * t).sum(), t)[0]


def close(got, want, rtol=1e-10, atol=0.0):
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


def pairs(times):
    """Increasing neighbors (s, u, t) among the times."""
    return times[:-2], times[1:-1], times[2:]


def test_scales_are_those_of_the_definition_in_forty_digits(sde, times, exact_scales):
    for t in times:
        alpha, sigma = exact_scales(sde, t)
        assert abs(sde.alpha(t).item() / float(alpha) - 1) < 2e-13
        assert abs(sde.sigma(t).item() / float(sigma) - 1) < 2e-13


def test_float32_times_lose_nothing_near_the_data(sde, exact_scales):
    low, high = np.float32(sde.t_min), np.float32(sde.t_max)
    t = torch.from_numpy(np.geomspace(max(low, 1e-5), high, 50).astype(np.float32))
    for name, index in (("alpha", 0), ("sigma", 1)):
        got = getattr(sde, name)(t)
        assert got.dtype == torch.float32
        for value, time in zip(got, t, strict=True):
            truth = float(exact_scales(sde, time)[index])
            assert abs(value.item() / truth - 1) < 1e-6, (name, time)


def test_log_snr_is_that_of_the_definition(sde, times, exact_scales):
    for t in times:
        alpha, sigma = exact_scales(sde, t)
        truth = 2 * math.log(float(alpha / sigma))
        assert sde.log_snr(t).item() == pytest.approx(truth, rel=1e-12, abs=1e-12)


def test_derivatives_equal_autograd(sde, times):
    close(sde.alpha_derivative(times), derivative(sde.alpha, times), atol=1e-14)
    close(sde.sigma_derivative(times), derivative(sde.sigma, times))


def test_drift_rate_and_diffusion_solve_the_moment_equations(sde):
    """m' = f m, (s^2)' = 2 f s^2 + g^2 : known from the scales by autograd, from f and g here."""
    t = torch.linspace(sde.t_min, sde.t_max, 41, dtype=torch.float64)
    f, g, s = sde.drift_rate(t), sde.diffusion(t), sde.sigma(t)
    close(f * sde.alpha(t), derivative(sde.alpha, t), atol=1e-14)
    variance_rate = derivative(lambda u: sde.sigma(u) ** 2, t)
    close(2 * f * s**2 + g**2, variance_rate, rtol=1e-8, atol=1e-8 * float(variance_rate.max()))


def test_marginal_solves_the_moment_equations_numerically(sde):
    """An ODE solver that sees f and g only must carry (1, v(t_min)) to alpha and sigma^2."""

    def rates(t, state):
        t = min(max(t, sde.t_min), sde.t_max)
        f, g = float(sde.drift_rate(t)), float(sde.diffusion(t))
        return [f * state[0], 2 * f * state[1] + g**2]

    stops = np.linspace(sde.t_min, sde.t_max, 6)
    _, std0 = sde.marginal(torch.ones(1, 1).double(), sde.t_min)
    start = [float(sde.alpha(sde.t_min)), float(std0) ** 2]
    solution = solve_ivp(
        rates, (sde.t_min, sde.t_max), start, "DOP853", stops, rtol=1e-10, atol=1e-16
    )
    assert solution.success
    times = torch.from_numpy(stops)
    mean, std = sde.marginal(torch.ones(6, 1).double(), times)
    np.testing.assert_allclose(solution.y[0], mean[:, 0], rtol=1e-7)
    np.testing.assert_allclose(solution.y[1], std**2, rtol=1e-7)


def test_log_snr_decreases_strictly(sde):
    t = torch.linspace(sde.t_min, sde.t_max, 2001, dtype=torch.float64)
    assert bool((torch.diff(sde.log_snr(t)) < 0).all())
    assert bool((derivative(sde.log_snr, t) < 0).all())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_time_of_log_snr_inverts_log_snr(sde, times, dtype, tolerance):
    t = times.to(dtype).clamp(sde.t_min, sde.t_max)
    back = sde.time_of_log_snr(sde.log_snr(t))
    assert back.dtype == dtype
    assert bool(((back - t).abs() <= tolerance * t + tolerance * 1e-2 * (sde.t_min == 0)).all())


def test_log_snr_inverts_time_of_log_snr(sde):
    low, high = sde.log_snr_range
    value = torch.linspace(low, high, 7, dtype=torch.float64).reshape(7, 1).expand(7, 2)
    t = sde.time_of_log_snr(value)
    assert t.shape == (7, 2)
    close(sde.log_snr(t[:, 0]), value[:, 0], rtol=1e-9, atol=1e-9)


def test_log_snr_range_is_taken_at_the_ends_and_values_beyond_it_give_the_ends(sde):
    low, high = sde.log_snr_range
    assert low == sde.log_snr(sde.t_max).item()
    assert high == sde.log_snr(sde.t_min).item()
    assert low < high
    for value, end in ((high + 5, sde.t_min), (low - 5, sde.t_max)):
        assert sde.time_of_log_snr(value).item() == pytest.approx(end, rel=1e-15, abs=0)
    ends = torch.tensor([-math.inf, math.inf])
    assert sde.time_of_log_snr(ends).tolist() == pytest.approx([sde.t_max, sde.t_min], rel=1e-6)


def test_transitions_compose(sde, times):
    """Chapman-Kolmogorov: s -> u -> t is s -> t."""
    s, u, t = pairs(times)
    (a, b), (c, d), (scale, std) = sde.transition(s, u), sde.transition(u, t), sde.transition(s, t)
    close(a * c, scale, rtol=1e-12)
    close((c**2 * b**2 + d**2).sqrt(), std, rtol=1e-12)


def test_transition_after_the_marginal_is_the_marginal(sde, times):
    start = torch.full_like(times, sde.t_min)
    scale, std = sde.transition(start, times)
    close(scale * sde.alpha(start), sde.alpha(times), rtol=1e-12)
    variance = (scale * sde.sigma(start)) ** 2 + std**2
    close(variance.sqrt(), sde.sigma(times), rtol=1e-12)


def test_transition_over_a_short_step_is_the_sde(sde):
    """log(scale) / h -> f and std^2 / h -> g^2."""
    t = 0.5 * (sde.t_min + sde.t_max)
    h = 1e-5 * t
    scale, std = sde.transition(t - h / 2, t + h / 2)
    assert math.log(scale) / h == pytest.approx(sde.drift_rate(t).item(), rel=1e-8, abs=1e-12)
    assert std.item() / math.sqrt(h) == pytest.approx(sde.diffusion(t).item(), rel=1e-4)


def test_transition_of_no_time_does_nothing_even_when_times_differ_by_one_rounding(sde, times):
    scale, std = sde.transition(times, times)
    assert bool((scale == 1).all())
    assert bool((std == 0).all())
    dense = torch.linspace(sde.t_min, sde.t_max, 500, dtype=torch.float64)[1:]
    before = torch.nextafter(dense, torch.zeros_like(dense))
    scale, std = sde.transition(before, dense)
    assert bool(std.isfinite().all())
    assert float((scale - 1).abs().max()) < 1e-9


def test_reverse_and_probability_flow_drifts_keep_the_marginals_of_gaussian_data(sde):
    """Data N(0, 1.7^2): x stays Gaussian with variance v(t), so its score is -x / v and

    the flow b x must have v' = 2 b v, the reverse SDE b x must have v' = 2 b v - g^2."""
    t = torch.linspace(sde.t_min, sde.t_max, 21, dtype=torch.float64)[1:-1]

    def variance(u):
        return 1.7**2 * sde.alpha(u) ** 2 + sde.sigma(u) ** 2

    def score(x, u):
        return -x / variance(u).reshape(-1, 1)

    v, rate = variance(t), derivative(variance, t)
    x = torch.linspace(-2, 3, len(t), dtype=torch.float64).reshape(-1, 1)
    flow = (sde.probability_flow(score)(x, t) / x)[:, 0]
    back = (sde.reverse(score)(x, t) / x)[:, 0]
    atol = 1e-9 * float(rate.abs().max())
    close(2 * flow * v, rate, rtol=1e-9, atol=atol)
    close(2 * back * v - sde.diffusion(t) ** 2, rate, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("sde", [VP(), SubVP(0.4, 9.0), VE(0.2, 7.0)], ids=repr)
def test_simulated_forward_sde_has_the_marginal_distribution(sde):
    """Euler-Maruyama with drift and diffusion alone, from a point: mean and std of x at t = 0.6."""
    generator = torch.Generator().manual_seed(3)
    paths, steps, stop = 20_000, 600, 0.6
    grid = torch.linspace(sde.t_min, stop, steps + 1, dtype=torch.float64).tolist()
    x = torch.full((paths, 1), 2.0, dtype=torch.float64)
    x = x + sde.sigma(sde.t_min) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    for start, end in pairwise(grid):
        h, middle = end - start, 0.5 * (start + end)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + h * sde.drift(x, middle) + math.sqrt(h) * sde.diffusion(middle) * z
    mean, std = sde.marginal(torch.full((1, 1), 2.0, dtype=torch.float64), stop)
    error = 5 * float(std) / math.sqrt(paths)
    assert x.mean().item() == pytest.approx(mean.item(), abs=error + 0.01 * abs(mean.item()))
    assert x.std().item() == pytest.approx(std.item(), rel=0.03)
