"""The U-Net of lucidrains' denoising-diffusion-pytorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_choice, require_count
from sde_score._core.conditions import Condition, ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import (
    SignalNetwork,
    per_level,
    require_event_shape,
    require_signal,
)
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import Modulation, zero_init
from sde_score.nn.blocks.patches import space_to_depth
from sde_score.nn.blocks.resampling import ConvUpsample, convolution
from sde_score.nn.blocks.time_embedding import TimeEmbedding, TimeFeatures


class ChannelNorm(nn.Module):
    r"""Every position's channels, divided by their root mean square and scaled.

    Args:
        channels: size of dimension 1 of x.

    Reference: Zhang & Sennrich 2019, https://arxiv.org/abs/1910.07467.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, shape `(batch, channels, ...)`."""
        square = x.square().sum(dim=1, keepdim=True).clamp(min=1e-24)
        scale = (self.g * x.shape[1] ** 0.5).reshape(-1, *(1,) * (x.ndim - 2))
        out: Tensor = x * square.rsqrt() * scale
        return out


class Block(nn.Module):
    """Two convolutions, the first modulated by the embedding, added to the input.

    Args:
        channels: of x.
        out: channels of what comes out.
        embedding: length of the embedding, which has passed its SiLU.
        dims: number of dimensions beside batch and channels.
        groups: of the normalizations; None normalizes the channels of every position.
        dropout: probability of dropping a hidden number in training, behind the first convolution.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        dims: int,
        groups: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = convolution(dims, channels, out)
        self.norm1 = _norm(out, groups)
        self.condition = Modulation(embedding, out)
        self.dropout = Dropout(dropout)
        self.conv2 = convolution(dims, out, out)
        self.norm2 = _norm(out, groups)
        self.skip = convolution(dims, channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        hidden = F.silu(self.condition(self.norm1(self.conv1(x)), embedding))
        hidden = F.silu(self.norm2(self.conv2(self.dropout(hidden))))
        out: Tensor = self.skip(x) + hidden
        return out


def _norm(channels: int, groups: int | None) -> nn.Module:
    return (
        ChannelNorm(channels) if groups is None else GroupNorm(channels, True, groups, 1e-5, True)
    )


class MemoryAttention(nn.Module):
    r"""Self-attention with learned keys and values beside those of x, added to x.

    The full one is :math:`\mathrm{softmax}(Q^T K / \sqrt{d}) V`, with all pairs of positions. The
    linear one takes a softmax of every query over its channels and of every channel of the keys
    over the positions, so that :math:`K V^T` is formed first and the cost grows with the size of x.

    Args:
        channels: of x.
        full: all pairs; False for the linear one.
        heads: number of heads.
        head_channels: channels of one head.
        memory: number of learned keys and values.
        dims: number of dimensions beside batch and channels.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Shen et al. 2018,
    https://arxiv.org/abs/1812.01243.
    """

    def __init__(
        self, channels: int, full: bool, heads: int, head_channels: int, memory: int, dims: int
    ) -> None:
        super().__init__()
        require_count(heads=heads, head_channels=head_channels)
        require_count(0, memory=memory)
        self.full = full
        self.heads = heads
        width = heads * head_channels
        self.norm = ChannelNorm(channels)
        self.memory = nn.Parameter(torch.randn(2, heads, memory, head_channels))
        self.qkv = convolution(dims, channels, 3 * width, 1, bias=False)
        self.out = convolution(dims, width, channels, 1)
        self.out_norm = nn.Identity() if full else ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each example of x, shape `(batch, channels, ...)`."""
        from einops import rearrange

        tokens = self.qkv(self.norm(x)).flatten(2)
        q, k, v = rearrange(
            tokens, "b (three h c) n -> three b h n c", three=3, h=self.heads
        ).unbind()
        memory = self.memory.to(k.dtype)[:, None].expand(2, x.shape[0], *self.memory.shape[1:])
        k, v = torch.cat([memory[0], k], dim=-2), torch.cat([memory[1], v], dim=-2)
        scale = q.shape[-1] ** -0.5
        # Written out: fused attention has neither second derivatives nor forward-mode ones.
        if self.full:
            found = (q @ k.mT * scale).softmax(dim=-1) @ v
        else:
            found = q.softmax(dim=-1) * scale @ (k.softmax(dim=-2).mT @ v)
        change = rearrange(found, "b h n c -> b (h c) n").unflatten(2, x.shape[2:])
        out: Tensor = x + self.out_norm(self.out(change))
        return out


class Halving(nn.Module):
    """Patches of side two as channels, mapped to `out` channels.

    Args:
        channels: of x.
        out: of what comes out.
        dims: number of dimensions beside batch and channels.
    """

    def __init__(self, channels: int, out: int, dims: int) -> None:
        super().__init__()
        self.conv = convolution(dims, channels * 2**dims, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve x, shape `(batch, channels, ...)`; an odd side is padded by a zero."""
        out: Tensor = self.conv(space_to_depth(x, 2))
        return out


class Level(nn.Module):
    """Two blocks, attention, and the way to the next level.

    Args:
        blocks: two.
        attention: after them.
        onward: halves, doubles, or keeps the size.
    """

    def __init__(self, blocks: Sequence[Block], attention: MemoryAttention, onward: nn.Module):
        super().__init__()
        self.first, self.second = blocks
        self.attention = attention
        self.onward = onward


class LucidrainsUNet(SignalNetwork):
    """The U-Net of denoising-diffusion-pytorch, 1.9 and later.

    Two blocks and attention a level, each block's result concatenated on the way up; learned keys
    and values in every attention. Its published time label is the index of the chain. Signals of
    one to three sides, of any size. Beside the original, it takes classes, and its last layer
    starts at zero.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1.
        multipliers: channels behind each level, finest first, as multiples of `base`.
        stem: channels of the first convolution; None for `base`.
        num_classes: number of classes; 0 for a network without condition.
        full_attention: for each level, whether attention sees all pairs of positions instead of
            being linear; None for the last level alone.
        heads: number of heads of attention; one for all levels, or one for each.
        head_channels: channels of one head, likewise.
        memory: number of learned keys and values.
        groups: groups of the blocks' normalizations, as 1.9; None for root mean squares over the
            channels, as 2.x.
        embedding: of the time label: `"positional"`, or `"fourier"` with the label in front.
        features: number of features of `"fourier"`, an even number.
        learned: train the frequencies of `"fourier"`.
        theta: base of the frequencies of `"positional"`.
        self_condition: take an earlier estimate of the data as further channels: entry `estimate`
            of a dictionary of conditions, zeros where it is missing.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        out_channels: channels of the answer of `everything`, of which `forward` gives those of x;
            None for as many.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range, or lists that do not have one entry per level.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B; code at
    https://github.com/lucidrains/denoising-diffusion-pytorch. Self-conditioning: Chen et al. 2022,
    https://arxiv.org/abs/2208.04202.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        stem: int | None = None,
        num_classes: int = 0,
        full_attention: Sequence[bool] | None = None,
        heads: Sequence[int] | int = 4,
        head_channels: Sequence[int] | int = 32,
        memory: int = 4,
        groups: int | None = None,
        embedding: str = "positional",
        features: int = 16,
        learned: bool = True,
        theta: float = 10000.0,
        self_condition: bool = False,
        dropout: float = 0.0,
        out_channels: int | None = None,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_event_shape(event_shape)
        require_count(base=base, levels=len(multipliers))
        require_count(**{f"multipliers[{i}]": m for i, m in enumerate(multipliers)})
        require_dropout(dropout)
        require_choice("embedding", embedding, ("positional", "fourier"))
        count, dims = len(multipliers), len(self.event_shape) - 1
        widths = [base if stem is None else stem, *(base * m for m in multipliers)]
        require_memory(
            4 * sum(40 * 3**dims * width**2 for width in widths), f"a network of {widths=}"
        )
        full: Sequence[bool] = full_attention or [i == count - 1 for i in range(count)]
        full = per_level("full_attention", full, count)
        many = per_level("heads", heads, count)
        wide = per_level("head_channels", head_channels, count)
        self.attends = [(full[i], many[i], wide[i], memory, dims) for i in range(count)]
        fourier = embedding == "fourier"
        self.embedding = TimeEmbedding(
            TimeFeatures(2 * (features // 2) + 1, "fourier", True, 1, 1, theta, True, learned)
            if fourier
            else TimeFeatures(base, theta=theta),
            4 * base,
            num_classes,
            activation="gelu",
            condition_shape=condition_shape,
        )
        self.self_condition = self_condition
        self.style = (4 * base, dims, groups, dropout)
        channels = self.event_shape[0]
        self.stem = convolution(dims, channels * (1 + self_condition), widths[0], 7)
        self._build(widths, dims)
        out = channels if out_channels is None else out_channels
        self.last = Block(2 * widths[0], widths[0], *self.style)
        self.head = zero_init(convolution(dims, widths[0], out, 1))

    def _build(self, widths: Sequence[int], dims: int) -> None:
        deepest = len(widths) - 2
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        pairs = list(pairwise(widths))
        for i, (fine, coarse) in enumerate(pairs):
            blocks = [Block(fine, fine, *self.style) for _ in range(2)]
            onward = (
                convolution(dims, fine, coarse) if i == deepest else Halving(fine, coarse, dims)
            )
            self.encoder.append(Level(blocks, MemoryAttention(fine, *self.attends[i]), onward))
        wide = widths[-1]
        self.middle1 = Block(wide, wide, *self.style)
        self.middle_attention = MemoryAttention(wide, True, *self.attends[-1][1:])
        self.middle2 = Block(wide, wide, *self.style)
        for i, (fine, coarse) in reversed(list(enumerate(pairs))):
            blocks = [Block(coarse + fine, coarse, *self.style) for _ in range(2)]
            onward = ConvUpsample(coarse, fine, dims) if i else convolution(dims, coarse, fine)
            self.decoder.append(Level(blocks, MemoryAttention(coarse, *self.attends[i]), onward))

    @override
    def everything(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """All `out_channels` of the answer, such as a learned variance behind the mean."""
        require_signal(x, time_label, self.event_shape)
        embedding = self.embedding(time_label, condition)
        dtype, hidden = x.dtype, x.to(self.embedding.first.weight.dtype)
        if self.self_condition:
            estimate = condition.get("estimate") if isinstance(condition, Mapping) else None
            seen = torch.zeros_like(hidden) if estimate is None else estimate.to(hidden)
            hidden = torch.cat([seen, hidden], dim=1)
        first = hidden = self.stem(hidden)
        kept: list[Tensor] = []
        for level in _levels(self.encoder):
            kept.append(level.first(hidden, embedding))
            kept.append(level.attention(level.second(kept[-1], embedding)))
            hidden = level.onward(kept[-1])
        hidden = self.middle_attention(self.middle1(hidden, embedding))
        hidden = self.middle2(hidden, embedding)
        for level in _levels(self.decoder):
            hidden = level.first(torch.cat([hidden, kept.pop()], dim=1), embedding)
            hidden = level.second(torch.cat([hidden, kept.pop()], dim=1), embedding)
            hidden = level.attention(hidden)
            if isinstance(level.onward, ConvUpsample):
                hidden = level.onward(hidden, kept[-1].shape[2:])
            else:
                hidden = level.onward(hidden)
        out: Tensor = self.head(self.last(torch.cat([hidden, first], dim=1), embedding))
        return out.to(dtype)

    @override
    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"


def _levels(modules: nn.ModuleList) -> Sequence[Level]:
    return [module for module in modules if isinstance(module, Level)]
