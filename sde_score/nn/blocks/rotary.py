"""Attention over a grid of tokens whose queries and keys the positions rotate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sde_score.nn.blocks.dropout import Dropout
from sde_score.nn.blocks.gated import ControlledNorm
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.local_attention import (
    global_attention,
    neighborhood_attention,
    window_attention,
)

_EPS = 1e-6


class RotaryAttention(nn.Module):
    r"""Attention by the cosine of queries and keys, which positions rotate, added to its input.

    Queries and keys have length :math:`\sqrt{s}` with a learned s of each head. The first half of
    each head's channels is rotated by the positions along every side, times frequencies between pi
    and 10 pi.

    Args:
        width: length of a token.
        head_channels: channels of a head, a divisor of `width`.
        embedding: length of the embedding.
        dims: number of sides.
        kind: `"global"`, `"neighborhood"` or `"window"`.
        size: side of a neighborhood or window.
        shifted: move the windows by half a side.
        dropout: probability of dropping a number of the answer in training.

    Reference: Crowson et al. 2024, https://arxiv.org/abs/2401.11605, section 4; Su et al. 2021,
    https://arxiv.org/abs/2104.09864.
    """

    frequencies: Tensor

    def __init__(
        self,
        width: int,
        head_channels: int,
        embedding: int,
        dims: int,
        kind: str,
        size: int,
        shifted: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        if width % head_channels or head_channels % (4 * dims):
            raise ValueError(
                f"head_channels={head_channels} must be a multiple of {4 * dims}, four times the "
                f"number of sides, that divides the width {width}"
            )
        self.kind, self.size, self.shift = kind, size, size // 2 if shifted else 0
        self.heads = width // head_channels
        self.norm = ControlledNorm(width, embedding)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scale = nn.Parameter(torch.full((self.heads,), 10.0))
        count = head_channels // 4 // dims
        grid = torch.linspace(math.log(math.pi), math.log(10 * math.pi), self.heads * count + 1)
        waves = grid[:-1].exp().reshape(count, self.heads).mT.contiguous()
        self.register_buffer("frequencies", waves)
        self.dropout = Dropout(dropout)
        self.out = zero_init(nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor, embedding: Tensor, positions: list[Tensor]) -> Tensor:
        """Attend within each example of x, shape `(batch, *grid, width)`."""
        qkv = self.qkv(self.norm(x, embedding)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (part.movedim(-2, 1) for part in qkv.unbind(-3))
        angles = self._angles(positions)
        root = self.scale.abs().sqrt().reshape(-1, *(1,) * (x.ndim - 1))
        q, k = (_rotated(_unit(part) * root, angles).to(v.dtype) for part in (q, k))
        if self.kind == "global":
            found = global_attention(q, k, v)
        elif self.kind == "window":
            found = window_attention(q, k, v, self.size, self.shift)
        else:
            found = neighborhood_attention(q, k, v, self.size)
        out: Tensor = x + self.out(self.dropout(found.movedim(1, -2).flatten(-2)))
        return out

    def _angles(self, positions: list[Tensor]) -> Tensor:
        """Shape `(heads, *grid, angles)`, those of the first side in front."""
        sides = [len(line) for line in positions]
        angles = []
        for axis, line in enumerate(positions):
            place = line.reshape(*(-1 if i == axis else 1 for i in range(len(sides))), 1)
            waves = self.frequencies.reshape(self.heads, *(1,) * len(sides), -1)
            angles.append((place * waves).expand(-1, *sides, -1))
        return torch.cat(angles, dim=-1)


def _unit(x: Tensor) -> Tensor:
    """x over the length of its last dimension, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return wide * (wide.square().sum(dim=-1, keepdim=True) + _EPS).rsqrt()


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """Channels i and i + n rotated by angle i of n; the others as they are."""
    n = angles.shape[-1]
    first, second, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
