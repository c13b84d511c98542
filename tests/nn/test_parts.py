"""The embedding of the noise level, the modulation, and attention."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn import NoiseEmbedding
from sde_score.nn.backbones import mlp, unet
from sde_score.nn.blocks.embeddings import fourier_features
from sde_score.nn.blocks.layers import Modulation, SelfAttention


def test_fourier_features_are_the_stated_waves():
    levels = torch.linspace(-4, 4, 17, dtype=torch.float64)
    features = fourier_features(levels)
    for row, level in zip(features, levels.tolist(), strict=True):
        angles = [2 ** (k / 3) * 2 * math.pi / 16 * level for k in range(16)]
        expected = [*map(math.cos, angles), *map(math.sin, angles)]
        torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64))


def test_fourier_features_tell_noise_levels_apart():
    """No two levels of -4 .. 4 look alike: a step of 0.05 moves far, and nothing returns."""
    features = fourier_features(torch.arange(-4, 4, 0.05, dtype=torch.float64))
    distance = torch.cdist(features, features)
    distance.fill_diagonal_(math.inf)
    assert distance.min() > 0.5
    far = torch.ones_like(distance, dtype=torch.bool).triu(10)
    assert distance[far].min() > 2.5


def test_fourier_features_keep_precision_in_low_precision_networks():
    levels = torch.tensor([-3.0, 0.25, 3.0])
    assert fourier_features(levels.bfloat16()).dtype == torch.float32
    exact = fourier_features(levels.double())
    torch.testing.assert_close(fourier_features(levels).double(), exact, rtol=0, atol=1e-5)
    net = NoiseEmbedding(8).bfloat16()
    assert net(levels).dtype == torch.bfloat16


def test_embedding_is_two_layers_plus_the_class(randomize):
    net = randomize(NoiseEmbedding(6, num_classes=4))
    levels, labels = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([3, -1, 0])
    w1, b1, w2, b2 = net.first.weight, net.first.bias, net.second.weight, net.second.bias
    hidden = F.silu(fourier_features(levels) @ w1.T + b1) @ w2.T + b2
    table = torch.cat([net.classes.weight, torch.zeros(1, 6)])  # row -1 is the last
    torch.testing.assert_close(net(levels, labels), F.silu(hidden + table[labels]))


@pytest.mark.parametrize("arguments", [{"channels": 0}, {"channels": 4, "num_classes": -1}])
def test_embedding_refuses_counts_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        NoiseEmbedding(**arguments)


@pytest.mark.parametrize("event", [(), (4,), (2, 3)])
def test_modulation_scales_and_shifts_each_channel(event, randomize):
    net = randomize(Modulation(5, 3)).double()
    x = torch.randn(2, 3, *event, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    out = net(x, embedding)
    for i in range(2):
        numbers = net.linear.weight @ embedding[i] + net.linear.bias
        for c in range(3):
            expected = x[i, c] * (1 + numbers[c]) + numbers[3 + c]
            torch.testing.assert_close(out[i, c], expected)


@pytest.mark.parametrize(
    "part", [SelfAttention(8), mlp._Block(8, 0.0), unet._Block(8, 8, 5, True, 0.0)]
)
def test_residual_parts_start_as_the_identity(part):
    x = torch.randn(2, 8) if isinstance(part, mlp._Block) else torch.randn(2, 8, 4, 4)
    embedding = torch.randn(2, 8 if isinstance(part, mlp._Block) else 5)
    out = part(x) if isinstance(part, SelfAttention) else part(x, embedding)
    assert torch.equal(out, x)


@pytest.mark.parametrize(("channels", "heads"), [(24, 1), (64, 1), (128, 2), (96, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_attention_agrees_with_torch(channels, heads, layout, randomize):
    """torch's fused attention on channels split into q, k, v, then into heads."""
    net = randomize(SelfAttention(channels)).double()
    x = torch.randn(
        2, channels, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(memory_format=layout)
    qkv = net.qkv(net.norm(x)).reshape(2, 3, heads, channels // heads, 15).mT
    found = F.scaled_dot_product_attention(qkv[:, 0], qkv[:, 1], qkv[:, 2])
    expected = x + net.out(found.mT.reshape(x.shape))
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    assert (net(x) - x).norm() > 0.1 * x.norm()
