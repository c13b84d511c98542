"""The diffusion transformer: signals of any rank and size, its formulas, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn import DiT, create
from sde_score.nn.blocks.tokens import PatchEmbedding, from_patches, grid_waves

SMALL = {"width": 12, "depth": 1, "heads": 2, "features": 8}


@pytest.mark.parametrize("event_shape", [(2, 9), (1, 6, 10), (1, 3, 4, 5)])
def test_any_rank_and_any_size(event_shape, randomize):
    net = randomize(DiT(event_shape, patch=3, num_classes=2, **SMALL))
    for more in (0, 1):
        x = torch.randn(2, event_shape[0], *(side + more for side in event_shape[1:]))
        assert net(x, torch.ones(2), torch.tensor([1, -1])).shape == x.shape


def test_positions_are_the_stated_waves():
    waves = grid_waves((2, 3), 8, torch.device("cpu"))
    for row in range(2):
        for column in range(3):
            angles = torch.tensor([1.0, 0.01], dtype=torch.float64)
            expected = torch.cat(
                [
                    (angles * place).sin_() if wave else (angles * place).cos_()
                    for place in (column, row)
                    for wave in (1, 0)
                ]
            )
            torch.testing.assert_close(waves[3 * row + column], expected)


@pytest.mark.parametrize("sides", [(7,), (4, 5), (3, 5, 2)])
def test_patches_go_back_to_their_places(sides):
    """Vectors that hold the patch itself, the channels running fastest, give the signal back."""
    dims, patch, channels = len(sides), 2, 3
    part = PatchEmbedding(channels, patch**dims * channels, patch, dims).double()
    weight, bias = part.conv.parameters()
    with torch.no_grad():
        identity = torch.eye(patch**dims * channels).reshape(-1, *[patch] * dims, channels)
        weight.copy_(identity.movedim(-1, 1))
        bias.zero_()
    x = torch.randn(2, channels, *sides, dtype=torch.float64)
    torch.testing.assert_close(from_patches(part(x), patch, part.grid(sides), sides), x)


def test_learned_variance_stands_behind_the_mean(randomize):
    net = randomize(DiT((2, 4, 4), learned_variance=True, **SMALL))
    x, label = torch.randn(3, 2, 4, 4), torch.arange(3.0)
    everything = net.everything(x, label)
    assert everything.shape == (3, 4, 4, 4)
    assert torch.equal(net(x, label), everything[:, :2])


def test_no_class_has_a_vector_of_its_own(randomize):
    x, label, free = torch.randn(1, 2, 4, 4), torch.ones(1), torch.tensor([-1])
    net = randomize(DiT((2, 4, 4), num_classes=2, **SMALL))
    assert net.embedding.classes.weight.shape == (3, 12)
    before = net(x, label, free)
    with torch.no_grad():
        net.embedding.classes.weight[2] += 1
    assert not torch.equal(net(x, label, free), before)
    without = randomize(DiT((2, 4, 4), num_classes=2, null_class=False, **SMALL))
    assert without.embedding.classes.weight.shape == (2, 12)


def test_each_block_may_have_its_own_embedding(randomize):
    net = randomize(DiT((2, 4, 4), **{**SMALL, "depth": 2}, shared_embedding=False))
    x, label = torch.randn(1, 2, 4, 4), torch.ones(1)
    before = net(x, label)
    with torch.no_grad():
        net.embeddings[0].second.bias += 1
    assert not torch.equal(net(x, label), before)
    with torch.no_grad():  # the last layer reads the first embedding
        for block in net.blocks:
            block.modulation.weight.zero_()
        before = net(x, label)
        net.embeddings[0].second.bias += 1
    assert torch.equal(net(x, label), before)


def test_block_is_its_formula(randomize):
    """One patch, so that attention passes on its values; torch's own layers beside."""
    net = randomize(DiT((3, 2, 2), **SMALL, eps=0.1)).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    label = torch.tensor([3.0, 500.0], dtype=torch.float64)
    omega = 10000 ** (-torch.arange(4, dtype=torch.float64) / 4)
    angles = label[:, None] * omega
    e = net.embedding
    c = F.silu(e.second(F.silu(e.first(torch.cat([angles.cos(), angles.sin()], 1)))))
    weight, bias = net.patches.conv.parameters()
    h = x.flatten(1) @ weight.flatten(1).T + bias
    h = h + torch.tensor([0.0] * 3 + [1.0] * 3, dtype=h.dtype).repeat(2)  # sines and cosines of 0
    (block,) = net.blocks
    b1, s1, g1, b2, s2, g2 = block.modulation(c).chunk(6, 1)
    z = F.layer_norm(h, (12,), eps=1e-6) * (1 + s1) + b1
    value = z @ block.attention.qkv.weight[24:].T + block.attention.qkv.bias[24:]
    h = h + g1 * block.attention.out(value)
    z = F.layer_norm(h, (12,), eps=0.1) * (1 + s2) + b2
    h = h + g2 * block.mlp.outer(F.gelu(block.mlp.inner(z), approximate="tanh"))
    shift, scale = net.head.modulation(c).chunk(2, 1)
    out = net.head.linear(F.layer_norm(h, (12,), eps=1e-6) * (1 + scale) + shift)
    expected = out.reshape(2, 2, 2, 3).movedim(-1, 1)
    torch.testing.assert_close(net(x, label), expected, rtol=1e-10, atol=1e-10)


def test_spec_text_builds_it():
    net = create("dit(width=12, depth=1, heads=2, patch=4)", (3, 8, 8), 5)
    assert isinstance(net, DiT)
    assert net.embedding.num_classes == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (3,)}, "channels and one to three sides"),
        ({"heads": 5}, "heads=5 must divide width=12"),
        ({"width": 10}, "width=10 must be a multiple of 4"),
        ({"patch": 0}, "patch=0"),
        ({"depth": 0}, "depth=0"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiT(**{"event_shape": (3, 4, 4), **SMALL, **arguments})


def test_calls_that_do_not_fit_are_refused():
    net = DiT((3, 4, 4), **SMALL)
    with pytest.raises(ValueError, match=r"does not fit this network: it takes \(batch, 3, ...\)"):
        net(torch.zeros(1, 3, 4), torch.zeros(1))
    with pytest.raises(ValueError, match="1 entries for 2 examples"):
        net(torch.zeros(2, 3, 4, 4), torch.zeros(1))


@pytest.mark.parametrize(
    ("size", "millions"),
    [((384, 12, 6), 33), ((768, 12, 12), 130), ((1024, 24, 16), 458), ((1152, 28, 16), 675)],
)
def test_published_sizes_have_the_published_numbers_of_weights(size, millions):
    with torch.device("meta"):
        net = DiT((4, 32, 32), *size, num_classes=1000, learned_variance=True)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions
