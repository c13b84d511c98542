"""MPGD, RED-diff and D-Flow: steps by hand, and what they fit."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.posterior import SAMPLERS, Mask, Matrix, Measurement
from sde_score.posterior.solvers import minimise
from sde_score.sdes import VP

SDE = VP()


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prior():
    return GaussianMixture([[0.3, -0.2, 0.1], [1.0, 1.0, 1.0]], 0.5, SDE)


def seen():
    return Measurement(Matrix(normal(2, 3)), normal(2, seed=1), 0.2)


def test_mpgd_moves_the_denoised_mean_and_keeps_the_noise():
    """Four times by hand, eta = .8."""
    model, given = prior(), seen()
    sampler = SAMPLERS.create("mpgd", observation=given, steps=4, step_size=0.3, eta=0.8)
    start, z = normal(4, 3, seed=2), normal(4, 3, seed=3)
    got = sampler(model, start, noise=lambda: z, progress=False)
    times = sampler.times(SDE)
    a = given.operator.values

    def moved(x0):
        point = x0.clone().requires_grad_()
        norm = (given.y - point @ a.T).norm(dim=1)
        (slope,) = torch.autograd.grad(norm.sum(), point)
        most = norm.detach() / (slope @ a.T).norm(dim=1)
        return x0 - most.clamp(max=0.3)[:, None] * slope

    x = start
    for t, s in pairwise(times):
        x0, noise = model.denoise(x, t), model.noise(x, t)
        var_t, var_s = SDE.sigma(t) ** 2, SDE.sigma(s) ** 2
        fresh = 0.8 * (var_s / var_t * (1 - (SDE.alpha(t) / SDE.alpha(s)) ** 2)).sqrt()
        x = SDE.alpha(s) * moved(x0) + (var_s - fresh**2).sqrt() * noise + fresh * z
    torch.testing.assert_close(got, moved(model.denoise(x, times[-1])))
    still = SAMPLERS.create("mpgd", observation=given, steps=5, step_size=0.0, eta=0.0)
    ddim = samplers.create("ddim", steps=5)
    torch.testing.assert_close(
        still(model, start, progress=False), ddim(model, start, progress=False)
    )


def test_red_diff_is_adam_on_the_fit_and_the_noise():
    model, given = prior(), seen()
    sampler = SAMPLERS.create("red-diff", observation=given, steps=6, weight=0.7)
    draws = iter(normal(10, 4, 3, seed=3))
    got = sampler(model, torch.zeros(4, 3).double(), noise=lambda: next(draws), progress=False)
    draws, a = iter(normal(10, 4, 3, seed=3)), given.operator.values
    mean = (torch.linalg.pinv(a) @ given.y).expand(4, 3)
    first, second = torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for k, t in enumerate(sampler.times(SDE), 1):
        noise = next(draws)
        found = model.noise(SDE.alpha(t) * mean + SDE.sigma(t) * noise, t)
        slope = (mean @ a.T - given.y) @ a + 0.7 * SDE.noise_ratio(t) * (found - noise)
        first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
        change = first / (1 - 0.9**k) / ((second / (1 - 0.99**k)).sqrt() + 1e-8)
        mean = mean - 0.1 * change
    torch.testing.assert_close(got, mean)


def test_d_flow_fits_what_was_seen_and_moves_nothing_else():
    """With independent entries the missing one stays where the flow of its start leads."""
    model = GaussianMixture([[0.3, -0.2]], torch.tensor([[0.5, 0.2]]), SDE)
    given = Measurement(Mask(torch.tensor([True, False])), torch.tensor([1.4]), 0.1)
    sampler = SAMPLERS.create("d-flow", observation=given)
    start = normal(4, 2, seed=2)
    got = sampler(model, start, progress=False)
    assert (got[:, 0] - 1.4).abs().max() < 1e-3
    flow = samplers.create("midpoint(steps=6, grid='native')")(model, start, progress=False)
    torch.testing.assert_close(got[:, 1], flow[:, 1], rtol=1e-6, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(sampler(model, start, progress=False), got)
    with pytest.raises(ValueError, match="solver='ancestral' must be deterministic"):
        SAMPLERS.create("d-flow", observation=given, solver="ancestral")


def test_the_least_value_of_each_example_by_itself():
    """Rosenbrock's valley, from an easy and a hard start; alone as in company."""

    def valley(x):
        point = x.clone().requires_grad_()
        value = (1 - point[:, 0]) ** 2 + 100 * (point[:, 1] - point[:, 0] ** 2) ** 2
        return value.detach(), torch.autograd.grad(value.sum(), point)[0], x

    start = torch.tensor([[1.1, 1.1], [-1.2, 1.0]], dtype=torch.float64)
    found = minimise(valley, start, 80)
    torch.testing.assert_close(found, torch.ones(2, 2).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(minimise(valley, start[1:], 80), found[1:], rtol=0, atol=0)


def test_what_seeks_modes_says_so():
    for name in ("red-diff", "d-flow"):
        assert "mode-seeking" in str(SAMPLERS.create(name, observation=seen()))
    with pytest.raises(ValueError, match="step_size"):
        SAMPLERS.create("mpgd", observation=seen(), step_size=-math.inf)
