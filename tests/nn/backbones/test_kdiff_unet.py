"""k-diffusion's U-Net: mirrored resampling, any size and rank, and its answer's variance."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sde_score.nn import create
from sde_score.nn.backbones.kdiff_unet import KDiffUNet
from sde_score.nn.blocks.resampling import FIR, Downsample, Upsample

SMALL = {"widths": (4, 8), "depths": (2, 1), "attention": (False, True), "embedding_width": 6}
KERNEL = torch.tensor([1, 3, 3, 1]).double() / 8


def test_halving_and_doubling_mirror_the_signal():
    """By their sums, at every place, of the signal continued by its mirror image."""
    x = torch.randn(1, 1, 8, dtype=torch.float64)
    wide = F.pad(x, (3, 3), "reflect")[0, 0]
    half = Downsample(1, FIR, True).double()(x)[0, 0]
    twice = Upsample(1, FIR, True).double()(x)[0, 0]
    for j in range(4):
        sums = sum(KERNEL[m] * wide[3 + 2 * j - 1 + m] for m in range(4))
        assert half[j].item() == pytest.approx(sums.item())
    for j in range(16):
        sums = sum(
            2 * KERNEL[j + 1 - 2 * i] * wide[3 + i] for i in range(-2, 10) if 0 <= j + 1 - 2 * i < 4
        )
        assert twice[j].item() == pytest.approx(sums.item())


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 9, 5), (1, 2, 1), (2, 13), (1, 5, 4, 6)])
def test_any_size_and_rank(shape, patch, randomize):
    net = randomize(KDiffUNet(shape, patch=patch, **SMALL))
    x = torch.randn(2, *shape)
    out = net(x, torch.tensor([0.3, -0.2]))
    assert out.shape == x.shape
    assert out.isfinite().all()


def test_variance_is_beside_the_answer(randomize):
    net = randomize(KDiffUNet((2, 8, 8), variance=True, patch=2, **SMALL))
    x, label = torch.randn(3, 2, 8, 8), torch.zeros(3)
    answer, variance = net.with_log_variance(x, label)
    assert torch.equal(answer, net(x, label))
    assert variance.shape == (3,)
    with pytest.raises(ValueError, match=r"build it with variance=True"):
        KDiffUNet((2, 8, 8), **SMALL).with_log_variance(x, label)


def test_augmentation_labels_of_zero_are_none(randomize):
    net = randomize(KDiffUNet((2, 8, 8), num_augment=9, **SMALL))
    x, label = torch.randn(2, 2, 8, 8), torch.zeros(2)
    assert torch.equal(net(x, label), net(x, label, {"augment": torch.zeros(2, 9)}))
    assert not torch.allclose(net(x, label), net(x, label, {"augment": torch.ones(2, 9)}))


def test_dropout_drops_whole_channels():
    net = create(
        "kdiff-unet(widths=(4, 8), depths=(1, 1), attention=(False, False), dropout=0.5)", (1, 8, 8)
    )
    seen = []
    net.encoder[0].blocks[0].dropout.register_forward_hook(lambda *call: seen.append(call[2]))
    net.train()(torch.randn(4, 1, 8, 8), torch.zeros(4))
    dead = (seen[0] == 0).flatten(2)
    assert torch.equal(dead.all(-1), dead.any(-1))
    assert 0 < dead.all(-1).sum() < dead.all(-1).numel()


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"attention=.* one entry for each of the 2 levels"):
        KDiffUNet((1, 8, 8), widths=(4, 8), depths=(1, 1), attention=(True,))
    with pytest.raises(ValueError, match=r"widths\[1\]=0"):
        KDiffUNet((1, 8, 8), widths=(4, 0), depths=(1, 1), attention=(True, True))
