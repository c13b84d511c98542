r"""Parts of transformers: patches of signals, positions, attention, blocks that noise controls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.checks import require_count
from sde_score.nn.blocks.group_norm import LayerNorm
from sde_score.nn.blocks.heads import attend
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.patches import depth_to_space
from sde_score.nn.blocks.resampling import convolution


class PatchEmbedding(nn.Module):
    """Patches of a signal as vectors; sides that no patch divides are padded by zeros at their end.

    Args:
        channels: of x.
        width: length of the vectors.
        patch: side of a patch.
        dims: number of dimensions beside batch and channels.
    """

    def __init__(self, channels: int, width: int, patch: int, dims: int = 2) -> None:
        super().__init__()
        require_count(patch=patch)
        self.patch = patch
        self.conv = convolution(dims, channels, width, kernel=patch, stride=patch, padding=0)

    def grid(self, sides: Sequence[int]) -> tuple[int, ...]:
        """Number of patches along each side."""
        return tuple(-(-side // self.patch) for side in sides)

    def forward(self, x: Tensor) -> Tensor:
        """Vectors of x, shape `(batch, patches, width)`, the last side running fastest."""
        pads = [pad for side in reversed(x.shape[2:]) for pad in (0, -side % self.patch)]
        out: Tensor = self.conv(F.pad(x, pads) if any(pads) else x)
        return out.flatten(2).mT


def from_patches(tokens: Tensor, patch: int, grid: Sequence[int], sides: Sequence[int]) -> Tensor:
    """The signal, shape `(batch, channels, *sides)`, whose patches the vectors hold.

    Args:
        tokens: shape `(batch, patches, patch^dims channels)`, the channels running fastest.
        patch: side of a patch.
        grid: number of patches along each side.
        sides: of the signal, which is cut to them.
    """
    batch, count, length = tokens.shape
    places = patch ** len(grid)
    x = tokens.reshape(batch, count, places, length // places).transpose(1, 3)
    return depth_to_space(x.reshape(batch, length, *grid), patch, sides)


def grid_waves(
    grid: Sequence[int], width: int, device: torch.device, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Sines and cosines of the places of a grid, shape `(places, width)`.

    .. math:: (\sin \omega_k i, \cos \omega_k i), \qquad \omega_k = 10000^{-k / K},
              \quad k = 0 \ldots K - 1, \quad K = width / (2\, dims)

    for the index i along the last side, then along the one before it.

    Args:
        grid: number of places along each side.
        width: length of the vectors, a multiple of 2 dims.
        device: of the result.
        dtype: of the result.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Dosovitskiy et al. 2021,
    https://arxiv.org/abs/2010.11929.
    """
    half = width // (2 * len(grid))
    steps = torch.arange(half, dtype=torch.float64, device=device)
    omega = torch.exp(steps * (-math.log(10000) / half))
    parts = []
    for axis in reversed(range(len(grid))):
        place = torch.arange(grid[axis], dtype=torch.float64, device=device)
        angles = place[:, None] * omega
        shape = [1] * len(grid) + [2 * half]
        shape[axis] = grid[axis]
        waves = torch.cat([angles.sin(), angles.cos()], dim=1).reshape(shape)
        parts.append(waves.expand(*grid, 2 * half))
    return torch.cat(parts, dim=-1).reshape(-1, width).to(dtype)


class TokenAttention(nn.Module):
    r"""Self-attention, W softmax(Q K^T / sqrt(d)) V with d channels a head.

    Queries, keys and values are the thirds of the rows of `qkv`, each head a block of consecutive
    rows.

    Args:
        width: length of the vectors.
        heads: number of heads, a divisor of `width`.
        bias: give queries, keys and values a bias.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        require_count(heads=heads)
        if width % heads:
            raise ValueError(f"heads={heads} must divide width={width}")
        self.heads = heads
        self.second_derivatives = True
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each example of x, shape `(batch, tokens, width)`."""
        out: Tensor = self.out(attend(self.qkv(x), self.heads, self.second_derivatives))
        return out


class FeedForward(nn.Module):
    """Two layers with a GELU in between.

    Args:
        width: length of the vectors.
        hidden: length in between.
        approximate: compute the GELU by its approximation with tanh.
    """

    def __init__(self, width: int, hidden: int, approximate: bool = False) -> None:
        super().__init__()
        require_count(hidden=hidden)
        self.inner = nn.Linear(width, hidden)
        self.outer = nn.Linear(hidden, width)
        self.approximate = "tanh" if approximate else "none"

    def forward(self, x: Tensor) -> Tensor:
        """Map the vectors in the last dimension of x."""
        out: Tensor = self.outer(F.gelu(self.inner(x), approximate=self.approximate))
        return out


def draw_linear(weight: Tensor, bias: Tensor) -> None:
    """Draw the weights of a linear layer, or of one over patches, as Glorot; the bias is zero."""
    nn.init.xavier_uniform_(weight.flatten(1))
    nn.init.zeros_(bias)


class AdaptiveBlock(nn.Module):
    r"""Attention, then a two-layer network, added to tokens as the embedding says.

    .. math:: x \leftarrow x + g \, f(\mathrm{LN}(x) (1 + s) + b)

    with s, b and g linear in the embedding and zero in a new network (adaLN-zero), which therefore
    begins as the identity.

    Args:
        width: length of the vectors, and of the embedding.
        heads: of attention, a divisor of `width`.
        hidden: length inside of the two-layer network.
        eps: of the normalization in front of the two-layer network; of the other it is 1e-6.

    Reference: Peebles & Xie 2023, https://arxiv.org/abs/2212.09748.
    """

    def __init__(self, width: int, heads: int, hidden: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width, eps=1e-6)
        self.norm2 = LayerNorm(width, eps=eps)
        self.attention = TokenAttention(width, heads)
        self.mlp = FeedForward(width, hidden, approximate=True)
        for layer in (self.attention.qkv, self.attention.out, self.mlp.inner, self.mlp.outer):
            draw_linear(layer.weight, layer.bias)
        self.modulation = zero_init(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x, shape `(batch, tokens, width)`, by an embedding of shape `(batch, width)`."""
        numbers = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        shift, scale, gate = numbers[:3]
        x = x + gate * self.attention(self.norm1(x) * (1 + scale) + shift)
        shift, scale, gate = numbers[3:]
        out: Tensor = x + gate * self.mlp(self.norm2(x) * (1 + scale) + shift)
        return out


class AdaptiveHead(nn.Module):
    """The last normalization, which the embedding controls, and a layer that starts at zero.

    Args:
        width: length of the vectors, and of the embedding.
        linear: the layer.
    """

    def __init__(self, width: int, linear: nn.Module) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=1e-6)
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.linear = zero_init(linear)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x, shape `(batch, tokens, width)`, by an embedding of shape `(batch, width)`."""
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        out: Tensor = self.linear(self.norm(x) * (1 + scale) + shift)
        return out
