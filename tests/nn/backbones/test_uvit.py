"""The transformer with long skips: signals of any rank, its formulas, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn import UViT

SMALL = {"width": 8, "depth": 2, "heads": 2, "patch": 2}


@pytest.mark.parametrize("event_shape", [(2, 9), (1, 6, 3), (1, 3, 4, 5)])
@pytest.mark.parametrize("last_convolution", [True, False])
def test_any_rank_and_any_size(event_shape, last_convolution, randomize):
    net = UViT(event_shape, num_classes=2, last_convolution=last_convolution, **SMALL)
    x = torch.randn(2, *event_shape)
    assert randomize(net)(x, torch.ones(2), torch.tensor([1, -1])).shape == x.shape


def block(net, x):
    """A block by torch's own layers; tokens that see one another."""
    z = F.layer_norm(x, (8,), net.norm1.weight, net.norm1.bias)
    q, k, v = (z @ net.attention.qkv.weight.T).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    x = x + net.attention.out(found)
    z = F.layer_norm(x, (8,), net.norm2.weight, net.norm2.bias)
    return x + net.mlp.outer(F.gelu(net.mlp.inner(z)))


@pytest.mark.parametrize("embeds_time", [False, True])
def test_network_is_its_formula(embeds_time, randomize):
    options = {**SMALL, "depth": 4}
    net = UViT((3, 4, 2), num_classes=2, embeds_time=embeds_time, **options)
    net = randomize(net, scale=0.5).double()
    x = torch.randn(2, 3, 4, 2, dtype=torch.float64)
    label = torch.tensor([3.0, 500.5], dtype=torch.float64)
    angles = label[:, None] * 10000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    time = torch.cat([angles.cos(), angles.sin()], 1)
    if embeds_time:
        time = net.embedding.time[2](F.silu(net.embedding.time[0](time)))
    weight, bias = net.patches.conv.parameters()
    seen = [x[:, :, :2].flatten(1), x[:, :, 2:].flatten(1)]
    seen = [patch @ weight.flatten(1).T + bias for patch in seen]
    known = net.embedding.classes.weight[torch.tensor([1, 2])]  # the second has no class
    h = torch.stack([known, time, *seen], 1) + net.positions
    kept = [h := block(part, h) for part in net.first]
    h = block(net.middle, h)
    for part, early in zip(net.second, reversed(kept), strict=True):
        h = block(part, part.skip(torch.cat([h, early], -1)))
    out = net.head(F.layer_norm(h, (8,), net.norm.weight, net.norm.bias))[:, 2:]
    image = out.unflatten(-1, (2, 2, 3)).permute(0, 4, 1, 2, 3).flatten(2, 3)
    expected = net.smooth(image)
    got = net(x, label, torch.tensor([1, -1]))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(net(x, label, {"label": torch.tensor([1, -1])}), got)


def test_without_a_row_no_class_is_zero(randomize):
    net = randomize(UViT((2, 4), num_classes=2, null_class=False, **SMALL))
    assert net.embedding.classes.weight.shape == (2, 8)
    x, label = torch.randn(1, 2, 4), torch.ones(1)
    before = net(x, label)
    with torch.no_grad():
        net.embedding.classes.weight[1] = 0
    assert torch.equal(net(x, label, torch.tensor([1])), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (3,)}, "channels and one to three sides"),
        ({"heads": 3}, "heads=3 must divide width=8"),
        ({"depth": 3}, "depth=3 must be even"),
        ({"patch": 0}, "patch=0"),
        ({"num_classes": -1}, "num_classes=-1"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UViT(**{"event_shape": (3, 4, 4), **SMALL, **arguments})


def test_other_sides_are_refused():
    with pytest.raises(ValueError, match=r"does not fit this network: it takes \(batch, 3, 4, 4\)"):
        UViT((3, 4, 4), **SMALL)(torch.zeros(1, 3, 4, 6), torch.zeros(1))


@pytest.mark.parametrize(
    ("event_shape", "size", "classes", "millions"),
    [
        ((3, 32, 32), (512, 12, 8, 2), 0, 44),
        ((3, 64, 64), (768, 16, 12, 4), 1000, 131),
        ((4, 32, 32), (1024, 20, 16, 2), 1000, 287),
        ((4, 32, 32), (1152, 28, 16, 2), 1000, 501),
    ],
)
def test_published_sizes_have_the_published_numbers_of_weights(
    event_shape, size, classes, millions
):
    with torch.device("meta"):
        net = UViT(event_shape, *size, num_classes=classes)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions
