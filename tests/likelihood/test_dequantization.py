"""Dequantization: the noise, its density, and the bound on the probability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sde_score.data import Scaling
from sde_score.likelihood import DEQUANTIZATIONS, Flow, VariationalDequantization, draw_probes
from sde_score.models import GaussianMixture
from sde_score.random import example_seeds, mix
from sde_score.sdes import VE, VP

SHARP = VP(0.1, 60.0)  # its distribution at t_max is the prior to 1e-13
LEVELS = 8
SCALING = Scaling.discrete(LEVELS)


@pytest.fixture
def mixture():
    """A distribution with mass in all levels and curvature within them."""
    return GaussianMixture([[-0.5], [0.4]], torch.tensor([0.02, 0.1]), SHARP, weights=[0.3, 0.7])


def mass(model, start, alpha):
    """P(level) for points at a time: differences of the distribution function, shape (levels,)."""
    edges = alpha * (2 * np.arange(LEVELS + 1) / LEVELS - 1)
    sigma2 = float(SHARP.sigma(start)) ** 2
    parts = [
        w * stats.norm.cdf(edges, alpha * m, math.sqrt(alpha**2 * v + sigma2))
        for w, m, v in zip(
            model.weights.tolist(),
            model.means.flatten().tolist(),
            model.variances.flatten().tolist(),
            strict=True,
        )
    ]
    return torch.from_numpy(np.diff(sum(parts)))


def rows(count):
    """Each level `count` times, shape (LEVELS * count, 1)."""
    return torch.arange(LEVELS, dtype=torch.uint8).repeat_interleave(count)[:, None]


def draw(spec, raw, sde=SHARP, scaling=SCALING, seed=0):
    return DEQUANTIZATIONS.create(spec)(raw, scaling, sde, example_seeds(seed, len(raw)))


def test_uniform_noise_fills_the_bin():
    """Density 1 per unit of raw value: L / 2 per unit of the model range, in every dimension."""
    raw = torch.arange(LEVELS, dtype=torch.uint8).repeat(3000, 1)
    points = draw("uniform", raw)
    place = (points.x.double() + 1) * LEVELS / 2 - raw
    assert stats.kstest(place.flatten().numpy(), "uniform").pvalue > 1e-3
    want = torch.full((3000,), LEVELS * math.log(LEVELS / 2), dtype=torch.float64)
    torch.testing.assert_close(points.log_q, want)
    assert points.start is None


@pytest.mark.parametrize("truncation", [1.0, 3.0])
def test_truncated_normal_is_the_distribution_of_scipy(truncation):
    """Points, density and its mean, the entropy, around alpha times the center of the level."""
    raw = torch.tensor([[0, 3, 7]], dtype=torch.uint8).repeat(4000, 1)
    points = draw(f"truncated-normal(truncation={truncation})", raw)
    alpha, sigma = float(SHARP.alpha(points.start)), float(SHARP.sigma(points.start))
    assert truncation * sigma / alpha == pytest.approx(1 / LEVELS, rel=1e-9)
    centers = alpha * ((2 * raw.double() + 1) / LEVELS - 1)
    distribution = stats.truncnorm(-truncation, truncation, loc=centers.numpy(), scale=sigma)
    torch.testing.assert_close(
        points.log_q,
        torch.from_numpy(distribution.logpdf(points.x.numpy()).sum(1)),
        rtol=1e-7,
        atol=1e-7,
    )
    z = ((points.x - centers) / sigma).numpy()
    unit = stats.truncnorm(-truncation, truncation)
    assert stats.kstest(z.flatten(), unit.cdf).pvalue > 1e-3
    entropy = 3 * (unit.entropy() + math.log(sigma))
    error = float(points.log_q.std()) / math.sqrt(4000)
    assert abs(float(points.log_q.mean()) + entropy) < 4 * error
    # the closed form of i-DODE: half bins of tau standard deviations
    tail = stats.norm.sf(truncation)
    inside, edge = 1 - 2 * tail, truncation * stats.norm.pdf(truncation)
    closed = 0.5 * math.log(2 * math.pi * math.e) + math.log(inside) - edge / inside
    assert unit.entropy() == pytest.approx(closed, abs=1e-9)


def test_points_stay_in_the_bins_of_their_time(sde):
    raw = rows(50)
    if math.exp(-0.5 * sde.log_snr_range[1]) > 1 / LEVELS / 3:
        pytest.skip("its least noise is wider than a bin")
    points = draw("truncated-normal", raw, sde)
    place = (points.x / float(sde.alpha(points.start)) + 1) * LEVELS / 2 - raw
    assert 0 <= float(place.min()) < 0.1
    assert 0.9 < float(place.max()) <= 1 + 1e-6  # to_model rounds to float32


@pytest.mark.parametrize("spec", ["uniform", "truncated-normal", "truncated-normal(truncation=1)"])
def test_bound_is_below_the_probability_of_every_level(mixture, spec):
    """E[log p(x) - log q(x)] <= log P(level), exact differences of the distribution function; the
    mean of p / q is P itself, whatever q."""
    count = 400
    points = draw(spec, rows(count))
    start = SHARP.t_min if points.start is None else points.start
    exact = mass(mixture, start, float(SHARP.alpha(start)))
    assert float(exact.sum()) < 1
    weights = mixture.log_prob(points.x, start).double() - points.log_q
    by_level = weights.reshape(LEVELS, count)
    bound, error = by_level.mean(1), by_level.std(1) / math.sqrt(count)
    assert bool((bound < exact.log() + 4 * error).all())
    assert bool((bound.exp() < exact).any())
    ratio = by_level.exp() / exact[:, None]
    error = ratio.std(1) / math.sqrt(count)
    assert bool(((ratio.mean(1) - 1).abs() < 4 * error + 1e-3).all())
    # the flow gives that density, at that time
    flow = Flow(divergence="exact", rtol=1e-7, atol=1e-7, dequantization=spec)
    found = flow(mixture, rows(1), SCALING, seeds=range(LEVELS))
    again = draw(spec, rows(1), seed=[mix(number, 0) for number in range(LEVELS)])
    want = mixture.log_prob(again.x, start).double() - again.log_q
    torch.testing.assert_close(found.values, want, rtol=0, atol=1e-4)


def test_truncated_normal_is_tighter_for_a_model_of_levels():
    """Point masses at the centers, which is what networks see: uniform noise leaves them, noise of
    their own does not. The exact code length is that of the weights."""
    weights = torch.arange(1.0, LEVELS + 1) / 36
    centers = ((2 * torch.arange(LEVELS) + 1) / LEVELS - 1)[:, None]
    model = GaussianMixture(centers, 0.0, SHARP, weights=weights)
    own = draw("truncated-normal", rows(200))
    bits = model.log_prob(own.x, own.start) - own.log_q
    nats = bits.reshape(LEVELS, 200).mean(1)
    torch.testing.assert_close(nats, weights.double().log(), rtol=0, atol=5e-3)
    flat = draw("uniform", rows(200))
    far = model.log_prob(flat.x.double(), SHARP.t_min) - flat.log_q
    assert float(far.mean()) < -100


def test_variational_noise_may_follow_the_data(mixture):
    """u = Phi((noise + shift) / scale): any such noise bounds, and log q is its density."""

    def distribution(raw, noise):
        z = 0.6 * noise + 0.4 * (raw.double() - 3.5).sign()
        u = torch.special.ndtr(z)
        standard = torch.distributions.Normal(0.0, 1.0)
        return u, (standard.log_prob(noise) - math.log(0.6) - standard.log_prob(z)).sum(1)

    raw = rows(400)
    points = VariationalDequantization(distribution)(
        raw, SCALING, SHARP, example_seeds(0, len(raw))
    )
    exact = mass(mixture, SHARP.t_min, float(SHARP.alpha(SHARP.t_min)))
    ratio = (mixture.log_prob(points.x.double(), SHARP.t_min) - points.log_q).exp()
    ratio = ratio.reshape(LEVELS, 400) / exact[:, None]
    assert bool(((ratio.mean(1) - 1).abs() < 4 * ratio.std(1) / 20 + 1e-3).all())
    found = Flow(dequantization=VariationalDequantization(distribution))(
        mixture, raw[:3], SCALING, seeds=[1, 2, 3]
    )
    assert bool(found.values.isfinite().all())


def test_continuous_data_stay_as_they_are():
    """log q is the Jacobian: log p(x) - log q = log p(raw), with a width per feature."""
    scaling = Scaling((1.0, -2.0), (3.0, 0.5))
    raw = torch.tensor([[1.5, -2.25]], dtype=torch.float64)
    for spec in ("none", "uniform"):
        points = draw(spec, raw, scaling=scaling)
        torch.testing.assert_close(points.x, scaling.to_model(raw))
        assert float(points.log_q) == pytest.approx(math.log(3.0 * 0.5))


@pytest.mark.parametrize("spec", list(DEQUANTIZATIONS)[:2])
def test_a_point_depends_on_its_seed_alone_and_not_as_its_probes_do(spec):
    raw, seeds = rows(1), example_seeds(5, LEVELS)
    distribution = DEQUANTIZATIONS.create(spec)
    whole, part = (
        distribution(raw, SCALING, SHARP, seeds),
        distribution(raw[3:5], SCALING, SHARP, seeds[3:5]),
    )
    assert torch.equal(whole.x[3:5], part.x)
    assert torch.equal(whole.log_q[3:5], part.log_q)
    many = torch.zeros(500, 1, dtype=torch.float64)
    numbers = example_seeds(0, 500)
    place = distribution(many.to(torch.uint8), SCALING, SHARP, numbers).x.flatten().double()
    probes = draw_probes(1, many, "gaussian", numbers).flatten()
    assert abs(float(torch.corrcoef(torch.stack([place, probes]))[0, 1])) < 0.2


def test_refusals():
    raw = rows(1)
    with pytest.raises(ValueError, match=r"for continuous data, these have 8 levels"):
        draw("none", raw)
    two = Scaling((0.0, 1.0), (1.0, 2.0), levels=4)
    for scaling, given in ((Scaling(), raw.float()), (two, raw.expand(8, 2) % 4)):
        with pytest.raises(ValueError, match="needs discrete data of one width"):
            draw("truncated-normal", given, scaling=scaling)
    with pytest.raises(ValueError, match=r"truncation=0 must be a finite number greater than 0"):
        DEQUANTIZATIONS.create("truncated-normal(truncation=0)")
    with pytest.raises(ValueError, match="unknown dequantization 'unifrom'; did you mean"):
        DEQUANTIZATIONS.create("unifrom")
    fine = Scaling.discrete(256)
    with pytest.raises(
        ValueError,
        match=r"asks for sigma / alpha = 0.0013.* starts at 0.01: try "
        r"truncation=0.391 or less",
    ):
        draw("truncated-normal", raw, VE(0.01, 50.0), fine)
    assert draw("truncated-normal(truncation=0.39)", raw, VE(0.01, 50.0), fine).start > 0
    with pytest.raises(ValueError, match="sigma / alpha = 250"):
        draw("truncated-normal(truncation=0.0005)", raw, VE(0.01, 50.0))
    with pytest.raises(ValueError, match="needs discrete data: try"):
        VariationalDequantization(lambda raw, z: (z, z))(raw, Scaling(), SHARP, range(8))
    for distribution, said in (
        (lambda raw, z: (z[:, 0], z[:, 0]), r"u of shape \(8,\)"),
        (lambda raw, z: (z * 0 + 0.5, z), r"log q of shape \(8, 1\)"),
        (lambda raw, z: (z * 0 + 2, z[:, 0]), r"u in 2..2; accepted: \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=said):
            VariationalDequantization(distribution)(raw, SCALING, SHARP, range(8))
