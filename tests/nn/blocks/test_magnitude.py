"""Layers that keep the size of what passes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn.blocks.magnitude import (
    MPFourier,
    MPLayer,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_size,
)


def size(x):
    return x.square().mean().sqrt().item()


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)


def test_unit_size_divides_by_the_root_mean_square(draw):
    x = 3 * draw(4, 5, 6)
    expected = x / (1e-4 + x.square().mean((1, 2), keepdim=True).sqrt())
    torch.testing.assert_close(unit_size(x, (1, 2)), expected)
    assert torch.equal(unit_size(torch.zeros(2, 3), (1,)), torch.zeros(2, 3))


def test_parts_keep_the_size_of_normal_numbers(draw):
    a, b = draw(400, 60, 3), draw(400, 20, 3)
    assert size(mp_silu(a)) == pytest.approx(1, abs=0.01)
    for balance in (0.0, 0.3, 1.0):
        assert size(mp_sum(a, a.flip(0), balance)) == pytest.approx(1, abs=0.01)
        assert size(mp_cat(a, b, balance)) == pytest.approx(1, abs=0.01)
    assert size(MPFourier(4000).double()(torch.zeros(1).double())) == pytest.approx(1, abs=0.03)
    layer = MPLayer(60, 500).double()
    assert size(layer(a.mT)) == pytest.approx(1, abs=0.03)
    assert size(layer(a.mT, 2.0)) == pytest.approx(2, abs=0.06)


def test_concatenation_weighs_by_shares_and_channels(draw):
    a, b = draw(2, 3, 4), draw(2, 5, 4)
    out = mp_cat(a, b, 0.4)
    scale = math.sqrt(8 / (0.6**2 + 0.4**2))
    torch.testing.assert_close(out[:, :3], a * scale * 0.6 / math.sqrt(3))
    torch.testing.assert_close(out[:, 3:], b * scale * 0.4 / math.sqrt(5))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_layers_have_rows_of_unit_norm(dims, draw):
    layer = MPLayer(4, 6, 3, dims).double()
    rows = layer.used().flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-3, atol=0)
    x = draw(2, 4, *(5,) * dims)
    out = layer(x, torch.tensor(0.7))
    weight = layer.weight / (1e-4 + layer.weight.flatten(1).square().mean(1).sqrt()).reshape(
        -1, *(1,) * (1 + dims)
    )
    weight = weight * 0.7 / math.sqrt(4 * 3**dims)
    convolve = (F.linear, F.conv1d, F.conv2d, F.conv3d)[dims]
    expected = convolve(x, weight, **({"padding": 1} if dims else {}))
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_normalizing_a_weight_changes_its_length_alone(draw):
    """And once is enough: a second time, and its use, leave it as it is."""
    layer = MPLayer(4, 6, 3, 1).double()
    before = layer.weight.detach().clone()
    layer.normalize_weight()
    once = layer.weight.detach().clone()
    cosine = F.cosine_similarity(before.flatten(1), once.flatten(1), dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    torch.testing.assert_close(layer.used() * math.sqrt(12), once, rtol=1e-12, atol=1e-12)
    layer.normalize_weight()
    torch.testing.assert_close(layer.weight.detach(), once, rtol=1e-12, atol=1e-12)
    zero = MPLayer(2, 2)
    torch.nn.init.zeros_(zero.weight)
    zero.normalize_weight()
    assert torch.equal(zero.weight, torch.zeros(2, 2))
