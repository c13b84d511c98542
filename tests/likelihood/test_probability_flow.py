"""Log densities of Gaussians and mixtures, and how the solver is driven."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from tqdm import tqdm

from sde_score.likelihood import SOLVERS, draw_probes, log_prob
from sde_score.models import GaussianMixture, ScoreModel
from sde_score.random import example_seeds
from sde_score.sdes import EDM, VE, VP

NATS = 1e-4


class ClassGaussian(nn.Module):
    """The exact noise of data N(condition, variance I) on a VP diffusion, in float32."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.tensor(variance))
        self.calls = 0

    def forward(self, x, noise_level, condition):
        assert x.dtype == torch.float32
        self.calls += 1
        level = noise_level.reshape(-1, *(1,) * (x.ndim - 1))
        alpha, sigma = torch.sigmoid(-8 * level).sqrt(), torch.sigmoid(8 * level).sqrt()
        mean = 0 if condition is None else alpha * condition.reshape(level.shape)
        return sigma * (x - mean) / (alpha**2 * self.variance + sigma**2)


@pytest.fixture
def mixture(generator):
    """Three anisotropic components, unequal weights, of narrow and wide noise scales."""

    def make(sde, dim=2):
        means = torch.randn(3, dim, generator=generator, dtype=torch.float64)
        root = torch.randn(3, dim, dim, generator=generator, dtype=torch.float64)
        spread = 0.05 * root @ root.mT + 0.01 * torch.eye(dim)
        return GaussianMixture(means, spread, sde, weights=[0.5, 0.3, 0.2])

    return make


def test_a_point_that_does_not_move_still_resolves_its_log_density(sde):
    """At the mode of N(0, v I) the flow is at rest: the divergence alone drives the steps."""
    model = GaussianMixture(torch.zeros(1, 2), 0.3, sde)
    start, end = (0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2 for t in (sde.t_min, sde.t_max))
    truth = (end / start).log() - 2 * math.log(math.sqrt(2 * math.pi) * sde.prior_std)
    found = log_prob(model, torch.zeros(1, 2))
    torch.testing.assert_close(found.log_prob[0], truth, rtol=0, atol=NATS)


def test_gaussian_log_density_and_latent_are_those_of_the_exact_flow(sde, gaussian_flow, generator):
    """log p(x) = log prior(x_T) + 1/2 log det(S_T / S_0), with the defaults."""
    flow = gaussian_flow(sde, (3, 1, 2))
    x = flow.model.sample(4, t=sde.t_min, generator=generator)
    found = log_prob(flow.model, x)
    torch.testing.assert_close(found.log_prob, flow.log_prob(x), rtol=0, atol=NATS)
    torch.testing.assert_close(found.latent, flow.latent(x), rtol=2e-5, atol=2e-5)
    assert torch.equal(found.standard_error, torch.zeros(4, dtype=torch.float64))


def test_mixture_log_density_is_the_marginal_at_t_min(sde, mixture, generator):
    """p_tmin(x) = p_T(x_T) e^(integral): what the prior stands for is put back exactly."""
    model = mixture(sde)
    x = model.sample(6, t=sde.t_min, generator=generator)
    found = log_prob(model, x)
    stand_in = model.sde.prior(x.shape).log_prob(found.latent)
    integral = found.log_prob - stand_in
    truth = model.log_prob(x, sde.t_min)
    torch.testing.assert_close(
        integral + model.log_prob(found.latent, sde.t_max), truth, rtol=0, atol=NATS
    )


@pytest.mark.parametrize("sde", [VP(0.1, 60.0), VE(0.01, 1e5), EDM(0.01, 1e5)], ids=str)
def test_log_density_is_the_marginal_where_the_prior_is_the_law_at_t_max(sde, mixture, generator):
    model = mixture(sde, dim=3)
    x = model.sample(6, t=sde.t_min, generator=generator)
    truth = model.log_prob(x, sde.t_min)
    torch.testing.assert_close(log_prob(model, x).log_prob, truth, rtol=0, atol=NATS)


def test_default_tolerance_holds_in_64_dimensions(gaussian_flow, generator):
    flow = gaussian_flow(VP(), (1, 8, 8))
    x = flow.model.sample(2, t=flow.sde.t_min, generator=generator)
    torch.testing.assert_close(
        log_prob(flow.model, x).log_prob, flow.log_prob(x), rtol=0, atol=NATS
    )


def test_scipy_is_an_independent_reference(mixture, generator):
    model = mixture(VP())
    x = model.sample(3, generator=generator)
    ours, theirs = (log_prob(model, x, method=m, rtol=1e-8, atol=1e-8) for m in SOLVERS)
    torch.testing.assert_close(ours.log_prob, theirs.log_prob, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.latent, theirs.latent, rtol=0, atol=1e-6)
    assert theirs.steps > 10
    short = mixture(VE(1.0, 1.05))
    narrow = [log_prob(short, x, method=m).log_prob for m in SOLVERS]
    torch.testing.assert_close(*narrow, rtol=0, atol=1e-8)


def test_given_probes_estimate_the_integral_of_their_quadratic_form(gaussian_flow, generator):
    """Gaussian data: log det is replaced by sum_k (u_k . eps)^2 log(S_T / S_0)_k / 2."""
    flow = gaussian_flow(VP())
    x = flow.model.sample(4, generator=generator)
    probes = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
    found = log_prob(flow.model, x, divergence="hutchinson", probes=probes)
    along = (probes @ torch.linalg.eigh(flow.covariance)[1]).square()
    samples = flow.log_prob(x) - flow.stretch().sum() + along @ flow.stretch()
    torch.testing.assert_close(found.log_prob, samples.mean(0), rtol=0, atol=NATS)
    error = samples.std(0) / math.sqrt(5)
    torch.testing.assert_close(found.standard_error, error, rtol=1e-4, atol=0)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_standard_error_calibrated(law, gaussian_flow):
    """400 repetitions: mean, variance, and coverage of +-2 errors, as of the quadratic form alone.

    The integral of eps^T J eps is eps^T M eps, M the integral of the (commuting) Jacobians.
    """
    flow, count = gaussian_flow(VP()), 12
    x = torch.full((400, 3), 0.3, dtype=torch.float64)
    loose = {"divergence": "hutchinson", "rtol": 1e-5, "atol": 1e-5}
    found = log_prob(flow.model, x, probes=count, probe_law=law, **loose)
    off = found.log_prob - flow.log_prob(x)
    assert abs(off.mean()) < 4 * off.std() / 20
    error = found.standard_error
    torch.testing.assert_close(error.square().mean().sqrt(), off.std(), rtol=0.12, atol=0)
    axes = torch.linalg.eigh(flow.covariance)[1]
    probes = draw_probes(count, torch.zeros(4000, 3, dtype=torch.float64), law, seed=1)
    forms = (probes @ axes).square() @ flow.stretch() - flow.stretch().sum()
    expected = (forms.mean(0).abs() < 2 * forms.std(0) / count**0.5).double().mean()
    assert 0.85 < expected < 0.97
    assert abs((off.abs() < 2 * error).double().mean() - expected) < 0.05


def test_one_probe_tells_nothing_of_its_error(gaussian_flow):
    flow = gaussian_flow(VP())
    found = log_prob(flow.model, torch.zeros(2, 3), divergence="hutchinson", rtol=1e-3, atol=1e-3)
    assert bool(found.standard_error.isnan().all())


def test_an_examples_estimate_does_not_depend_on_its_batch(mixture, generator):
    model = mixture(VP())
    x = model.sample(4, generator=generator)
    tight = {"divergence": "hutchinson", "probes": 2, "rtol": 1e-7, "atol": 1e-7}
    together = log_prob(model, x, seed=7, **tight)
    alone = log_prob(model, x[2:3], seed=example_seeds(7, 4)[2:3], **tight)
    torch.testing.assert_close(together.log_prob[2:3], alone.log_prob, rtol=0, atol=1e-5)
    other = log_prob(model, x[2:3], seed=8, **tight)
    assert abs(float(other.log_prob - alone.log_prob)) > 1e-3


def test_easy_neighbours_do_not_loosen_the_steps_of_a_hard_example():
    """The flow of a Gaussian is linear: errors grow with x, and the worst example decides alone."""
    model = GaussianMixture(torch.zeros(1, 2), 0.3, VP())
    hard = torch.full((1, 2), 100.0, dtype=torch.float64)
    absolute = {"rtol": 1e-12, "atol": 1e-4}
    alone = log_prob(model, hard, **absolute)
    crowded = log_prob(model, torch.cat([hard, torch.zeros(63, 2)]), **absolute)
    assert crowded.nfe == alone.nfe
    assert log_prob(model, hard / 100, **absolute).nfe < alone.nfe


def test_independent_copies_cost_the_evaluations_of_one():
    """Errors are measured per dimension: a product of 16 equal laws is as hard as one of them."""
    x = torch.tensor([[0.7]], dtype=torch.float64)
    one, many = (
        log_prob(GaussianMixture(torch.zeros(1, n), 0.3, VP()), x.expand(1, n)) for n in (1, 16)
    )
    assert one.nfe == many.nfe
    torch.testing.assert_close(16 * one.log_prob, many.log_prob, rtol=0, atol=1e-10)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_one_forward_pass_per_evaluation_counted_on_the_model(divergence):
    """Drift and divergence share the pass; nfe is what this call added."""
    backbone = ClassGaussian(0.5)
    model = ScoreModel(backbone, VP())
    for _ in range(2):
        before = backbone.calls
        found = log_prob(model, torch.zeros(3, 4), divergence=divergence, rtol=1e-3, atol=1e-3)
        assert found.nfe == backbone.calls - before
    assert model.nfe == backbone.calls
    # Dormand-Prince: six evaluations per step tried, and one to start.
    assert (found.nfe - 1) % 6 == 0
    assert found.steps <= (found.nfe - 1) // 6


def test_solver_lands_on_t_max(gaussian_flow):
    """No step passes the end: t_max is seen by the last two stages of the last step alone."""
    times = []

    class Watched(GaussianMixture):
        def _predict(self, x, at, condition):
            times.append(float(at.t))
            return super()._predict(x, at, condition)

    log_prob(Watched(torch.zeros(1, 2), 0.5, VP()), torch.ones(1, 2))
    assert times[0] == pytest.approx(VP().t_min, rel=1e-9)
    assert sum(t >= 1 - 1e-9 for t in times) == 2


@pytest.mark.parametrize("event", [(3,), (1, 2, 2)])
def test_float32_network_with_a_condition(event):
    """Data N(c, v I) given c: each example is scored against its own class."""
    condition = torch.tensor([-1.0, 0.5, 2.0])
    x = torch.zeros(3, *event) + torch.linspace(-1, 1, math.prod(event)).reshape(event)
    model = ScoreModel(ClassGaussian(0.5), VP(0.1, 60.0))
    found = log_prob(model, x, condition=condition)
    law = torch.distributions.Normal(condition[:, None], math.sqrt(0.5))
    truth = law.log_prob(x.flatten(1)).sum(1).double()
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=1e-3)
    assert found.log_prob.dtype == found.latent.dtype == torch.float64


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_state_of_model_and_caller_is_left_alone(mode):
    backbone = ClassGaussian(0.5)
    model = ScoreModel(backbone, VP()).train()
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    backbone.register_parameter("frozen", frozen)
    with mode():
        x = torch.linspace(-1, 1, 6).reshape(2, 3)
        before, grads = x.clone(), torch.is_grad_enabled()
        found = log_prob(model, x.requires_grad_() if mode is torch.enable_grad else x)
        assert torch.is_grad_enabled() == grads
    assert torch.equal(x, before)
    assert x.grad is None
    assert backbone.variance.requires_grad
    assert backbone.variance.grad is None
    assert not frozen.requires_grad
    assert model.training
    assert not found.log_prob.requires_grad
    assert not found.latent.requires_grad
    truth = log_prob(model, before.clone(), method="scipy").log_prob
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=1e-3)


def test_progress_shows_a_bar_and_changes_nothing(capsys, gaussian_flow, monkeypatch):
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **given: tqdm(**{**given, "delay": 0}))
    model, x = gaussian_flow(VP()).model, torch.zeros(1, 3)
    silent = log_prob(model, x, rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().err == ""
    shown = log_prob(model, x, rtol=1e-3, atol=1e-3, progress=True)
    assert "100%" in capsys.readouterr().err
    assert torch.equal(silent.log_prob, shown.log_prob)


def test_given_probes_equal_drawn_ones(gaussian_flow):
    model, x = gaussian_flow(VP()).model, torch.ones(2, 3, dtype=torch.float64)
    loose = {"divergence": "hutchinson", "rtol": 1e-3, "atol": 1e-3}
    drawn = log_prob(model, x, probes=3, probe_law="gaussian", seed=4, **loose)
    given = log_prob(model, x, probes=draw_probes(3, x, "gaussian", 4), **loose)
    assert torch.equal(drawn.log_prob, given.log_prob)
