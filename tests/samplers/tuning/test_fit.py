"""Fits of coefficients: the gradient, the Gauss-Newton matrix, what can be fitted exactly."""

from __future__ import annotations

import math
import time

import pytest
import torch

from sde_score.models import GaussianMixture
from sde_score.random import generator_from
from sde_score.samplers import ProbabilityFlowODE, create
from sde_score.samplers.fixed_step.fitted import linear_form
from sde_score.samplers.tuning import fit as module
from sde_score.samplers.tuning.fit import _Fit, _Theta, count_coefficients, fit_coefficients
from sde_score.samplers.tuning.search import EndErrors, Parts
from sde_score.sdes import EDM, VP


def mixture(dimensions, sde=EDM(0.02, 10.0)):  # noqa: B008, immutable
    means = torch.randn(3, dimensions, generator=generator_from(1, 1), dtype=torch.float64)
    return GaussianMixture(means, 0.05, sde)


def starts(model, *counts):
    fine = ProbabilityFlowODE(rtol=1e-7, atol=1e-7)
    return Parts(model, fine, model.event_shape, 0, None, 7, False).take(*counts)


def prepared(dimensions, sde=EDM(0.02, 10.0), num=10):  # noqa: B008
    model = mixture(dimensions, sde)
    (given,) = starts(model, num)
    theta = _Theta.of(linear_form(create("adams(steps=3)"), model.sde))
    return model, given, theta


def residuals(model, theta, given):
    """Ends less those of the fine solution, by the sampler itself."""
    sampler = theta.sampler()
    ends = [sampler(model, x, progress=False) - end for x, end, _ in given.batches]
    return torch.cat(ends).flatten(1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_loss_is_that_of_the_samples(share):
    model, given, theta = prepared(3)
    square = residuals(model, theta, given).square().mean(1)
    wanted = share * square.mean().log() / 2 + (1 - share) * square.log().mean() / 2
    found = _Fit(model, generator_from(0, 0), share).loss(theta, given)
    assert found == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("sde", [EDM(0.02, 10.0), VP()], ids=str)
@pytest.mark.parametrize(("dimensions", "share"), [(2, 0.5), (7, 0.0), (7, 0.5)])
def test_gradients_are_those_of_differences(dimensions, share, sde, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 3)
    model, given, theta = prepared(dimensions, sde)
    work, h = _Fit(model, generator_from(0, 0), share), 1e-6
    _, gradient = work.equations(theta, given)
    unit = torch.eye(len(theta.values), dtype=torch.float64)
    slopes = [
        (work.loss(theta.plus(h * e), given) - work.loss(theta.plus(-h * e), given)) / (2 * h)
        for e in unit
    ]
    wanted = torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(2 * gradient, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max())


def exact_matrix(model, theta, given, share):
    """sum_i w_i J_i^T J_i, its derivatives by differences of the sampler."""
    h, unit = 1e-5, torch.eye(len(theta.values), dtype=torch.float64)
    columns = [
        residuals(model, theta.plus(h * e), given) - residuals(model, theta.plus(-h * e), given)
        for e in unit
    ]
    jacobian = torch.stack(columns, 2) / (2 * h)
    square = residuals(model, theta, given).square().mean(1)
    dimensions, num = jacobian.shape[1], len(square)
    weight = (share / square.sum() + (1 - share) / (num * square)) / (2 * dimensions)
    return torch.einsum("i,idp,idq->pq", weight, jacobian, jacobian)


@pytest.mark.parametrize(("dimensions", "draws", "tolerance"), [(2, 1, 1e-4), (7, 60, 0.15)])
def test_the_matrix_is_that_of_gauss_newton(dimensions, draws, tolerance):
    """In few dimensions exactly, in more in the mean over the probes."""
    model, given, theta = prepared(dimensions, num=6)
    work = _Fit(model, generator_from(0, 0), 0.5)
    found = sum(work.equations(theta, given)[0] for _ in range(draws)) / draws
    wanted = exact_matrix(model, theta, given, 0.5)
    scale = wanted.diagonal().sqrt()
    off = (found - wanted) / torch.outer(scale, scale)
    assert off.abs().max() < tolerance


def test_all_numbers_are_counted_and_kept():
    form = linear_form(create("dpmpp-2m(steps=5)"), VP())
    theta = _Theta.of(form)
    assert len(theta.values) == count_coefficients(5)
    again = theta.sampler()
    assert again.rows == tuple(
        (*row, *(0.0,) * (k + 2 - len(row))) for k, row in enumerate(form.rows)
    )
    assert again.grid.ratios == pytest.approx(form.grid.ratios, rel=1e-12)


def error(model, sampler, given):
    square = [
        (sampler(model, x, progress=False) - end).square().mean(1) for x, end, _ in given.batches
    ]
    return EndErrors.of(torch.cat(square).sqrt())


def test_the_flow_of_one_gaussian_is_fitted_exactly():
    """It is linear in the start, and so is each step."""
    model = GaussianMixture([[0.4, -0.2, 0.1]], 0.3, EDM(0.02, 10.0))
    fit, held, new = starts(model, 12, 6, 12)
    first = linear_form(create("ddim(steps=2)"), model.sde)
    found = fit_coefficients(model, first, fit, held)
    assert error(model, first, new).rms > 0.01
    assert error(model, found, new).rms < 1e-6


def test_a_fit_is_better_on_starts_that_it_has_not_seen():
    model = mixture(2)
    fit, held, new = starts(model, 40, 20, 40)
    first = linear_form(create("adams(steps=3)"), model.sde)
    found = fit_coefficients(model, first, fit, held, iterations=10)
    before, after = (error(model, each, new) for each in (first, found))
    assert after.median < 0.2 * before.median


def test_the_iterate_that_is_best_on_the_starts_held_out_is_kept(monkeypatch):
    model = mixture(2)
    fit, held = starts(model, 6, 4)
    first = linear_form(create("ddim(steps=3)"), model.sde)
    good = _Theta.of(linear_form(create("adams(steps=3)"), model.sde))
    bad = good.plus(torch.full_like(good.values, 0.01))
    monkeypatch.setattr(module, "_descend", lambda *_: iter([bad, good, bad]))
    found = fit_coefficients(model, first, fit, held)
    torch.testing.assert_close(_Theta.of(found).values, good.values)


def test_time_that_is_over_leaves_what_was_given():
    model = mixture(2)
    fit, held = starts(model, 6, 4)
    first = linear_form(create("adams(steps=3)"), model.sde)
    found = fit_coefficients(model, first, fit, held, until=time.monotonic())
    torch.testing.assert_close(_Theta.of(found).values, _Theta.of(first).values)


def test_noise_ratios_fall_and_stay_in_the_range():
    model, given, theta = prepared(2)
    work = _Fit(model, generator_from(0, 0))
    wrong = theta.values.clone()
    wrong[-2:] = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert work.loss(theta.plus(wrong - theta.values), given) == math.inf
    wrong[-1] = -9.0
    last = work.within(theta.plus(wrong - theta.values)).log_ratios[-1]
    assert last.exp().item() == pytest.approx(0.02)
    with pytest.raises(TypeError, match=r"accepted: NoiseRatios"):
        _Theta.of(create("adams(steps=3)"))
