"""Gated two-layer networks of tokens, and normalization by the root mean square."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score.nn.blocks.dropout import Dropout
from sde_score.nn.blocks.layers import zero_init

_EPS = 1e-6


def root_mean_square(x: Tensor, scale: Tensor) -> Tensor:
    """x over the root mean square of its last dimension, times `scale`."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    factor = (wide.square().mean(dim=-1, keepdim=True) + _EPS).rsqrt()
    return x * (scale * factor).to(x.dtype)


class RMSNorm(nn.Module):
    """Tokens over their root mean square, scaled by learned numbers.

    Args:
        width: length of a token.

    Reference: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, shape `(..., width)`."""
        return root_mean_square(x, self.scale)


class ControlledNorm(nn.Module):
    """Tokens over their root mean square, scaled by 1 plus a linear map of the embedding.

    Args:
        width: length of a token.
        embedding: length of the embedding.
    """

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.linear = zero_init(nn.Linear(embedding, width, bias=False))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Normalize x, shape `(batch, *grid, width)`."""
        scale = self.linear(embedding) + 1
        return root_mean_square(x, scale.reshape(len(scale), *(1,) * (x.ndim - 2), scale.shape[1]))


class GatedLinear(nn.Module):
    """Two linear maps, one times the GELU of the other, the second half of the rows.

    Args:
        width: of x.
        out: of what comes out.

    Reference: Shazeer 2020, https://arxiv.org/abs/2002.05202.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape `(..., width)`."""
        value, gate = self.linear(x).chunk(2, dim=-1)
        out: Tensor = value * F.gelu(gate)
        return out


class GatedBlock(nn.Module):
    """A normalized, gated two-layer network added to its input.

    Args:
        norm: the normalization.
        width: length of a token.
        hidden: length inside.
        dropout: probability of dropping a hidden number in training.
    """

    def __init__(self, norm: nn.Module, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = norm
        self.up = GatedLinear(width, hidden)
        self.dropout = Dropout(dropout)
        self.down = zero_init(nn.Linear(hidden, width, bias=False))

    def forward(self, x: Tensor, *embedding: Tensor) -> Tensor:
        """Map x, shape `(..., width)`."""
        out: Tensor = x + self.down(self.dropout(self.up(self.norm(x, *embedding))))
        return out
