"""Likelihood by few steps: its error is told, bounds the true one, and refuses nonsense."""

import math

import pytest
import torch

from sde_score import likelihood
from sde_score.data import Scaling
from sde_score.likelihood import DEQUANTIZATIONS, bits_per_dim, log_prob, log_prob_by_steps
from sde_score.models import GaussianFlowMap, GaussianMixture
from sde_score.sdes import EDM, VP, Rectified

SDES = [VP(), EDM(), Rectified()]
MEAN, COVARIANCE = torch.tensor([0.5, -0.3]), torch.tensor([[1.5, 0.6], [0.6, 0.5]])


def mixture(sde, std=0.1):
    return GaussianMixture([[-1.0, 0.2], [0.8, -0.4]], std**2, sde, weights=[0.4, 0.6])


def draws(model, count=16):
    return model.sample(count, t=model.sde.t_min, generator=torch.Generator().manual_seed(0))


def test_steps_are_of_order_four_and_the_error_told_is_no_smaller_than_the_true_one():
    model = mixture(Rectified(), 0.4)
    x = draws(model, 4)
    truth, errors = log_prob(model, x, rtol=1e-9, atol=1e-9).log_prob, []
    for steps in (20, 40):
        found = log_prob_by_steps(model, x, steps, tolerance=None)
        off, told = (e.square().mean().sqrt() for e in (found.log_prob - truth, found.error))
        assert told > off
        assert found.rms == pytest.approx(float(told) / (2 * math.log(2)))
        assert found.nfe == 4 * (steps + steps // 2)
        errors.append(float(off))
    assert 10 < errors[0] / errors[1] < 60


def test_too_few_steps_are_refused_and_enough_are_not():
    """The case that elsewhere prints a number."""
    model = mixture(VP(), 0.05)
    x = draws(model, 6)
    with pytest.raises(RuntimeError, match=r"4 steps of rk4.*bits per dimension.*more steps"):
        bits_per_dim(model, x, Scaling(), "few-steps(steps=4)")
    truth = bits_per_dim(model, x, Scaling(), "flow(divergence='exact', rtol=1e-7, atol=1e-7)")
    wild = log_prob_by_steps(model, x, 4, tolerance=None)
    assert abs(float(wild.log_prob.mean()) / (2 * math.log(2)) + truth.mean) > 0.1
    fine = bits_per_dim(model, x, Scaling(), "few-steps(steps=32, divergence='exact')")
    assert fine.mean == pytest.approx(truth.mean, abs=0.002)
    assert fine.value_errors.tolist() == [0.0] * 6


def test_the_probes_of_an_example_are_its_own_and_discrete_data_are_spread():
    model, scaling = mixture(VP(), 0.3), Scaling.discrete(4)
    raw = torch.tensor([[0, 1], [3, 2], [1, 1]], dtype=torch.uint8)
    by = likelihood.create("few-steps(tolerance=0.2, probes=2)")
    whole = by(model, raw, scaling, seeds=[3, 4, 5]).values
    part = by(model, raw[1:2], scaling, seeds=[4]).values
    torch.testing.assert_close(part, whole[1:2])
    points = DEQUANTIZATIONS.create("truncated-normal")(raw, scaling, model.sde, [3, 4, 5])
    spread = likelihood.create("few-steps(dequantization='truncated-normal', divergence='exact')")
    known = log_prob(model, points.x, start=points.start).log_prob - points.log_q
    found = spread(model, raw, scaling, seeds=[3, 4, 5])
    torch.testing.assert_close(found.values, known, rtol=0, atol=0.02)
    assert bool(found.standard_error.isnan().all())  # of one draw each


class Stretched(GaussianFlowMap):
    """The closed form, with a wrong log-determinant."""

    rate, bend = 0.0, 0.0

    def log_det(self, x, t, s, condition=None):
        gap = (self.sde.log_snr(torch.tensor(t)) - self.sde.log_snr(torch.tensor(s))).double()
        return super().log_det(x, t, s) + self.rate * gap + self.bend * gap**2


@pytest.mark.parametrize("sde", SDES, ids=str)
def test_steps_of_a_map_with_its_log_determinant_are_exact(sde):
    model = GaussianFlowMap(MEAN, COVARIANCE, sde, 0.8)
    x = draws(model.data, 8)
    truth = model.data.log_prob(x, sde.t_min)
    end = log_prob(model.data, x)
    found = log_prob_by_steps(model, x, 2, method="flow-map")
    torch.testing.assert_close(found.log_prob, end.log_prob, rtol=0, atol=1e-5)
    assert (found.log_prob - truth).abs().max() < 0.1  # but for the prior at t_max
    assert found.error.max() < 1e-9
    assert log_prob_by_steps(model, x, 2, method="flow-map", checked=0).nfe == 6


def test_a_wrong_log_determinant_is_refused_whether_its_halves_agree_or_not():
    model = Stretched(MEAN, COVARIANCE, VP())
    x = draws(model.data, 8)
    model.bend = 1e-2
    with pytest.raises(RuntimeError, match=r"2 steps of flow-map.*exact solves"):
        log_prob_by_steps(model, x, 2, method="flow-map", checked=0)
    model.bend, model.rate = 0.0, 1e-2
    log_prob_by_steps(model, x, 2, method="flow-map", checked=0)  # which its halves cannot see
    with pytest.raises(RuntimeError, match=r"2 steps of flow-map.*exact solves"):
        log_prob_by_steps(model, x, 2, method="flow-map")


def test_what_does_not_fit_is_refused():
    model, x = mixture(VP()), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"steps=3 must be even"):
        log_prob_by_steps(model, x, 3)
    with pytest.raises(ValueError, match=r"method"):
        likelihood.create("few-steps(method='leapfrog')")
    with pytest.raises(TypeError, match=r"GaussianMixture without a log-determinant.*LogDetFlow"):
        log_prob_by_steps(model, x, 2, method="flow-map")
    raw = x.double().requires_grad_()
    with pytest.raises(ValueError, match=r"grad=True.*by='flow'"):
        bits_per_dim(model, raw, Scaling(), "few-steps", grad=True)
