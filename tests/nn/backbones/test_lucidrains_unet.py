"""lucidrains' U-Net: its attention by the formula, any size and rank, and refusals."""

from __future__ import annotations

import pytest
import torch

from sde_score.nn.backbones.lucidrains import ChannelNorm, LucidrainsUNet, MemoryAttention
from sde_score.nn.blocks.patches import depth_to_space, space_to_depth

SMALL = {"base": 4, "multipliers": (1, 2), "heads": 2, "head_channels": 3}


@pytest.mark.parametrize("full", [True, False])
def test_attention_by_its_formula(full, randomize):
    """One head and one query at a time, with the learned keys and values among the others."""
    layer = randomize(MemoryAttention(4, full, 2, 3, 5, 2).double(), scale=0.5)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    normed = 2 * layer.norm.g[:, None, None] * x / x.norm(dim=1, keepdim=True)
    rows = (layer.qkv.weight[:, :, 0, 0] @ normed.flatten(2)).reshape(2, 3, 2, 3, 6)
    found = torch.zeros(2, 2, 3, 6, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            q, k, v = rows[b, :, h]
            k = torch.cat([layer.memory[0, h].T, k], dim=1)
            v = torch.cat([layer.memory[1, h].T, v], dim=1)
            for n in range(6):
                if full:
                    weights = (q[:, n] @ k / 3**0.5).softmax(0)
                    found[b, h, :, n] = v @ weights
                else:
                    context = k.softmax(1) @ v.T
                    found[b, h, :, n] = (q[:, n].softmax(0) / 3**0.5) @ context
    out = layer.out(found.reshape(2, 6, 3, 2))
    if not full:
        out = 2 * layer.out_norm.g[:, None, None] * out / out.norm(dim=1, keepdim=True)
    torch.testing.assert_close(layer(x), x + out)


def test_channel_norm_of_zeros_is_zero():
    x = torch.zeros(1, 3, 2, requires_grad=True)
    out = ChannelNorm(3)(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 9, 5), (1, 2, 1), (2, 13), (1, 5, 4, 6)])
def test_any_size_and_rank(shape, randomize):
    net = randomize(LucidrainsUNet(shape, **SMALL))
    x = torch.randn(2, *shape)
    out = net(x, torch.tensor([3.0, 500.0]))
    assert out.shape == x.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("patch", [2, 3])
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 2, 4)])
def test_patches_and_back(shape, patch):
    x = torch.randn(2, 3, *shape)
    deep = space_to_depth(x, patch)
    assert torch.equal(deep[:, 0].flatten(1)[:, 0], x[:, 0].flatten(1)[:, 0])
    assert torch.equal(depth_to_space(deep, patch, shape), x)
    if len(shape) == 2 and patch == 2:
        whole = torch.randn(1, 3, 4, 6)
        unshuffled = torch.nn.functional.pixel_unshuffle(whole, 2)
        assert torch.equal(space_to_depth(whole, 2), unshuffled)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"heads=.* one entry for each of the 2 levels"):
        LucidrainsUNet((1, 8, 8), base=4, multipliers=(1, 2), heads=(1, 2, 3))
    with pytest.raises(ValueError, match=r"embedding='other'"):
        LucidrainsUNet((1, 8, 8), embedding="other")
    with pytest.raises(ValueError, match=r"multipliers\[1\]=0"):
        LucidrainsUNet((1, 8, 8), base=4, multipliers=(1, 0))
