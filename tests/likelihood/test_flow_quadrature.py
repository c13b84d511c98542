"""The divergence apart from the state: its rules, exact log densities, and what examples share."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.likelihood import log_prob
from sde_score.likelihood.flow_coordinates import FlowInClock
from sde_score.likelihood.flow_quadrature import BEND, clenshaw_curtis, nodes
from sde_score.models import GaussianMixture
from sde_score.sdes import EDM, VE, VP, Rectified

APART = {"method": "quadrature"}


@pytest.fixture
def mixture(generator):
    means = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    root = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    spread = 0.1 * root @ root.mT + 0.1 * torch.eye(2)
    return lambda sde: GaussianMixture(means, spread, sde, weights=[0.5, 0.3, 0.2])


@pytest.mark.parametrize("intervals", [7, 12])
def test_clenshaw_curtis_is_exact_to_its_degree(intervals):
    points = -torch.cos(math.pi * torch.arange(intervals + 1).double() / intervals)
    weights = clenshaw_curtis(intervals)
    assert float(weights.min()) > 0
    for degree in range(intervals + 1):
        want = (1 - (-1) ** (degree + 1)) / (degree + 1)
        assert (weights * points**degree).sum().item() == pytest.approx(want, abs=1e-13)


def test_nodes_integrate_over_the_whole_and_over_each_step():
    plan = nodes(40)
    assert (plan.at[0].item(), plan.at[-1].item()) == pytest.approx((0.0, 1.0), abs=1e-14)
    want = math.expm1(3.0) / 3
    values = torch.exp(3 * plan.at)
    assert (plan.weights * values[::2]).sum().item() == pytest.approx(want, rel=1e-7)
    assert (plan.coarse * values[::4]).sum().item() == pytest.approx(want, rel=1e-3)
    for i, step in enumerate(zip(plan.predict, plan.correct, plan.compare, strict=True)):
        for weights, ahead in zip(step, (1, 2, 2), strict=True):
            points = plan.at[i + ahead - len(weights) : i + ahead]
            for degree in range(len(weights)):
                exact = (plan.at[i + 1] ** (degree + 1) - plan.at[i] ** (degree + 1)) / (degree + 1)
                torch.testing.assert_close((weights * points**degree).sum(), exact, rtol=1e-9,
                                           atol=1e-14)  # fmt: skip
    assert [len(weights[-1]) for weights in (plan.predict, plan.correct, plan.compare)] == [6, 7, 6]


@pytest.mark.parametrize("sde", [VP(), VE(0.01, 50.0), Rectified(), EDM()], ids=str)
def test_slope_and_score_of_the_coordinates(sde, mixture):
    """d log p_y / dy = S score, and the slope is that of the whole equation."""
    model = mixture(sde)
    t = torch.tensor([0.2, 0.5], dtype=torch.float64) * sde.t_max
    x, scale = model.sample(2, t=t[1]), torch.hypot(sde.alpha(t), sde.sigma(t))[:, None]
    flow = FlowInClock(model, torch.Size([2]), None, None, "reverse", BEND)
    clock, y, rows = torch.asinh(sde.noise_ratio(t) / BEND), x / scale, torch.arange(2)
    slope = flow.slope(clock, y, rows)
    whole = flow.derivative(clock, torch.cat([y, y[:, :1]], 1), rows)
    torch.testing.assert_close(slope, whole[:, :2], rtol=1e-8, atol=1e-12)
    want = scale * model.score(x, t)
    torch.testing.assert_close(flow.score(clock, y, slope), want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sde", [VP(), VE(0.01, 50.0)], ids=str)
def test_gaussian_log_density_and_latent(sde, gaussian_flow, generator):
    flow = gaussian_flow(sde, (3, 1))
    x = flow.model.sample(2, t=sde.t_min, generator=generator)
    found = log_prob(flow.model, x, rtol=1e-6, atol=1e-6, **APART)
    torch.testing.assert_close(found.log_prob, flow.log_prob(x), rtol=0, atol=2e-5)
    torch.testing.assert_close(found.latent, flow.latent(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", [VE(0.01, 50.0), EDM()], ids=str)
def test_mixture_log_density_is_the_marginal(sde, mixture, generator):
    """p_tmin(x) = p_T(x_T) e^(integral)."""
    model = mixture(sde)
    x = model.sample(3, t=sde.t_min, generator=generator)
    found = log_prob(model, x, rtol=1e-5, atol=1e-5, **APART)
    integral = found.log_prob - sde.prior(x.shape).log_prob(found.latent)
    truth = model.log_prob(x, sde.t_min) - model.log_prob(found.latent, sde.t_max)
    torch.testing.assert_close(integral, truth, rtol=0, atol=5e-5)


def test_probes_are_those_of_the_other_methods(mixture, generator):
    model = mixture(VP())
    x = model.sample(2, generator=generator)
    given = {"divergence": "hutchinson", "probes": 3, "start": 0.05}
    ours = log_prob(model, x, rtol=1e-5, atol=1e-5, **given, **APART)
    theirs = log_prob(model, x, rtol=1e-8, atol=1e-8, **given)
    torch.testing.assert_close(ours.log_prob, theirs.log_prob, rtol=0, atol=3e-5)
    torch.testing.assert_close(ours.standard_error, theirs.standard_error, rtol=1e-4, atol=1e-5)


def test_an_example_has_the_nodes_that_it_needs_alone():
    """Those that need more are solved again, the others stay as they are; all calls are counted."""
    model = GaussianMixture(torch.zeros(1, 2).double(), 0.3, VP())
    x = torch.tensor([[0.3, 0.1], [30.0, -20.0]], dtype=torch.float64)
    both = log_prob(model, x, rtol=1e-3, atol=1e-3, **APART)
    for i in (0, 1):
        alone = log_prob(model, x[i : i + 1], rtol=1e-3, atol=1e-3, **APART)
        torch.testing.assert_close(alone.log_prob[0], both.log_prob[i], rtol=1e-12, atol=1e-12)
        assert alone.evaluations[0] == both.evaluations[i]
        assert alone.nfe == int(alone.evaluations[0])
    assert both.nfe == int(both.evaluations.max())
    assert both.evaluations.tolist() == [65, 162]  # 16 intervals; and 24 more
    assert both.steps.tolist() == [32, 80]


def test_gradients_are_refused(mixture):
    x = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match=r"method with grad=True='quadrature' is not known"):
        log_prob(mixture(VP()), x, grad=True, **APART)
