"""Bits per dimension in the terms of the data."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

from sde_score.likelihood import Flow, Likelihood, bits_per_dim
from sde_score.likelihood.dequantization import UniformDequantization
from sde_score.models import GaussianMixture
from sde_score.random import example_seeds, mix
from sde_score.scaling import Scaling
from sde_score.sdes import VP

SHARP = VP(0.1, 60.0)  # its distribution at t_max is the prior to 1e-13


@pytest.fixture
def model():
    """Independent N(0.1, 0.25) in two dimensions, in model space."""
    return GaussianMixture(torch.full((1, 2), 0.1), 0.25, SHARP)


def test_continuous_data_have_the_entropy_of_their_own_units(model, generator):
    """raw = 2 + 3 model: the density of raw is N(2.3, 1.5^2), computed in raw terms."""
    raw = 2 + 3 * model.sample(5, generator=generator).float()
    exact = "flow(divergence='exact', dequantizations=2, rtol=1e-6, atol=1e-6)"
    found = bits_per_dim(model, raw, Scaling(2.0, 3.0), exact)
    truth = -Normal(2.3, 1.5).log_prob(raw.double()).sum(1) / (2 * math.log(2))
    torch.testing.assert_close(found.values, truth, rtol=0, atol=1e-5)
    assert found.mean == pytest.approx(float(truth.mean()), abs=1e-5)
    assert found.standard_error == pytest.approx(float(truth.std()) / math.sqrt(5), abs=1e-5)
    assert found.nfe == model.nfe


def test_discrete_data_are_spread_over_their_bins(model):
    """E_u[-log2 p(k + u)] over 400 equal examples, against a fine sum over the bin."""
    raw = torch.tensor([[3, 5]], dtype=torch.uint8).expand(400, 2)
    found = bits_per_dim(model, raw, Scaling.discrete(8), batch_size=400)
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    distribution = Normal(
        4 + 4 * 0.1, 4 * 0.5
    )  # the distribution of raw + u: center and width are 4
    costs = -torch.stack([distribution.log_prob(k + u) for k in (3, 5)]) / math.log(2)
    noise = (costs.var(1).sum() / 4 / 400).sqrt()
    assert abs(found.mean - costs.mean()) < 4 * noise + 1e-3
    masses = torch.stack(
        [
            distribution.cdf(torch.tensor(k + 1.0)) - distribution.cdf(torch.tensor(float(k)))
            for k in (3, 5)
        ]
    )
    assert costs.mean() > -masses.log2().mean()
    assert found.standard_error == pytest.approx(float(noise), rel=0.15)


def test_values_are_means_over_dequantizations_whatever_the_batch():
    """Correlated data, so that the probes matter: noise and probes follow the example."""
    covariance = torch.tensor([[[0.5, 0.3], [0.3, 0.5]]])
    model = GaussianMixture(torch.zeros(1, 2), covariance, SHARP)
    raw = torch.tensor([[0, 7], [3, 4], [2, 2]], dtype=torch.uint8)
    tight = Flow(dequantizations=2, rtol=1e-6, atol=1e-6)
    whole = bits_per_dim(model, raw, Scaling.discrete(8), tight)
    parts = bits_per_dim(model, raw, Scaling.discrete(8), tight, batch_size=2)
    torch.testing.assert_close(whole.values, parts.values, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole.value_errors, parts.value_errors, rtol=0, atol=1e-5)
    seeds = example_seeds(0, 3)[2:]
    one = bits_per_dim(model, raw[2:], Scaling.discrete(8), tight, seed=seeds)
    torch.testing.assert_close(whole.values[2:], one.values, rtol=0, atol=1e-5)
    assert math.isnan(one.standard_error)
    # Of two draws each is as far from the mean as the mean's standard error.
    single = bits_per_dim(model, raw, Scaling.discrete(8), "flow(rtol=1e-6, atol=1e-6)")
    off = (single.values - whole.values).abs()
    torch.testing.assert_close(off, whole.value_errors, rtol=0, atol=1e-5)
    assert bool(single.value_errors.isnan().all())


def test_condition_follows_its_examples(model):
    """Each batch hands the model the conditions of its own rows."""
    seen = []

    class Conditional(GaussianMixture):
        def _predict(self, x, at, condition):
            seen.append(condition.tolist())
            return super()._predict(x, at, None)

    raw, labels = torch.zeros(3, 2), torch.tensor([5, 6, 7])
    asked = Conditional(torch.zeros(1, 2), 1.0, SHARP)
    by = "flow(rtol=1e-2, atol=1e-2)"
    bits_per_dim(asked, raw, Scaling(), by, batch_size=2, condition=labels)
    assert seen[0] == [5, 6]
    assert seen[-1] == [7]


@pytest.mark.parametrize(
    ("scaling", "offset"),
    [(Scaling.discrete(256), 7.0), (Scaling(0.0, 256.0, levels=256), 8.0), (Scaling(), 0.0)],
)
def test_published_offsets(scaling, offset):
    """Bits = offset - log2 p / D for a density in the range of the model: 7 for 256 levels over
    [-1, 1], 8 over [0, 1], and the sign is that of a code length."""
    model = GaussianMixture(torch.full((1, 3), 0.2), 0.3, SHARP)
    raw = torch.tensor([[3, 100, 255], [0, 17, 200]], dtype=torch.uint8)
    by = Flow(divergence="exact", rtol=1e-7, atol=1e-7)
    found = bits_per_dim(model, raw, scaling, by, seed=[11, 12])
    points = UniformDequantization()(raw, scaling, SHARP, [mix(11, 0), mix(12, 0)])
    low, high = (-1.0, 1.0) if offset == 7 else (0.0, 1.0)
    assert offset == 0 or bool(((points.x >= low) & (points.x <= high)).all())
    log_p = model.log_prob(points.x.double(), SHARP.t_min)
    want = offset - log_p / (3 * math.log(2))
    torch.testing.assert_close(found.values, want, rtol=1e-6, atol=1e-4)


def test_what_a_likelihood_says_is_turned_into_bits_batch_by_batch(model):
    """3 nats over 2 dimensions are 3 / (2 ln 2) bits, whatever the scaling; nfe adds up."""
    asked = []

    class Threes(Likelihood):
        def estimate(self, problem):
            asked.append(
                (len(problem.raw), problem.seeds, problem.condition, problem.grad, problem.progress)
            )
            problem.model.nfe += 10
            values = -3.0 * (1 + problem.raw[:, 0].double())
            return values, 0.5 * torch.ones(len(values)).double()

    raw = torch.tensor([[0, 0], [1, 0], [2, 0]], dtype=torch.uint8)
    scaling = Scaling.discrete(8)
    found = bits_per_dim(model, raw, scaling, Threes(), batch_size=2, seed=[4, 5, 6], progress=True)
    assert asked == [(2, [4, 5], None, False, True), (1, [6], None, False, True)]
    bit = 2 * math.log(2)
    want = torch.tensor([3.0, 6.0, 9.0], dtype=torch.float64) / bit
    torch.testing.assert_close(found.values, want)
    torch.testing.assert_close(found.value_errors, torch.full((3,), 0.5 / bit).double())
    assert found.nfe == 20
    assert found.standard_error == pytest.approx(3 / bit / math.sqrt(3))


def test_refusals(model):
    raw = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="batch_size=0 must be an integer of at least 1"):
        bits_per_dim(model, raw, Scaling(), batch_size=0)
    with pytest.raises(ValueError, match=r"raw has shape \(0, 2\)"):
        bits_per_dim(model, raw[:0], Scaling())
    with pytest.raises(ValueError, match=r"condition has shape \(2,\) for 3 examples"):
        bits_per_dim(model, raw, Scaling(), condition=torch.zeros(2))
    with pytest.raises(ValueError, match="unknown likelihood 'flwo'; did you mean 'flow'"):
        bits_per_dim(model, raw, Scaling(), "flwo")
    with pytest.raises(TypeError, match=r"such as Scaling.discrete\(256\) for 8-bit images"):
        bits_per_dim(model, raw, 256)
    with pytest.raises(TypeError, match="is no likelihood: accepted are text such as 'flow'"):
        bits_per_dim(model, raw, Scaling(), Flow)
    assert model.nfe == 0
