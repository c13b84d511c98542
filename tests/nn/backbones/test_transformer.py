"""The transformer for tables and sets: its formula, what it tells apart, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn import Transformer

SMALL = {"width": 8, "depth": 1, "heads": 2}


@pytest.fixture
def call():
    """A call at a noise level of zero, in float64."""

    def answer(net, x):
        return net.double()(x, x.new_zeros(len(x)))

    return answer


def test_a_table_is_its_formula(randomize, call):
    """One column, so that attention passes on its values; torch's own layers beside."""
    net = randomize(Transformer((1,), **SMALL), scale=0.5).double()
    x = torch.randn(3, 1, dtype=torch.float64)
    c = net.embedding(x.new_zeros(3))
    h = x * net.tokens.weight + net.tokens.bias
    (block,) = net.blocks
    b1, s1, g1, b2, s2, g2 = block.modulation(c).chunk(6, 1)
    z = F.layer_norm(h, (8,), eps=1e-6) * (1 + s1) + b1
    value = z @ block.attention.qkv.weight[16:].T + block.attention.qkv.bias[16:]
    h = h + g1 * block.attention.out(value)
    z = F.layer_norm(h, (8,), eps=1e-6) * (1 + s2) + b2
    assert block.mlp.inner.out_features == 16
    h = h + g2 * block.mlp.outer(F.gelu(block.mlp.inner(z), approximate="tanh"))
    shift, scale = net.head.modulation(c).chunk(2, 1)
    z = F.layer_norm(h, (8,), eps=1e-6) * (1 + scale) + shift
    expected = z @ net.head.linear.weight.T + net.head.linear.bias
    torch.testing.assert_close(call(net, x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("event_shape", [(5,), (5, 3)])
def test_without_positions_members_are_a_set(event_shape, randomize, call):
    x = torch.randn(2, *event_shape, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 2, 1])
    for positions in (False, True):
        net = randomize(Transformer(event_shape, positions=positions, **SMALL), scale=0.5)
        permuted = torch.allclose(call(net, x[:, order]), call(net, x)[:, order], atol=1e-12)
        assert permuted is not positions


@pytest.mark.parametrize("event_shape", [(4,), (4, 2)])
def test_every_member_answers_to_every_other(event_shape, randomize, call):
    net = randomize(Transformer(event_shape, **SMALL), scale=0.5).double()
    x = torch.randn(1, *event_shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: call(net, x), x)
    assert (jacobian.abs() > 1e-6).all()


def test_vectors_are_conditions(randomize):
    net = randomize(Transformer((4, 2), condition_shape=(3,), **SMALL))
    x, level = torch.randn(2, 4, 2), torch.zeros(2)
    y = torch.tensor([[1.0, 2.0, 3.0], [torch.nan] * 3])
    told, free = net(x, level, y), net(x, level)
    assert not torch.equal(told[0], free[0])
    assert torch.equal(told[1], free[1])


def test_default_blocks_have_the_size_of_the_paper():
    """Attention and gated two-layer networks of FT-Transformer, without what noise controls."""
    block = Transformer((10,)).blocks[0]
    weights = [p.numel() for part in (block.attention, block.mlp) for p in part.parameters()]
    expected = 4 * (192**2 + 192) + (192 * 512 + 512) + (256 * 192 + 192)
    assert sum(weights) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (3, 8, 8)}, r"event_shape=\(3, 8, 8\) must be \(columns,\) of a table or"),
        ({"event_shape": ()}, r"event_shape=\(\) must be \(columns,\)"),
        ({"heads": 3}, "heads=3 must divide width=8"),
        ({"depth": 0}, "depth=0"),
        ({"width": 10**7}, "width=10000000.* of memory"),
    ],
)
def test_sizes_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(**{"event_shape": (4,), **SMALL, **arguments})
