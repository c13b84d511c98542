"""Benchmark targets have the distributions of their names, and their flow is exact."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from sde_score import samplers
from sde_score.evaluation import (
    BENCHMARK_TARGETS,
    benchmark,
    exact_flow,
    exact_target,
    register_target,
)
from sde_score.evaluation.benchmarks import run as benchmark_run
from sde_score.evaluation.benchmarks import targets as benchmark_targets
from sde_score.models import TARGETS, GaussianMixture
from sde_score.random import example_seeds
from sde_score.sdes import EDM, VP, Rectified

MEAN, VARIANCES = [0.7, -0.4, 0.2], [1e-3, 0.5, 4.0]


def gaussian(sde):
    """One Gaussian whose axes have their own variances."""

    def mixture(under):
        return GaussianMixture([MEAN], torch.tensor([VARIANCES], dtype=torch.float64), under)

    return exact_target("gaussian", mixture, sde, starts=8)


@pytest.fixture
def rough(monkeypatch):
    """A flow to fewer digits, and less to compare with."""
    flow = partial(exact_flow, tolerance=1e-5)
    monkeypatch.setattr(benchmark_targets, "exact_flow", flow)
    monkeypatch.setattr(benchmark_run, "_REFERENCE", 64)
    monkeypatch.setattr(benchmark_run, "_REPEATS", 3)


@pytest.fixture(scope="module")
def digits():
    return BENCHMARK_TARGETS.create("digits-mixture")


@pytest.fixture(scope="module")
def stored(reference):
    return reference("benchmark_targets")[0]


def test_ring_has_eight_modes_and_unit_variance():
    model = BENCHMARK_TARGETS.create("ring").model
    assert model.means.shape == (8, 2)
    assert model.means[0, 0] == pytest.approx(1.4071247, abs=1e-7)
    torch.testing.assert_close(model.variances, torch.full((8, 2), 0.01, dtype=torch.float64))
    torch.testing.assert_close(model.covariance(), torch.eye(2, dtype=torch.float64))


def test_ring_is_that_of_the_published_figures(stored):
    torch.testing.assert_close(BENCHMARK_TARGETS.create("ring").model.means, stored["A_means"])


def test_digits_mixture_is_that_of_the_published_figures(digits, stored):
    """The fit is made anew; its components may come in another order."""
    model = digits.model
    order = torch.cdist(stored["B_means"], model.means).argmin(1)
    assert sorted(order.tolist()) == list(range(10))
    torch.testing.assert_close(model.weights[order], stored["B_w"], rtol=1e-9, atol=0)
    torch.testing.assert_close(model.means[order], stored["B_means"], rtol=0, atol=1e-9)
    full = torch.einsum("kcd,kd,ked->kce", model.axes, model.variances, model.axes)
    torch.testing.assert_close(full[order], stored["B_covs"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "sde", [EDM(0.01, 80.0), VP(), Rectified()], ids=lambda s: type(s).__name__
)
def test_flow_of_a_gaussian_is_its_closed_form(sde):
    """y - m shrinks by sqrt(v / (v + s^2)) along each axis, on any SDE; the end errs by 1e-7."""
    target = gaussian(sde)
    x = target.start(range(2))
    ratio, alpha = float(torch.exp(-0.5 * sde.log_snr(sde.t_max))), float(sde.alpha(sde.t_max))
    mean = torch.tensor(MEAN, dtype=torch.float64)
    variance = torch.tensor(VARIANCES, dtype=torch.float64)
    factor = (variance / (variance + ratio**2)).sqrt()
    want = mean + (x / alpha - mean) * factor
    torch.testing.assert_close(target.flow(x, None), want, rtol=0, atol=1e-7)


def test_flow_does_not_feel_where_it_ends(digits, monkeypatch):
    """Halving the last noise level changes the ends by 3/4 of their error at most."""
    x = digits.start(range(2))
    ends = digits.flow(x, None)
    monkeypatch.setattr(benchmark_targets, "_FLOW_END", 5e-6)
    finer = BENCHMARK_TARGETS.create("digits-mixture").flow(x, None)
    change = float((finer - ends).abs().max())
    assert 0 < change < 1e-7


def test_flow_does_not_feel_its_tolerance():
    target = BENCHMARK_TARGETS.create("ring")
    x = target.start(range(8))
    fine = GaussianMixture(target.model.means, 0.01, EDM(1e-5, 80.0))
    loose = exact_flow(fine, x, tolerance=1e-8)
    ends = target.flow(x, None)
    torch.testing.assert_close(ends, loose, rtol=0, atol=1e-6)
    assert not torch.equal(ends, loose)


@pytest.mark.parametrize("spec", ["ring", "ring(sde='vp')", "digits-mixture(sde='rectified')"])
def test_starts_are_those_that_samplers_draw(spec):
    target, seeds = BENCHMARK_TARGETS.create(spec), example_seeds(5, 3)
    shape = (3, *target.event_shape)
    run = samplers.create("ddim", steps=3)(target.model, shape, seed=seeds, trajectory=True)
    assert torch.equal(run.states[0], target.start(seeds))
    assert run.states[0].dtype == torch.float64


def test_entropy_is_that_of_a_gaussian():
    target = gaussian("edm")
    value, error = target.entropy(draws=20_000)
    want = sum(0.5 * math.log(2 * math.pi * math.e * v) for v in VARIANCES) / 3
    assert abs(value - want) < 4 * error
    # a sum of three squares of normals, halved: variance 3/2, over dimensions 3
    assert error == pytest.approx(math.sqrt(1.5) / 3 / math.sqrt(20_000), rel=0.1)


def test_surprise_is_in_one_piece_whatever_its_blocks(monkeypatch):
    target = gaussian("edm")
    x = target.data(10, 0)
    monkeypatch.setattr(benchmark_targets, "_BLOCK", 3)
    torch.testing.assert_close(target.surprise(x), -target.model.log_prob(x) / 3)


def test_draws_are_named_by_their_seed():
    target = BENCHMARK_TARGETS.create("ring")
    assert torch.equal(target.data(5, 1), target.data(5, 1))
    assert not torch.equal(target.data(5, 1), target.data(5, 2))
    assert torch.equal(target.truth(5), target.truth(5))
    assert not torch.equal(target.truth(5), target.data(5, 1))


def test_identity_names_the_distribution_and_its_diffusion(digits):
    found = [
        BENCHMARK_TARGETS.create("ring"),
        BENCHMARK_TARGETS.create("ring(sde='vp')"),
        digits,
        gaussian("edm"),
    ]
    assert len({target.identity for target in found}) == 4
    assert digits.identity == BENCHMARK_TARGETS.create("digits-mixture").identity


def test_unknown_targets_are_refused():
    with pytest.raises(ValueError, match="benchmark target 'rinng'; did you mean 'ring'"):
        BENCHMARK_TARGETS.create("rinng")


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "ring"])
def test_every_exact_distribution_is_a_target(name):
    target = BENCHMARK_TARGETS.create(name, sde="vp")
    distribution = TARGETS.create(name)
    x = target.data(5, 1)
    assert x.shape == (5, *distribution.event_shape)
    torch.testing.assert_close(target.log_prob(x), distribution.log_prob(x))
    assert type(target.model.sde) is VP
    other = BENCHMARK_TARGETS.create("exact", target=distribution, sde="vp")
    assert torch.equal(other.data(5, 1), x)


@pytest.mark.usefixtures("rough")
def test_the_flow_of_an_exact_distribution_ends_where_its_data_lie():
    """The flow carries N(0, s^2) to the data: the ring's ends have the radius of its draws."""
    target = BENCHMARK_TARGETS.create("exact(target='ring')")
    ends = target.flow(target.start(range(64)), None).norm(dim=1)
    draws = target.data(4000, 0).norm(dim=1)
    assert float(ends.mean()) == pytest.approx(float(draws.mean()), abs=5 * float(draws.std()) / 8)
    assert float(ends.std()) == pytest.approx(float(draws.std()), rel=0.4)


@pytest.mark.usefixtures("rough")
def test_a_distribution_of_yours_is_a_target(restored):
    restored(BENCHMARK_TARGETS)
    register_target("mine", lambda sde: GaussianMixture([MEAN], 0.5, sde), starts=12)
    target = BENCHMARK_TARGETS.create("mine(sde='rectified')")
    assert (target.name, target.starts) == ("mine", 12)
    assert type(target.model.sde) is Rectified
    found = benchmark("mine", ["ddim", "heun"], nfes=[3], progress=False)
    assert [row.reason for row in found.rows] == ["", ""]
    by_object = benchmark(target, [samplers.DDIM(steps=3)], progress=False)
    assert by_object.rows[0].rms > 0
    register_target("yours", TARGETS.create("funnel"))
    identities = {BENCHMARK_TARGETS.create(name).identity for name in ("yours", "funnel", "mine")}
    assert len(identities) == 3
    with pytest.raises(ValueError, match="exists already"):
        register_target("ring", TARGETS.create("funnel"))
