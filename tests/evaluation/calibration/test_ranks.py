"""Ranks of truths among draws: uniform for exact posteriors, and telling for others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score import samplers
from sde_score.evaluation import Calibration, Ranks, posterior_draws, sbc, tarp
from sde_score.models import GaussianMixture
from sde_score.posterior import Mask, Measurement, Posterior

PRIOR = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)


def normal_posteriors(count, draws, width=1.0, shift=0.0):
    """theta of N(0, PRIOR) with draws of its posterior given y = theta + N(0, 1), made wider."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, draws + 2, 2, generator=generator, dtype=torch.float64)
    truth = noise[:, 0] @ torch.linalg.cholesky(PRIOR).T
    y = truth + noise[:, 1]
    covariance = torch.linalg.inv(torch.linalg.inv(PRIOR) + torch.eye(2))
    factor = width * torch.linalg.cholesky(covariance)
    return truth, (y @ covariance + shift)[:, None] + noise[:, 2:] @ factor.T


@pytest.mark.parametrize(
    ("how", "sound"),
    [({}, True), ({"width": 0.7}, False), ({"width": 1.5}, False), ({"shift": 0.3}, False)],
)
def test_exact_posteriors_alone_pass(how, sound):
    found = Calibration.of(*normal_posteriors(400, 39, **how), names=("a", "b"))
    p_values = [float(p) for p in (*found.sbc.p_values(), *found.tarp.p_values())]
    assert found.sbc.names == ("a", "b")
    assert (min(p_values) > 0.01) == sound
    assert sound or max(p_values[:2]) < 1e-3


def test_distances_to_random_points_see_what_no_marginal_shows():
    generator = torch.Generator().manual_seed(0)
    center, noise = torch.randn(2, 2000, 2, generator=generator, dtype=torch.float64)
    truth = center + torch.stack([noise[:, 0], 0.95 * noise[:, 0] + 0.31 * noise[:, 1]], 1)
    draws = center[:, None] + torch.randn(2000, 19, 2, generator=generator, dtype=torch.float64)
    assert float(sbc(truth, draws).p_values().min()) > 0.01
    assert float(tarp(truth, draws).p_values()) < 1e-3
    one, same, other = (tarp(truth, draws, seed=seed).values for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert float((one != other).double().mean()) > 0.5


def test_ranks_count_the_draws_below():
    truth = torch.tensor([[0.5, 2.0]])
    draws = torch.tensor([[[0.1, 1.0], [0.4, 3.0], [0.9, 1.5]]])
    assert sbc(truth, draws).values.tolist() == [[2, 2]]
    here = torch.tensor([[0.5, 1.5]])  # the truth is .5 away, the draws .64, 1.5 and .4
    assert tarp(truth, draws, here).values.tolist() == [[1]]


def test_p_values_are_those_of_the_chi_square_statistic():
    ranks = torch.arange(100)[:, None] % 21
    found = Ranks(ranks, 20, ("a",))
    counts, expected = found.histogram(5)
    assert counts.sum() == 100
    assert expected.tolist() == pytest.approx([100 * n / 21 for n in (5, 4, 4, 4, 4)])
    reference = stats.chisquare(counts[0].numpy(), expected.numpy()).pvalue
    assert float(found.p_values(5)) == pytest.approx(reference)
    assert [Ranks(ranks[:n], 20, ("a",)).bins for n in (3, 50, 100)] == [2, 10, 20]
    generator = torch.Generator().manual_seed(0)
    uniform = torch.randint(0, 20, (200, 300), generator=generator)
    p_values = Ranks(uniform, 19, ("a",) * 300).p_values()
    assert stats.kstest(p_values.numpy(), "uniform").pvalue > 0.01
    low, high = Ranks(uniform, 19, ("a",) * 300).bin_band(0.99)
    counts = Ranks(uniform, 19, ("a",) * 300).histogram()[0]
    assert float(((counts < low) | (counts > high)).double().mean()) < 0.012


def test_curves_lie_in_their_band_and_intervals_hold_their_share():
    ranks = Ranks(torch.arange(20).repeat(5)[:, None], 19, ("a",))
    expected, found = ranks.cumulative()
    torch.testing.assert_close(found[0], expected)
    assert ranks.margin(0.95) == pytest.approx(1.358 / 10, rel=1e-3)  # Kolmogorov's quantile
    expected, found = ranks.coverage((0.5, 0.9))
    assert found[0].tolist() == expected.tolist() == [0.5, 0.9]
    narrow = Ranks(torch.tensor([[0], [0], [19], [10]]), 19, ("a",))
    assert narrow.coverage((0.5, 0.9))[1].tolist() == [[0.25, 0.25]]


class Each(Measurement):
    """A measurement of its own for every example."""

    def __init__(self, operator, y, std):
        super().__init__(operator, y[0], std)
        self.each = y

    def residual(self, x0):
        return self.each - self.operator(x0)


@pytest.mark.parametrize(("method", "sound"), [("mmps", True), ("dps", False)])
def test_the_exact_method_passes_and_published_dps_does_not(method, sound):
    count, draws, std = 150, 19, 0.3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    truth = noise[:, :2] @ torch.linalg.cholesky(PRIOR).T
    y = (truth[:, :1] + std * noise[:, 2:]).repeat_interleave(draws, 0)
    prior = GaussianMixture([[0.0, 0.0]], PRIOR[None], "edm")
    sampler = samplers.create("dpmpp-2m(steps=20)" if sound else "ddpm(steps=20)")
    seen = Each(Mask(torch.tensor([True, False])), y, std)
    model = Posterior(prior, seen, method, sampler=sampler)
    found = sampler(model, (count * draws, 2), seed=0, progress=False)
    p_values = sbc(truth, found.reshape(count, draws, 2)).p_values()
    assert bool((p_values > 0.01).all()) == sound
    assert sound or float(p_values[0]) < 1e-6


def test_draws_stand_by_what_they_were_told():
    class Told(GaussianMixture):
        takes_condition = True

        def _predict(self, x, at, condition):
            return condition.to(x)

        def _coefficients(self, at):
            from sde_score.models.parametrization import data

            return data(at)

    model, told = Told([[0.0]], 1.0, "edm"), torch.tensor([[1.0], [5.0], [9.0]])
    found = posterior_draws(model, told, (1,), 2, sampler="dpmpp-2m(steps=4)", batch_size=4)
    assert found.shape == (3, 2, 1)
    assert found[..., 0].round().tolist() == [[1, 1], [5, 5], [9, 9]]


def test_what_does_not_fit_is_refused():
    truth, draws = torch.zeros(4, 2), torch.zeros(4, 9, 2)
    for wrong, says in (
        ((truth, draws[:3]), "draws of shape"),
        ((truth, draws[..., :1]), "draws of shape"),
        ((truth.long(), draws), "truth"),
        ((truth, draws / 0), "draws holds NaN"),
        ((truth, draws, ("a",)), "names"),
    ):
        with pytest.raises(ValueError, match=says):
            sbc(*wrong)
    with pytest.raises(ValueError, match="references"):
        tarp(truth, draws, torch.zeros(4, 3))
    for values, says in ((torch.tensor([[10]]), "0 to draws=9"), (np.zeros((2, 1)), "values")):
        with pytest.raises(ValueError, match=says):
            Ranks(values, 9, ("a",))
    with pytest.raises(ValueError, match="levels"):
        Ranks(torch.tensor([[1]]), 9, ("a",)).coverage((1.5,))
