"""Log densities of Gaussians and mixtures, and how the solver is driven."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from tqdm import tqdm

from sde_score.likelihood import SOLVERS, draw_probes, log_prob
from sde_score.models import DERIVATIVE_MODES, GaussianMixture, ScoreModel
from sde_score.sdes import EDM, VE, VP, Rectified, SubVP

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


@pytest.mark.parametrize("sde", [VP(), EDM(), Rectified()], ids=str)
def test_a_point_that_does_not_move_still_resolves_its_log_density(sde):
    """At the mode of N(0, v I) the flow is at rest: the divergence alone drives the steps."""
    model = GaussianMixture(torch.zeros(1, 2), 0.3, sde)
    start, end = (0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2 for t in (sde.t_min, sde.t_max))
    truth = (end / start).log() - 2 * math.log(math.sqrt(2 * math.pi) * sde.prior_std)
    found = log_prob(model, torch.zeros(1, 2))
    torch.testing.assert_close(found.log_prob[0], truth, rtol=0, atol=NATS)


def test_gaussian_log_density_and_latent_are_those_of_the_exact_flow(sde, gaussian_flow, generator):
    """log p(x) = log prior(x_T) + 1/2 log det(S_T / S_0), with the defaults."""
    flow = gaussian_flow(sde, (3, 1))
    x = flow.model.sample(2, t=sde.t_min, generator=generator)
    found = log_prob(flow.model, x)
    torch.testing.assert_close(found.log_prob, flow.log_prob(x), rtol=0, atol=NATS)
    torch.testing.assert_close(found.latent, flow.latent(x), rtol=2e-5, atol=2e-5)
    assert torch.equal(found.standard_error, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("sde", [SubVP(), EDM(), Rectified()], ids=str)
def test_mixture_log_density_is_the_marginal_at_t_min(sde, mixture, generator):
    """p_tmin(x) = p_T(x_T) e^(integral): what the prior stands for is put back exactly."""
    model = mixture(sde)
    x = model.sample(3, t=sde.t_min, generator=generator)
    found = log_prob(model, x)
    stand_in = model.sde.prior(x.shape).log_prob(found.latent)
    integral = found.log_prob - stand_in
    truth = model.log_prob(x, sde.t_min)
    torch.testing.assert_close(
        integral + model.log_prob(found.latent, sde.t_max), truth, rtol=0, atol=NATS
    )


@pytest.mark.parametrize("sde", [VP(0.1, 60.0), VE(0.01, 1e5), EDM(0.01, 1e5)], ids=str)
def test_log_density_is_the_marginal_where_the_prior_is_the_distribution_at_t_max(
    sde, mixture, generator
):
    model = mixture(sde, dim=3)
    x = model.sample(3, t=sde.t_min, generator=generator)
    truth = model.log_prob(x, sde.t_min)
    torch.testing.assert_close(log_prob(model, x).log_prob, truth, rtol=0, atol=NATS)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_log_density_from_a_later_start_is_the_marginal_there(share, mixture, generator):
    """x at time s: the same flow from s on gives the marginal density of the mixture at s."""
    sde = VP(0.1, 60.0)
    model, start = mixture(sde), sde.t_min + share * (sde.t_max - sde.t_min)
    x = model.sample(4, t=start, generator=generator)
    found = log_prob(model, x, start=start)
    torch.testing.assert_close(found.log_prob, model.log_prob(x, start), rtol=0, atol=NATS)
    if share == 0:
        loose = {"rtol": 1e-2, "atol": 1e-2}
        told, untold = log_prob(model, x, start=start, **loose), log_prob(model, x, **loose)
        assert torch.equal(told.log_prob, untold.log_prob)


def test_default_tolerance_holds_in_64_dimensions(gaussian_flow, generator):
    flow = gaussian_flow(VP(), (1, 8, 8))
    x = flow.model.sample(1, t=flow.sde.t_min, generator=generator)
    torch.testing.assert_close(
        log_prob(flow.model, x).log_prob, flow.log_prob(x), rtol=0, atol=NATS
    )


def test_scipy_is_an_independent_reference(mixture, generator):
    model = mixture(VP())
    x = model.sample(3, generator=generator)
    ours, theirs = (log_prob(model, x, method=m, rtol=1e-8, atol=1e-8) for m in ("dopri5", "scipy"))
    torch.testing.assert_close(ours.log_prob, theirs.log_prob, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.latent, theirs.latent, rtol=0, atol=1e-6)
    assert theirs.steps.tolist() == [int(theirs.steps[0])] * 3
    assert theirs.evaluations.tolist() == [theirs.nfe] * 3
    assert 10 < int(theirs.steps[0]) <= theirs.nfe // 6
    short = mixture(VE(1.0, 1.05))
    narrow = [log_prob(short, x, method=m).log_prob for m in SOLVERS]
    for other in narrow[1:]:
        torch.testing.assert_close(other, narrow[0], rtol=0, atol=1e-8)


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


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_standard_error_calibrated(distribution, gaussian_flow):
    """400 repetitions: mean, variance, and coverage of +-2 errors, as of the quadratic form alone.

    The integral of eps^T J eps is eps^T M eps, M the integral of the (commuting) Jacobians.
    """
    flow, count = gaussian_flow(VP()), 12
    x = torch.full((400, 3), 0.3, dtype=torch.float64)
    loose = {"divergence": "hutchinson", "rtol": 1e-4, "atol": 1e-4}
    found = log_prob(flow.model, x, probes=count, probe_distribution=distribution, **loose)
    off = found.log_prob - flow.log_prob(x)
    assert abs(off.mean()) < 4 * off.std() / 20
    error = found.standard_error
    torch.testing.assert_close(error.square().mean().sqrt(), off.std(), rtol=0.12, atol=0)
    axes = torch.linalg.eigh(flow.covariance)[1]
    probes = draw_probes(count, torch.zeros(4000, 3, dtype=torch.float64), distribution, seed=1)
    forms = (probes @ axes).square() @ flow.stretch() - flow.stretch().sum()
    expected = (forms.mean(0).abs() < 2 * forms.std(0) / count**0.5).double().mean()
    assert 0.85 < expected < 0.97
    assert abs((off.abs() < 2 * error).double().mean() - expected) < 0.05


def test_one_probe_tells_nothing_of_its_error(gaussian_flow):
    flow = gaussian_flow(VP())
    found = log_prob(flow.model, torch.zeros(2, 3), divergence="hutchinson", rtol=1e-3, atol=1e-3)
    assert bool(found.standard_error.isnan().all())


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_an_example_depends_neither_on_easy_nor_on_hard_neighbors(divergence, mixture, generator):
    """Alone, and in batches: value, latent, error and evaluations are those of the example."""
    model = mixture(VP())
    x = model.sample(1, generator=generator)
    hard = torch.tensor([[40.0, -25.0], [3.0, 9.0], [-6.0, 0.2]], dtype=torch.float64)
    easy = torch.zeros(5, 2, dtype=torch.float64)
    given = {"divergence": divergence, "rtol": 1e-4, "atol": 1e-4}
    if divergence == "hutchinson":
        given["probes"] = 3

    def solved(points, index):
        """What is found for the point at an index, whose seed is 7."""
        seeds = [7 if i == index else 100 + i for i in range(len(points))]
        found = log_prob(model, points, seed=seeds, **given)
        assert found.nfe == int(found.evaluations.max())
        assert torch.equal((found.evaluations - 1) % 6, torch.zeros(len(points)))
        assert bool((6 * found.steps < found.evaluations).all())
        return [v[index] for v in (found.log_prob, found.latent, found.standard_error)], [
            int(v[index]) for v in (found.evaluations, found.steps)
        ]

    values, counts = solved(x, 0)
    for points, index in ((torch.cat([x, hard]), 0), (torch.cat([easy, x]), len(easy))):
        values_there, counts_there = solved(points, index)
        assert counts_there == counts
        for there, alone in zip(values_there, values, strict=True):
            torch.testing.assert_close(there, alone, rtol=0, atol=1e-12)
    other = log_prob(model, x, seed=[8], **given)
    moved = abs(float(other.log_prob[0] - values[0]))
    assert (moved > 1e-3) == (divergence == "hutchinson")


def test_each_example_is_controlled_on_its_own():
    """The flow of a Gaussian is linear: errors grow with x, and so do the steps, example by
    example."""
    model = GaussianMixture(torch.zeros(1, 2), 0.3, VP())
    x = torch.tensor([[0.0], [1.0], [30.0], [1000.0]], dtype=torch.float64).expand(4, 2)
    found = log_prob(model, x, rtol=1e-12, atol=1e-4)
    assert found.evaluations.tolist() == sorted(found.evaluations.tolist())
    assert found.evaluations.unique().numel() == 3  # to absolute 1e-4, 0 is as easy as 1
    assert found.nfe == int(found.evaluations[-1])


def test_independent_copies_cost_the_evaluations_of_one():
    """Errors are measured per dimension: a product of 16 equal factors is as hard as one."""
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
    assert int(found.steps.max()) <= (found.nfe - 1) // 6


def test_solver_lands_on_t_max(gaussian_flow):
    """No step passes the end: t_max is seen by the last two stages of the last step alone."""
    times = []

    class Watched(GaussianMixture):
        def _predict(self, x, at, condition):
            times.append(float(at.t[0]))
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
    distribution = torch.distributions.Normal(condition[:, None], math.sqrt(0.5))
    truth = distribution.log_prob(x.flatten(1)).sum(1).double()
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=1e-3)
    assert found.log_prob.dtype == found.latent.dtype == torch.float64


class Classified(GaussianMixture):
    """Reads its condition: the data of class c are those of class 0, c further to the right."""

    def _predict(self, x, at, condition):
        shift = at.alpha * condition.double()
        return super()._predict(x - shift[:, None], at, None)


def test_condition_follows_the_examples_that_are_still_on_their_way():
    model = Classified(torch.zeros(1, 2), 0.3, VP(0.1, 60.0))
    x = torch.tensor([[0.0], [500.0], [2.0], [40.0]], dtype=torch.float64).expand(4, 2)
    classes = torch.tensor([0, 3, -2, 1])
    found = log_prob(model, x, condition=classes)
    assert found.evaluations.unique().numel() > 2
    scale = math.sqrt(0.3 * VP(0.1, 60.0).alpha(1e-5) ** 2 + VP(0.1, 60.0).sigma(1e-5) ** 2)
    distribution = torch.distributions.Normal(VP(0.1, 60.0).alpha(1e-5) * classes[:, None], scale)
    torch.testing.assert_close(
        found.log_prob, distribution.log_prob(x).sum(1), rtol=1e-7, atol=NATS
    )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_state_of_model_and_caller_is_left_alone(mode):
    backbone = ClassGaussian(0.5)
    model = ScoreModel(backbone, VP()).train()
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    backbone.register_parameter("frozen", frozen)
    loose = {"rtol": 1e-3, "atol": 1e-3}
    with mode():
        x = torch.linspace(-1, 1, 6).reshape(2, 3)
        before, grads = x.clone(), torch.is_grad_enabled()
        found = log_prob(model, x, **loose)
        assert torch.is_grad_enabled() == grads
    assert torch.equal(x, before)
    assert x.grad is None
    assert backbone.variance.requires_grad
    assert backbone.variance.grad is None
    assert not frozen.requires_grad
    assert model.training
    assert not found.log_prob.requires_grad
    assert not found.latent.requires_grad
    truth = log_prob(model, before.clone(), method="scipy", **loose).log_prob
    torch.testing.assert_close(found.log_prob, truth, rtol=0, atol=1e-2)


def test_progress_shows_a_bar_and_changes_nothing(capsys, gaussian_flow, monkeypatch):
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **given: tqdm(**{**given, "delay": 0}))
    model, x = gaussian_flow(VP()).model, torch.zeros(1, 3)
    silent = log_prob(model, x, rtol=1e-3, atol=1e-3)
    assert capsys.readouterr().err == ""
    shown = log_prob(model, x, rtol=1e-3, atol=1e-3, progress=True)
    assert "100%" in capsys.readouterr().err
    assert torch.equal(silent.log_prob, shown.log_prob)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_forward_mode_gives_what_reverse_mode_gives(divergence, mixture, generator):
    """One call of the model per evaluation, and two calls for the check on one example."""
    model = mixture(VP(), dim=3)
    x = model.sample(2, generator=generator)
    given = {"divergence": divergence, "probes": 3 if divergence == "hutchinson" else 1}
    given |= {"rtol": 1e-3, "atol": 1e-3}
    reverse, forward = (log_prob(model, x, mode=mode, **given) for mode in DERIVATIVE_MODES)
    torch.testing.assert_close(reverse.log_prob, forward.log_prob, rtol=0, atol=1e-11)
    assert torch.equal(reverse.evaluations, forward.evaluations)
    assert forward.nfe == reverse.nfe + 2


def test_given_probes_equal_drawn_ones(gaussian_flow):
    model, x = gaussian_flow(VP()).model, torch.ones(2, 3, dtype=torch.float64)
    loose = {"divergence": "hutchinson", "rtol": 1e-3, "atol": 1e-3}
    drawn = log_prob(model, x, probes=3, probe_distribution="gaussian", seed=4, **loose)
    given = log_prob(model, x, probes=draw_probes(3, x, "gaussian", 4), **loose)
    assert torch.equal(drawn.log_prob, given.log_prob)
