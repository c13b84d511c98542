"""HDiT: its attention pair by pair, positions, any size and rank, and refusals."""

from __future__ import annotations

import itertools

import pytest
import torch

from sde_score.nn import HDiT
from sde_score.nn.backbones.hdit import Merge, Split, centers
from sde_score.nn.blocks.local_attention import (
    global_attention,
    neighborhood_attention,
    window_attention,
)

SMALL = {
    "widths": (8, 16),
    "depths": (1, 1),
    "attention": ("neighborhood", "window"),
    "sizes": (3, 2),
    "patch": 2,
    "embedding_width": 8,
}
GRIDS = [(7,), (5, 4), (2, 6), (3, 2, 4)]


def pair_by_pair(q, k, v, sees):
    """Attention by a loop over queries; `sees(a, b)` for places of the grid."""
    grid = q.shape[2:-1]
    places = list(itertools.product(*map(range, grid)))
    out = torch.empty_like(v)
    for place in places:
        seen = [other for other in places if sees(place, other)]
        at = (slice(None), slice(None))
        keys = torch.stack([k[(*at, *other)] for other in seen], dim=2)
        values = torch.stack([v[(*at, *other)] for other in seen], dim=2)
        scores = (q[(*at, *place)][:, :, None] * keys).sum(-1)
        out[(*at, *place)] = (scores.softmax(-1)[..., None] * values).sum(2)
    return out


@pytest.fixture
def tokens():
    def draw(grid):
        generator = torch.Generator().manual_seed(3)
        return torch.randn(3, 2, 2, *grid, 4, generator=generator, dtype=torch.float64)

    return draw


@pytest.mark.parametrize("grid", GRIDS)
def test_global_attention(grid, tokens):
    q, k, v = tokens(grid)
    torch.testing.assert_close(global_attention(q, k, v), pair_by_pair(q, k, v, lambda a, b: True))


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("grid", GRIDS)
def test_window_attention(grid, size, shift, tokens):
    """Shifted windows do not join opposite ends of the grid."""
    q, k, v = tokens(grid)

    def sees(a, b):
        return all((i + shift) // size == (j + shift) // size for i, j in zip(a, b, strict=True))

    found = window_attention(q, k, v, size, shift)
    torch.testing.assert_close(found, pair_by_pair(q, k, v, sees))


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("grid", GRIDS)
def test_neighborhood_attention(grid, size, tokens):
    """As many keys at the ends of the grid as in its middle."""
    q, k, v = tokens(grid)

    def near(i, j, side):
        window = min(size, side)
        start = min(max(i - size // 2, 0), side - window)
        return start <= j < start + window

    def sees(a, b):
        return all(near(i, j, side) for i, j, side in zip(a, b, grid, strict=True))

    found = neighborhood_attention(q, k, v, size)
    torch.testing.assert_close(found, pair_by_pair(q, k, v, sees))


def test_positions_are_square():
    """Cells have equal sides, and the longer side of the image runs from -1 to 1."""
    high, wide = centers((4, 2))
    torch.testing.assert_close(high, torch.tensor([-0.75, -0.25, 0.25, 0.75]).double())
    torch.testing.assert_close(wide, torch.tensor([-0.25, 0.25]).double())


def test_split_undoes_merge():
    """With the identity as their linear maps; places of a block are in front of channels."""
    merge, split = Merge(3, 18, (2, 3)), Split(18, 3, (2, 3), False)
    with torch.no_grad():
        merge.linear.weight.copy_(torch.eye(18))
        split.linear.weight.copy_(torch.eye(18))
    x = torch.randn(2, 5, 7, 3)
    coarse = merge(x)
    assert coarse.shape == (2, 3, 3, 18)
    assert torch.equal(coarse[:, 0, 0, 3:6], x[:, 0, 1])
    assert torch.equal(coarse[:, 0, 0, 9:12], x[:, 1, 0])
    assert torch.equal(split(coarse, (5, 7)), x)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 9, 5), (1, 4, 1), (2, 13), (1, 5, 4, 6)])
def test_any_size_and_rank(shape, randomize):
    heads = {"head_channels": 8} if len(shape) < 4 else {"head_channels": 12, "widths": (12, 24)}
    net = randomize(HDiT(shape, **{**SMALL, **heads}))
    x, label = torch.randn(2, *shape), torch.tensor([0.3, -0.2])
    out = net(x, label)
    assert out.shape == x.shape
    assert out.isfinite().all()
    other = torch.randn(1, shape[0], *(side + 3 for side in shape[1:]))
    assert net(other, label[:1]).shape == other.shape


def test_absent_augmentation_labels_are_zeros(randomize):
    """Not nothing: the cosines of zero are one."""
    net = randomize(HDiT((2, 8, 8), head_channels=8, **SMALL))
    x, label = torch.randn(2, 2, 8, 8), torch.tensor([0.3, -0.2])
    assert torch.equal(net(x, label), net(x, label, {"augment": torch.zeros(2, 9)}))
    assert not torch.allclose(net(x, label), net(x, label, {"augment": torch.ones(2, 9)}))
    with torch.no_grad():
        before = net(x, label)
        net.embedding.augment.weight.zero_()
    assert not torch.allclose(net(x, label), before)


def test_every_second_window_is_shifted():
    net = HDiT((1, 8, 8), **{**SMALL, "attention": "window", "depths": (3, 2)}, head_channels=8)
    shifts = [[layer.attention.shift for layer in level] for level in (net.down[0], net.up[0])]
    assert shifts == [[0, 1, 0], [1, 0, 1]]


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"head_channels=12 must be a multiple of 8"):
        HDiT((1, 8, 8), widths=(12, 24), depths=(1, 1), attention="global", head_channels=12)
    with pytest.raises(ValueError, match=r"attention='linear'"):
        HDiT((1, 8, 8), attention="linear")
    with pytest.raises(ValueError, match=r"sizes=.* must have one entry for each of the 3 levels"):
        HDiT((1, 8, 8), sizes=(3, 3))
    net = HDiT((1, 8, 8), head_channels=8, num_augment=0, **SMALL)
    with pytest.raises(ValueError, match=r"without augmentation labels"):
        net(torch.zeros(1, 1, 8, 8), torch.zeros(1), {"augment": torch.zeros(1, 9)})
