r"""Self-attention over the pixels of each image, as the published U-Nets have it."""

from __future__ import annotations

from torch import Tensor, nn

from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.heads import attend
from sde_score.nn.blocks.layers import Modulation, zero_init


class Attention(nn.Module):
    r"""Self-attention over all positions of a signal of any rank, added to it.

    .. math:: (x + W \, \mathrm{softmax}(Q K^T / \sqrt{d}) \, V) \cdot scale

    with d channels a head. Queries, keys and values are the first, second and last third of the
    rows of `qkv`, each head a block of consecutive rows; networks with another order are permuted
    when they are read.

    Args:
        channels: of x.
        heads: number of heads, a divisor of `channels`.
        groups: of the normalization; 0 for none.
        eps: of the normalization.
        scale: factor on the sum.
        embedding: length of an embedding that scales and shifts the normalized x, in the place of
            learned numbers; None for those.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        eps: float = 1e-5,
        scale: float = 1.0,
        embedding: int | None = None,
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads={heads} must divide the {channels} channels of the attention")
        self.heads = heads
        self.second_derivatives = True
        self.scale = scale
        affine = embedding is None
        self.norm = (
            GroupNorm(channels, groups=groups, eps=eps, affine=affine) if groups else nn.Identity()
        )
        self.condition = None if embedding is None else Modulation(embedding, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Attend within each example of x, shape `(batch, channels, ...)`."""
        tokens = self.norm(x)
        if self.condition is not None:
            tokens = self.condition(tokens, embedding)
        tokens = self.qkv(tokens.flatten(2).mT)
        change = self.out(attend(tokens, self.heads, self.second_derivatives))
        out: Tensor = (x + change.mT.reshape(x.shape)) * self.scale
        return out
