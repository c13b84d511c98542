"""The adaptive SDE solver: its distribution, the noise of rejected steps, and what examples
share."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy import stats

from sde_score.models import GaussianMixture
from sde_score.random import ExampleStreams, example_seeds
from sde_score.samplers import (
    DDIM,
    AdaptiveSDE,
    BrownianPath,
    EulerMaruyama,
    UniformLogSNR,
    UniformTime,
)
from sde_score.samplers.adaptive.engine import BatchState, StepSizeController
from sde_score.samplers.problem import Problem
from sde_score.sdes import EDM, VE, VP

MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.35], [0.35, 0.9]], dtype=torch.float64)
MIXTURE = ([[-1.0, 0.4], [1.0, 0.2]], 0.05)


def gaussian(sde):
    return GaussianMixture(MEAN[None], COVARIANCE[None], sde)


def ending(sde, log_snr=3.0):
    """A grid from t_max to little noise."""
    return UniformTime(end=float(sde.time_of_log_snr(log_snr)))


def root(sde, t):
    """Mean of x_t, and a factor of its covariance."""
    alpha, sigma = sde.alpha(t).item(), sde.sigma(t).item()
    covariance = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2).double()
    return alpha * MEAN, torch.linalg.cholesky(covariance)


def exact_start(sde, count, seed=0):
    mean, factor = root(sde, sde.t_max)
    draw = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double()
    return mean + draw @ factor.mT


def whitened(samples, sde, t):
    mean, factor = root(sde, t)
    return torch.linalg.solve(factor, (samples - mean).mT).mT


@pytest.mark.parametrize("sde", [VP(0.4, 9.0), VE(0.05, 9.0)], ids=["VP", "VE"])
def test_distribution_on_gaussian_data_is_exact_to_the_tolerance(sde):
    """2-D, correlated, mean not zero: every entry of mean and covariance, and the shape.

    Samples do not depend on the SDE, as another test says.
    """
    grid, count = ending(sde), 3000
    sampler = AdaptiveSDE(rtol=0.006, atol=0.0012, grid=grid, denoise=False)
    got = sampler(gaussian(sde), exact_start(sde, count), seed=3, progress=False)
    unit = whitened(got, sde, grid.end)
    assert unit.mean(0).tolist() == pytest.approx([0, 0], abs=4 / math.sqrt(count))
    excess = unit.mT @ unit / count - torch.eye(2)
    assert float(excess.abs().max()) < 4 * math.sqrt(2 / count) + 0.01
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in unit.mT)


def test_a_single_data_point_is_sampled_exactly(sde):
    """The denoiser is constant, so no step has an error, however long, and only noise is left."""
    point = GaussianMixture(MEAN[None], 1e-12, sde)
    grid = ending(sde, 1.0)
    sampler = AdaptiveSDE(grid=grid, denoise=False)
    alpha, sigma = sde.alpha(grid.end).item(), sde.sigma(grid.end).item()
    start = sde.alpha(sde.t_max) * MEAN + sde.sigma(sde.t_max) * torch.randn(
        2000, 2, generator=torch.Generator().manual_seed(1)
    )
    got = (sampler(point, start, seed=0, progress=False) - alpha * MEAN) / sigma
    assert point.nfe < 30
    assert stats.kstest(got.flatten(), "norm").pvalue > 1e-3
    assert float(got.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / 4000))


def test_samples_converge_to_the_solution_on_their_path():
    """Example by example: rejected noise that is drawn afresh, or stretched, leaves the path."""
    sde = VP(beta_min=0.4, beta_max=9.0)
    model = gaussian(sde)
    path = BrownianPath(sde, (8, 2), seed=6, dtype=torch.float64)
    end = ending(sde).end
    ancestral = DDIM(eta=1.0, steps=2048, grid=UniformLogSNR(end=end), denoise=False)
    truth = ancestral(model, (8, 2), noise=path.restart(), progress=False)
    errors = []
    for tolerance in (0.1, 0.01, 0.001):
        sampler = AdaptiveSDE(rtol=tolerance, atol=tolerance / 5, grid=ending(sde), denoise=False)
        got = sampler(model, (8, 2), noise=path.restart(), progress=False)
        errors.append(float((got - truth).square().mean().sqrt()))
    assert errors[2] < 0.4 * errors[1] < 0.1 * errors[0], errors
    assert errors[2] < 0.01, errors


def test_some_steps_are_rejected_and_each_costs_one_evaluation(recorder):
    """Two a step: where it begins and where it leads. After a rejection the first is known."""
    sde = VP()
    kept = recorder(GaussianMixture(*MIXTURE, sde))
    sampler = AdaptiveSDE(grid=ending(sde), denoise=False)
    run = sampler(kept, (1, 2), seed=2, progress=False, trajectory=True)
    assert set(kept.kinds) == {"denoise"}
    times = [time[0] for time in kept.seen_times]
    states = [tuple(state.flatten().tolist()) for state in kept.states]
    assert run.nfe == len(times) == len(set(states))
    # Attempts lead to earlier times; a time that is later than the one before is a second try.
    rejected = sum(late > early for early, late in pairwise(times))
    assert rejected > 2
    # An accepted step is asked for twice at its end, but for the last.
    twice = sum(abs(a - b) < 1e-12 for a, b in pairwise(times))
    assert len(times) == 2 * (twice + 1) + rejected


def test_sample_i_depends_on_seed_and_i_alone():
    distribution = GaussianMixture(*MIXTURE, VP())
    sampler = AdaptiveSDE(steps=3)
    given = {"progress": False, "trajectory": True}
    whole = sampler(distribution, (64, 2), seed=11, **given).states
    for rows in ([0], list(range(7)), [40, 5, 3]):
        seeds = [example_seeds(11, 64)[i] for i in rows]
        part = sampler(distribution, (len(rows), 2), seed=seeds, **given).states
        torch.testing.assert_close(part, whole[:, rows], rtol=0, atol=1e-9)
    assert len(set(whole[-1].flatten().tolist())) == 128


def test_one_dimensional_examples_have_paths_of_their_own():
    """Few entries still make as many seeds as there are examples."""
    distribution = GaussianMixture([[0.0]], 1.0, VP())
    got = AdaptiveSDE(rtol=0.5, atol=0.5)(
        distribution, torch.zeros(3000, 1), seed=0, progress=False
    )
    assert got.unique().numel() > 2990


def test_all_sdes_give_the_same_images_on_one_path():
    """In unit-variance coordinates the steps are the same too."""
    vp = VP()
    ratios = [float(vp.sigma(t) / vp.alpha(t)) for t in (vp.t_min, vp.t_max)]
    ve = VE(*ratios)
    span = (math.log(ratios[0]), math.log(ratios[1]))
    start, images, counts = exact_start(ve, 5), [], []
    for sde in (ve, vp):
        path = BrownianPath(sde, (5, 2), seed=1, span=span, dtype=torch.float64)
        distribution = GaussianMixture(*MIXTURE, sde)
        first = start * float(sde.alpha(sde.t_max))
        images.append(
            AdaptiveSDE(grid=ending(sde))(distribution, first, noise=path, progress=False)
        )
        counts.append(distribution.nfe)
    assert counts[0] == counts[1]
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-7)


def test_condition_follows_the_samples_that_are_still_on_their_way():
    class Shifted:
        """Data N(condition, 0.25)."""

        nfe, sde = 0, VE(0.05, 9.0)

        def denoise(self, x, t, condition=None):
            weight = 0.25 / (0.25 + self.sde.sigma(t)[:, None] ** 2)
            return weight * x + (1 - weight) * condition[:, None]

    condition, start = torch.tensor([3.0, -30.0]).double(), torch.tensor([[1.0], [2.0]]).double()
    sampler = AdaptiveSDE(grid=ending(Shifted.sde), denoise=False)
    whole = sampler(Shifted(), start, condition=condition, seed=[4, 5], progress=False)
    parts = [
        sampler(
            Shifted(),
            start[i : i + 1],
            condition=condition[i : i + 1],
            seed=[4 + i],
            progress=False,
        )
        for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-9)
    assert abs(float(whole[1]) + 30) < 3


def test_noise_may_be_a_path_or_draws():
    sde = EDM(0.05, 9.0)
    distribution, sampler = gaussian(sde), AdaptiveSDE()
    streams = ExampleStreams(example_seeds(5, 4), torch.empty(4, 2).double())
    start = 9.0 * streams()
    got = sampler(distribution, start, noise=streams, progress=False)
    torch.testing.assert_close(got, sampler(distribution, (4, 2), seed=5, progress=False))
    path = BrownianPath(sde, (4, 2), seed=1)
    first = sampler(distribution, start, noise=path, progress=False)
    assert torch.equal(first, sampler(distribution, start, noise=path, progress=False))
    with pytest.raises(ValueError, match=r"noise is a path of shape \(4, 2\)"):
        sampler(distribution, start[:3], noise=path, progress=False)


def test_single_precision_is_kept_and_loses_little():
    distribution = gaussian(VP())
    path = BrownianPath(VP(), (6, 2), seed=0)
    start = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    single, double = (
        AdaptiveSDE()(distribution, x, noise=path, progress=False) for x in (start, start.double())
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_the_step_rule_is_that_of_the_paper():
    assert AdaptiveSDE().controller == StepSizeController(
        safety=0.9, integral=0.9, grow=2.0, octave=8
    )
    assert AdaptiveSDE().stochastic
    assert EulerMaruyama().stochastic


@pytest.mark.parametrize("given", [{"rtol": 0.0}, {"atol": -1.0}, {"rtol": math.nan}])
def test_refusals(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be a finite number"):
        AdaptiveSDE(**given)


def test_the_better_solution_is_exact_where_the_data_are_linear_in_q():
    """d(q y) = x0_hat dq with x0_hat = q alone, q = (alpha / sigma)^2: beyond the lower solution,
    which holds x0_hat at q_0, the step is (q_1 - q_0)^2 / 2 of q y."""

    class Linear:
        sde, nfe = VP(), 0

        def denoise(self, x, t, condition=None):
            return torch.exp(self.sde.log_snr(t))[:, None].expand_as(x)

    start, step = torch.tensor([-0.3]).double(), torch.tensor([0.4]).double()
    first, last = math.exp(-0.6), math.exp(0.2)
    problem = Problem(Linear(), torch.ones(1).double(), torch.zeros(1, 2).clone, None, int)
    x = torch.zeros(1, 2).double()
    path = BrownianPath(VP(), (1, 2), seed=0, dtype=torch.float64)
    pair = AdaptiveSDE().pair(replace(problem, noise=path), x)
    batch = BatchState.start(x + 0.7, start, pair.memory(x, start), 0.1)
    batch.known = x + first
    found = pair.attempt(batch, step)
    alpha = math.sqrt(last / (1 + last))
    want = alpha * (last - first) ** 2 / (2 * last)
    torch.testing.assert_close(found.error, torch.full((1, 2), want).double())
