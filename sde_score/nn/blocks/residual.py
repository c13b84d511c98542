"""The residual block of the published U-Nets, with its switches as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import check_fields
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import Modulation, zero_init
from sde_score.nn.blocks.resampling import BOX, Downsample, Upsample, convolution


@dataclass(frozen=True)
class BlockStyle:
    """What one paper's residual and attention blocks have in common.

    Args:
        groups: most groups of a normalization.
        channels_per_group: least channels of a group; with 4, 64 channels have 16 groups.
        eps: of the normalizations.
        scale_shift: condition by scale and shift after the second normalization; False adds the
            embedding in front of it.
        scale: factor on the sum of a block and its input.
        projects_resampled: give a block that resamples a projection of its input even where the
            channels stay, as NCSN++; False passes it on as it is, as ADM.
        heads: of attention, where `head_channels` is None.
        head_channels: channels of one head of attention, which decides the number of heads.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        attention_groups: groups of attention's normalization, where they are others; 0 for none.
        dims: number of dimensions beside batch and channels, 1 to 3.
        taps: filter of blocks that resample.
    """

    groups: int = 32
    channels_per_group: int = 1
    eps: float = 1e-5
    scale_shift: bool = False
    scale: float = 1.0
    projects_resampled: bool = False
    heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    attention_groups: int | None = None
    dims: int = 2
    taps: tuple[float, ...] = BOX

    def __post_init__(self) -> None:
        check_fields(self)
        require_dropout(self.dropout)

    def groups_of(self, channels: int) -> int:
        """Number of groups for so many channels."""
        return max(1, min(self.groups, channels // self.channels_per_group))

    def heads_of(self, channels: int) -> int:
        """Number of heads for so many channels."""
        return self.heads if self.head_channels is None else max(1, channels // self.head_channels)

    def norm(self, channels: int) -> GroupNorm:
        """A normalization of so many channels."""
        return GroupNorm(channels, groups=self.groups_of(channels), eps=self.eps, affine=True)

    def attention(self, channels: int) -> Attention:
        """Attention over so many channels."""
        heads = self.heads_of(channels)
        own = self.attention_groups
        groups = self.groups_of(channels) if own is None else own
        return Attention(channels, heads, groups, self.eps, self.scale)


class ResBlock(nn.Module):
    r"""Two convolutions around the conditioning, added to the input.

    .. math:: h &= C_1 R(\mathrm{silu}\, N_1 x), \\
              h &= C_2\, \mathrm{dropout}\, \mathrm{silu}\, m(N_2, h, e), \\
              y &= (P R x + h) \cdot scale

    with resampling R, normalizations N, convolutions C, and a projection P where the channels
    change. The embedding e, which has passed its SiLU, enters as m = N_2(h)(1 + s) + b, or as
    m = N_2(h + b), with s and b linear in e.

    Args:
        channels: of x.
        out: channels of what comes out.
        embedding: length of the embedding.
        style: the switches.
        resample: `"down"`, `"up"`, or None.

    Reference: Song et al. 2021, https://arxiv.org/abs/2011.13456, appendix H; Dhariwal & Nichol
    2021, https://arxiv.org/abs/2105.05233, appendix A.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        style: BlockStyle,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        dims = style.dims
        self.scale = style.scale
        self.norm1 = style.norm(channels)
        self.conv1 = convolution(dims, channels, out)
        self.norm2 = style.norm(out)
        self.condition: nn.Module = (
            Modulation(embedding, out) if style.scale_shift else nn.Linear(embedding, out)
        )
        self.dropout = Dropout(style.dropout)
        self.conv2 = zero_init(convolution(dims, out, out))
        self.down = Downsample(dims, style.taps) if resample == "down" else None
        self.up = Upsample(dims, style.taps) if resample == "up" else None
        projects = channels != out or (resample is not None and style.projects_resampled)
        self.skip = convolution(dims, channels, out, kernel=1) if projects else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Map x, shape `(batch, channels, ...)`; a block that doubles cuts to `size`."""
        hidden = F.silu(self.norm1(x))
        if self.down is not None:
            hidden, x = self.down(hidden), self.down(x)
        elif self.up is not None:
            hidden, x = self.up(hidden, size), self.up(x, size)
        hidden = self.conv1(hidden)
        if isinstance(self.condition, Modulation):
            hidden = self.condition(self.norm2(hidden), embedding)
        else:
            shift = self.condition(embedding)
            hidden = self.norm2(hidden + shift.reshape(*shift.shape, *(1,) * (x.ndim - 2)))
        hidden = self.conv2(self.dropout(F.silu(hidden)))
        out: Tensor = self.skip(x) + hidden
        return out if self.scale == 1 else out * self.scale
