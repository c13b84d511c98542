"""The recursion of annealed Langevin dynamics on Gaussian data, and the step sizes it chooses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.samplers import (
    AnnealedLangevin,
    annealed_variance,
    choose_step_ratio,
    choose_steps_each,
)

NCSN = np.geomspace(10, 0.01, 10)


def by_hand(sigmas, s, steps_each, ratios, variance):
    """The recursion, step by step."""
    path = []
    for sigma, ratio in zip(sigmas, ratios, strict=True):
        a = ratio * sigma**2
        for _ in range(steps_each):
            variance = (1 - a / (s**2 + sigma**2)) ** 2 * variance + 2 * a
        path.append(variance)
    return path


def test_step_sizes_of_ncsn_miss_the_variance():
    """Ten levels from 10 to 0.01 with 100 steps, on N(0, 1): 1.0001 is wanted."""
    for step_lr, end in ((2e-5, 1.0532), (1e-6, 3.7865)):
        path = annealed_variance(NCSN, 1.0, 100, step_lr / 0.01**2)
        assert path.shape == (10,)
        assert path[-1].item() == pytest.approx(end, abs=5e-5)
    ratio = choose_step_ratio(NCSN, 1.0, 100)
    assert annealed_variance(NCSN, 1.0, 100, ratio)[-1].item() == pytest.approx(1.0142, abs=5e-5)


@pytest.mark.parametrize("steps_each", [1, 2, 7])
@pytest.mark.parametrize("start", [None, 3.0])
def test_recursion_is_summed_up_right(steps_each, start):
    sigmas, ratios = [4.0, 1.5, 0.3], [0.2, 0.9, 0.5]
    for s in (0.0, 0.4, 2.0):
        first = s**2 + 16 if start is None else 9.0
        want = by_hand(sigmas, s, steps_each, ratios, first)
        got = annealed_variance(
            sigmas, s, steps_each, torch.tensor(ratios, dtype=torch.float64), start
        )
        assert got.tolist() == pytest.approx(want, rel=1e-12)
    several = annealed_variance(sigmas, (0.0, 2.0), steps_each, 0.5, start)
    assert several.shape == (3, 2)
    first = 20.0 if start is None else 9.0
    assert several[:, 1].tolist() == pytest.approx(
        by_hand(sigmas, 2.0, steps_each, [0.5] * 3, first)
    )


def worst(sigmas, stds, steps_each, ratios, start=None):
    """Largest error of the log variance in the end."""
    errors = []
    for s in stds:
        first = s**2 + sigmas[0] ** 2 if start is None else start**2
        end = by_hand(sigmas, s, steps_each, ratios, first)[-1]
        errors.append(abs(math.log(end / (s**2 + sigmas[-1] ** 2))))
    return max(errors)


@pytest.mark.parametrize("stds", [(0.02,), (0.0, 0.5), (0.1, 0.7, 3.0)])
@pytest.mark.parametrize("steps_each", [3, 20])
@pytest.mark.parametrize("start", [None, 8.0])
def test_no_ratio_ends_nearer_than_the_chosen(stds, steps_each, start):
    sigmas = np.geomspace(8, 0.02, 12)
    ratio = choose_step_ratio(sigmas, stds, steps_each, start)
    best = worst(sigmas, stds, steps_each, [ratio] * 12, start)
    others = np.geomspace(1e-6, 1.0, 300)
    assert best <= min(worst(sigmas, stds, steps_each, [r] * 12, start) for r in others) + 1e-9


def test_the_fewest_steps_that_meet_a_tolerance():
    for tolerance, most in ((0.05, 100), (0.01, 1000)):
        steps = choose_steps_each(NCSN, 1.0, tolerance)
        assert 1 < steps < most

        def error(n):
            return abs(
                annealed_variance(NCSN, 1.0, n, choose_step_ratio(NCSN, 1.0, n))[-1] / NCSN_END - 1
            )

        assert error(steps) <= tolerance < error(steps - 1)
    assert choose_steps_each(NCSN, (0.0, 1.0), 0.5, start_std=10.0) > 1
    assert choose_steps_each([0.1], 1.0) == 1
    with pytest.raises(ValueError, match=r"tolerance=0.01 is not met by 64 steps.*more levels"):
        choose_steps_each(NCSN, 1.0, 0.01, largest=64)


NCSN_END = 1.0001


def gaussian(sde, std):
    return GaussianMixture([[0.0]], std**2, sde)


def variance_of(sampler, model):
    """Exact variance of a sampler's linear output, from unit inputs."""
    count = 0

    def counted():
        nonlocal count
        count += 1
        return torch.zeros(1, 1).double()

    sampler(model, torch.zeros(1, 1).double(), noise=counted, progress=False)
    units = torch.eye(count + 1, dtype=torch.float64)
    units[0] *= model.sde.prior_std
    draws = iter(units[:, 1:].unsqueeze(-1).unbind(1))
    out = sampler(model, units[:, :1].contiguous(), noise=lambda: next(draws), progress=False)
    return (out**2).sum().item()


@pytest.mark.parametrize("ratio", [0.3, None])
def test_the_sampler_ends_where_the_recursion_says(sde, ratio):
    """On every SDE, in the units of x / alpha, from the prior."""
    sampler = AnnealedLangevin(steps=8, steps_each=3, step_ratio=ratio, data_std=0.6, denoise=False)
    times = sampler.times(sde)
    alpha = sde.alpha(times)
    got = variance_of(sampler, gaussian(sde, 0.6)) / alpha[-1].item() ** 2
    path = annealed_variance(
        sde.sigma(times) / alpha, 0.6, 3, sampler.chosen_ratio(sde), sde.prior_std / alpha[0].item()
    )
    assert got == pytest.approx(path[-1].item(), rel=1e-9)
    assert ratio is None or sampler.chosen_ratio(sde) == ratio


def test_the_chosen_ratio_of_the_sampler_is_the_best(sde):
    """On data at one point, where all variance in the end is noise."""

    def sampler(ratio):
        return AnnealedLangevin(
            steps=12, steps_each=4, step_ratio=ratio, data_std=0.0, denoise=False
        )

    ratio = sampler(None).chosen_ratio(sde)
    assert 0.01 < ratio < 0.8
    truth = sde.sigma(sampler(None).times(sde)[-1]).item() ** 2
    errors = [
        abs(math.log(variance_of(sampler(each), gaussian(sde, 0.0)) / truth))
        for each in (None, ratio / 1.2, 1.2 * ratio)
    ]
    assert errors[0] < min(errors[1:])


@pytest.mark.parametrize("steps", [1, 5])
def test_the_sampler_chooses_for_its_own_levels_and_start(sde, steps):
    """Levels sigma / alpha and a start of prior_std / alpha, few enough that both matter."""
    stds = (0.0, 0.3)
    sampler = AnnealedLangevin(steps=steps, steps_each=2, step_ratio=None, data_std=stds)
    times = sampler.times(sde)
    alpha = sde.alpha(times)
    levels, start = (sde.sigma(times) / alpha).tolist(), sde.prior_std / alpha[0].item()
    chosen = worst(levels, stds, 2, [sampler.chosen_ratio(sde)] * steps, start)
    others = np.geomspace(1e-3, 1.0, 400)
    assert chosen <= min(worst(levels, stds, 2, [r] * steps, start) for r in others) + 1e-9


def test_a_ratio_is_chosen_for_narrow_and_wide_data_unless_told():
    assert AnnealedLangevin().step_ratio == 0.062
    assert AnnealedLangevin().data_std == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 1.0, 5), "must be positive noise levels"),
        (([[2.0, 1.0]], 1.0, 5), "must be positive noise levels"),
        (([1.0, -0.1], 1.0, 5), "must be positive noise levels"),
        (([1.0, 2.0], 1.0, 5), "sigmas must decrease"),
        (([1.0, 1.0], 1.0, 5), "sigmas must decrease"),
        (([1.0], -1.0, 5), "data_std=-1.0 must be a standard deviation of at least 0"),
        (([1.0], (0.1, math.nan), 5), "data_std="),
        (([1.0], (), 5), "data_std="),
        (([1.0], 1.0, 0), "steps_each=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_step_ratio(*arguments)
    with pytest.raises(ValueError, match=message):
        annealed_variance(*arguments, 0.5)
    with pytest.raises(ValueError, match="start_std=0"):
        choose_step_ratio([1.0], 1.0, 5, start_std=0.0)
    with pytest.raises(ValueError, match="tolerance=0"):
        choose_steps_each([1.0], 1.0, 0.0)
