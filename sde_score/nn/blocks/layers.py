"""Layers of backbones: modulation by an embedding, self-attention, zero initialization."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn

from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.heads import attend
from sde_score.nn.blocks.resampling import convolution

M = TypeVar("M", bound=nn.Module)

_HEAD_CHANNELS = 64


def zero_init(module: M) -> M:
    """Set all parameters of a layer to zero, so that what follows it starts from nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class Modulation(nn.Module):
    r"""Adaptive scale and shift: channel c of x becomes `x_c (1 + scale_c) + shift_c`.

    Scale and shift are linear in the embedding of the noise level.

    Args:
        embedding: length of the embedding.
        channels: size of dimension 1 of x.
    """

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Modulate x, shape `(batch, channels, ...)`, by the embedding, `(batch, embedding)`."""
        scale, shift = self.linear(embedding).chunk(2, dim=1)
        per_channel = (*scale.shape, *(1,) * (x.ndim - 2))
        # Not addcmul, whose derivatives pass over x once more.
        out: Tensor = x * (1 + scale.reshape(per_channel)) + shift.reshape(per_channel)
        return out


class SelfAttention(nn.Module):
    r"""Self-attention over all positions of a signal of any rank, added to it.

    .. math:: x + W \, \mathrm{softmax}(Q K^T / \sqrt{d}) \, V

    Heads have 64 channels where that divides `channels`, else there is one. The output layer starts
    at zero.

    Args:
        channels: channels of x.
        dims: number of dimensions beside batch and channels.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, channels: int, dims: int = 2) -> None:
        super().__init__()
        self.heads = channels // _HEAD_CHANNELS if channels % _HEAD_CHANNELS == 0 else 1
        self.second_derivatives = True
        self.norm = GroupNorm(channels)
        self.qkv = convolution(dims, channels, 3 * channels, kernel=1)
        self.out = zero_init(convolution(dims, channels, channels, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with attention added, shape `(batch, channels, ...)`."""
        tokens = self.qkv(self.norm(x)).flatten(2).mT
        found = attend(tokens, self.heads, self.second_derivatives)
        change: Tensor = self.out(found.mT.reshape(x.shape))
        return x + change
