"""Distributions of the training times, each against an independent distribution function."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score.objectives import TIME_SAMPLERS, WEIGHTINGS, times_of
from sde_score.objectives.time_samplers import Discrete
from sde_score.sdes import EDM, VE, VP

SPECS = [
    *(name for name in TIME_SAMPLERS if name != "discrete"),  # its distribution has no density
    "log_normal(mean=0.3, std=0.7)",
    "logit_normal(mean=-0.4, std=1.5)",
]


def ratio(sde, t):
    return (sde.sigma(t) / sde.alpha(t)).numpy()


def rate_integral(sde, t):
    """Integral of g^2 / sigma^2 from t_min to t, by the trapezoidal rule, over its whole."""
    # Times dense at both ends, where the rate may be large.
    u = torch.linspace(0, 1, 400001, dtype=torch.float64)
    low, high = max(sde.t_min, 1e-12), sde.t_max
    knots = torch.sort(torch.cat([low * (high / low) ** u, low + (high - low) * u])).values
    knots = knots.clamp(sde.t_min, sde.t_max)
    rate = (sde.diffusion(knots) / sde.sigma(knots)) ** 2
    area = torch.cumulative_trapezoid(rate, knots)
    return np.interp(t.numpy(), knots[1:].numpy(), (area / area[-1]).numpy())


def distribution(spec, sde, t):
    """P(time <= t) of each distribution."""
    place = ((t - sde.t_min) / (sde.t_max - sde.t_min)).numpy()
    log_ratio = np.log(ratio(sde, t))
    ends = np.log(ratio(sde, torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)))
    with np.errstate(divide="ignore"):
        logit = np.log(place) - np.log1p(-place)
    distributions = {
        "auto": lambda: distributions[times_of(sde)](),
        "uniform": lambda: place,
        "low_discrepancy": lambda: place,
        "uniform_log_snr": lambda: (log_ratio - ends[0]) / (ends[1] - ends[0]),
        "importance": lambda: rate_integral(sde, t),
        "log_normal": lambda: stats.norm.cdf(log_ratio, -1.2, 1.2),
        "log_normal(mean=0.3, std=0.7)": lambda: stats.norm.cdf(log_ratio, 0.3, 0.7),
        "uniform_angle": lambda: (
            (np.arctan(np.exp(log_ratio)) - np.arctan(np.exp(ends[0])))
            / (np.arctan(np.exp(ends[1])) - np.arctan(np.exp(ends[0])))
        ),
        "logit_normal": lambda: stats.norm.cdf(logit),
        "logit_normal(mean=-0.4, std=1.5)": lambda: stats.norm.cdf(logit, -0.4, 1.5),
    }
    return distributions[spec]()


@pytest.mark.parametrize("spec", SPECS)
def test_quantiles_invert_the_distribution(sde, spec):
    u = torch.linspace(0.001, 0.999, 401, dtype=torch.float64)
    t = TIME_SAMPLERS.create(spec).quantile(sde, u)
    assert t.dtype == torch.float64
    assert bool(((t >= sde.t_min) & (t <= sde.t_max)).all())
    inside = ((t > sde.t_min) & (t < sde.t_max)).numpy()  # log-normal tails are clamped
    assert inside.sum() > 250
    tolerance = 2e-4 if spec == "importance" else 1e-7
    np.testing.assert_allclose(
        distribution(spec, sde, t)[inside], u.numpy()[inside], atol=tolerance
    )


def test_log_normal_tails_are_clamped_to_the_range():
    sde = EDM(0.2, 0.5)
    sampler = TIME_SAMPLERS.create("log_normal")
    t = sampler.quantile(sde, torch.tensor([0.0, 1e-6, 1 - 1e-6, 1.0], dtype=torch.float64))
    assert t.tolist() == pytest.approx([0.2, 0.2, 0.5, 0.5], rel=1e-12)
    times, _ = sampler(sde, 4000, torch.Generator().manual_seed(0))
    below = (times <= 0.2).double().mean().item()
    truth = stats.norm.cdf((math.log(0.2) + 1.2) / 1.2)
    assert below == pytest.approx(truth, abs=4 * (truth / 4000) ** 0.5)


@pytest.mark.parametrize("spec", [s for s in SPECS if s != "importance"])
def test_draws_follow_the_distribution(sde, spec):
    t, weight = TIME_SAMPLERS.create(spec)(sde, 2000, torch.Generator().manual_seed(3))
    inside = (t > sde.t_min) & (t < sde.t_max)
    low, high = distribution(spec, sde, torch.stack([t[inside].min(), t[inside].max()]))
    share = (distribution(spec, sde, t[inside]) - low) / (high - low)
    assert stats.kstest(share[(share > 0) & (share < 1)], "uniform").pvalue > 1e-3
    assert t.shape == weight.shape == (2000,)
    assert t.dtype == weight.dtype == torch.float64
    assert bool((weight == 1).all())


@pytest.mark.parametrize("spec", ["low_discrepancy", "importance(stratified=True)",
                                  "log_normal(stratified=True)"])  # fmt: skip
def test_stratified_times_hit_every_stratum_once_and_keep_their_distribution(spec):
    """Over batches of seven: the distribution function of the times falls once in each seventh, and
    each place in the batch alone is uniform."""
    sde, sampler, batch = EDM(1e-6, 1e6), TIME_SAMPLERS.create(spec), 7
    name = spec.partition("(")[0].replace("importance", "uniform_log_snr")
    generator = torch.Generator().manual_seed(5)
    shares = []
    for _ in range(300):
        t, _ = sampler(sde, batch, generator)
        share = distribution(name, sde, t)
        assert sorted((share * batch).astype(int)) == list(range(batch))
        shares.append(share)
    for place in (0, 3, 6):
        assert stats.kstest(np.array(shares)[:, place], "uniform").pvalue > 1e-3
    plain = TIME_SAMPLERS.create(spec, stratified=False)
    t, _ = plain(sde, 50, generator)
    assert len(set((distribution(name, sde, t) * 50).astype(int))) < 45


@pytest.mark.parametrize("spec", ["uniform", "low_discrepancy", "importance"])
def test_importance_weights_restore_the_uniform_integral(sde, spec):
    """E[weight h(t)] is the mean of h over the times, for several h."""
    sampler = TIME_SAMPLERS.create(spec)
    u = (torch.arange(200000, dtype=torch.float64) + 0.5) / 200000
    t = sampler.quantile(sde, u)
    weight = sampler.importance(sde, t)
    even = sde.t_min + (sde.t_max - sde.t_min) * u
    for h in (torch.ones_like, lambda t: t / sde.t_max, lambda t: torch.cos(3 * t / sde.t_max)):
        got, want = (weight * h(t)).mean().item(), h(even).mean().item()
        assert got == pytest.approx(want, rel=2e-3, abs=1e-4)


def test_importance_makes_the_likelihood_weight_constant(sde):
    """Weight times importance is the range of log-SNR per unit of time: no variance from t."""
    sampler, weighting = TIME_SAMPLERS.create("importance"), WEIGHTINGS.create("likelihood")
    t, importance = sampler(sde, 500, torch.Generator().manual_seed(0))
    product = importance * weighting(sde, t)
    low, high = (2 * math.log(1 / ratio(sde, torch.tensor(t))) for t in (sde.t_max, sde.t_min))
    want = torch.tensor((high - low) / (sde.t_max - sde.t_min), dtype=torch.float64)
    torch.testing.assert_close(product, want.expand(500), rtol=1e-6, atol=0)


def ascending(sde, levels):
    """Levels sigma / alpha in terms of the ends of an SDE: shares of the way in their logarithm."""
    ends = torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)
    low, high = np.log(ratio(sde, ends)).tolist()
    return [math.exp(low + share * (high - low)) for share in levels]


def test_discrete_times_are_those_of_the_chain(sde):
    sampler = TIME_SAMPLERS.create("discrete(levels=40)")
    assert torch.equal(sampler.times(sde), sde.discrete_times(40))
    layers = TIME_SAMPLERS.create("discrete").times(VP())
    assert torch.equal(layers, torch.arange(1, 1001).double() / 1000)
    rungs = VE(0.01, 50.0).sigma(sampler.times(VE(0.01, 50.0)))
    np.testing.assert_allclose(rungs, np.geomspace(0.01, 50, 40), rtol=1e-12)


def test_discrete_levels_are_met_on_any_diffusion(sde):
    levels = ascending(sde, [0.1, 0.15, 0.6, 0.99])
    sampler = Discrete(levels=tuple(reversed(levels)))
    t = sampler.times(sde)
    assert t.dtype == torch.float64
    np.testing.assert_allclose(ratio(sde, t), levels, rtol=1e-9)
    assert sampler == Discrete(levels=list(reversed(levels)))
    spec = f"discrete(levels={tuple(levels)!r})"
    assert torch.equal(TIME_SAMPLERS.create(spec).times(sde), t)
    ends = Discrete(levels=tuple(ascending(sde, [0.0, 1.0]))).times(sde)
    assert ends.tolist() == pytest.approx([sde.t_min, sde.t_max], rel=1e-5)


def test_a_discrete_quantile_is_entry_floor_u_n():
    sampler = Discrete(levels=(4.0, 1.0, 2.0, 3.0))
    u = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 0.9999, 1.0], dtype=torch.float64)
    t = sampler.quantile(EDM(), u)
    assert t.tolist() == pytest.approx([1, 1, 2, 3, 3, 4, 4, 4])


def test_discrete_times_are_visited_alike(sde):
    sampler = TIME_SAMPLERS.create("discrete(levels=25)")
    t, weight = sampler(sde, 5000, torch.Generator().manual_seed(3))
    times, counts = t.unique(return_counts=True)
    assert torch.equal(times, sde.discrete_times(25))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert bool((weight == 1).all())
    assert weight.shape == (5000,)
    spread = TIME_SAMPLERS.create("discrete(levels=25, stratified=True)")
    for seed in range(10):
        t, _ = spread(sde, 75, torch.Generator().manual_seed(seed))
        assert t.unique(return_counts=True)[1].tolist() == [3] * 25


def test_wrong_levels_are_refused():
    with pytest.raises(ValueError, match="levels=0 must be an integer of at least 1"):
        Discrete(levels=0)
    with pytest.raises(ValueError, match=r"levels=10.0 must be an integer"):
        TIME_SAMPLERS.create("discrete(levels=10.0)")
    with pytest.raises(ValueError, match="number of levels=0"):
        Discrete(levels=())
    for wrong in (-1.0, 0.0, math.inf, math.nan, "a"):
        with pytest.raises(ValueError, match=r"levels\[1\]="):
            Discrete(levels=(1.0, wrong))
    with pytest.raises(ValueError, match=r"from 1 to 90 leave .*EDM.* from 0.002 to 80: choose"):
        Discrete(levels=(90.0, 1.0)).times(EDM())
    with pytest.raises(ValueError, match=r"from 0.001 to 1 leave"):
        Discrete(levels=(1.0, 0.001)).times(EDM())


def test_wrong_settings_are_refused():
    for spec in ("log_normal(std=0)", "logit_normal(std=-1.0)"):
        with pytest.raises(ValueError, match="std="):
            TIME_SAMPLERS.create(spec)
