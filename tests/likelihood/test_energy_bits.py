"""Bits per dimension of an energy: -energy - log Z in the terms of the data."""

from __future__ import annotations

import math

import pytest
import torch

from sde_score.data import Scaling
from sde_score.likelihood import GaussianReference, energy_bits_per_dim, log_partition
from sde_score.models import EnergyFunction

STD = torch.tensor([0.7, 1.6], dtype=torch.float64)


@pytest.fixture
def gaussian():
    """A Gaussian energy with a constant of no meaning."""
    return EnergyFunction(lambda x, t: 0.5 * (x / STD).square().sum(1) + 3.0)


def test_bits_are_those_of_the_normalized_density_in_raw_units(gaussian):
    start = GaussianReference(torch.zeros(2, dtype=torch.float64), STD)
    partition = log_partition(gaussian, start, chains=8, steps=2, progress=False)
    assert partition.value == pytest.approx(math.log(2 * math.pi * 0.7 * 1.6) - 3, abs=1e-9)
    scaling = Scaling((1.0, -2.0), (3.0, 0.5))
    raw = torch.tensor([[1.0, 0.0], [4.0, -1.0], [-2.0, -2.0]], dtype=torch.float64)
    found = energy_bits_per_dim(gaussian, raw, scaling, partition)
    distribution = torch.distributions.Normal(
        torch.tensor([1.0, -2.0]).double(), STD * torch.tensor([3.0, 0.5])
    )
    want = -distribution.log_prob(raw).sum(1) / (2 * math.log(2))
    torch.testing.assert_close(found.values, want, rtol=1e-6, atol=1e-6)
    assert found.nfe == 1
    assert float(found.value_errors.abs().sum()) == 0


def test_the_error_of_log_z_is_shared_by_all_examples(gaussian):
    start = GaussianReference(torch.zeros(2, dtype=torch.float64), 1.2 * STD)
    partition = log_partition(gaussian, start, chains=64, steps=2, progress=False)
    raw = torch.zeros(5, 2, dtype=torch.float64)
    found = energy_bits_per_dim(gaussian, raw, Scaling(), partition)
    per_bit = 2 * math.log(2)
    assert partition.standard_error > 0
    assert found.standard_error == pytest.approx(partition.standard_error / per_bit)
    with pytest.raises(ValueError, match="raw has shape"):
        energy_bits_per_dim(gaussian, raw[:0], Scaling(), partition)


def test_levels_are_spread_over_their_bins(gaussian):
    """E_u[-log2 p(k + u)] against a fine sum over the bin, and its error over the draws."""
    start = GaussianReference(torch.zeros(2, dtype=torch.float64), STD)
    partition = log_partition(gaussian, start, chains=8, steps=2, progress=False)
    raw = torch.tensor([[1, 3]], dtype=torch.uint8).expand(300, 2)
    found = energy_bits_per_dim(gaussian, raw, Scaling.discrete(4), partition, dequantizations=3)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    distribution = torch.distributions.Normal(torch.tensor([2.0, 2.0]).double(), 2 * STD)
    costs = -torch.stack(
        [distribution.log_prob(k + u[:, None])[:, i] for i, k in enumerate((1, 3))]
    )
    want = float(costs.mean()) / math.log(2)
    error = float(found.values.std()) / math.sqrt(300)
    assert abs(found.mean - want) < 4 * error
    square = costs.var(1).sum() / (2 * math.log(2)) ** 2 / 3
    assert float(found.value_errors.square().mean()) == pytest.approx(float(square), rel=0.2)
    single = energy_bits_per_dim(gaussian, raw[:2], Scaling.discrete(4), partition)
    assert bool(single.value_errors.isnan().all())
