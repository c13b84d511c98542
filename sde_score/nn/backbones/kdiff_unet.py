"""The U-Net of k-diffusion's first image models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import per_level, require_sides, require_signal, shape_told
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.dropout import require_dropout
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import Modulation, zero_init
from sde_score.nn.blocks.patches import depth_to_space, space_to_depth
from sde_score.nn.blocks.resampling import FIR, Downsample, Upsample, convolution
from sde_score.nn.blocks.time_embedding import TimeEmbedding, TimeFeatures

_CHANNELS_PER_GROUP, _CHANNELS_PER_HEAD = 32, 64
_DROPOUTS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}


class KDiffBlock(nn.Module):
    """Two convolutions of modulated channels, added to the input.

    Args:
        channels: of x.
        middle: channels between the convolutions.
        out: channels of what comes out.
        embedding: length of the embedding.
        dims: number of dimensions beside batch and channels.
        dropout: probability of dropping a channel in training, behind each convolution.
    """

    def __init__(
        self, channels: int, middle: int, out: int, embedding: int, dims: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = _norm(channels)
        self.condition1 = _modulation(embedding, channels)
        self.conv1 = convolution(dims, channels, middle)
        self.norm2 = _norm(middle)
        self.condition2 = _modulation(embedding, middle)
        self.conv2 = convolution(dims, middle, out)
        self.dropout = _DROPOUTS[dims](dropout)
        self.skip = (
            convolution(dims, channels, out, 1, bias=False) if channels != out else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        hidden = self.conv1(F.gelu(self.condition1(self.norm1(x), embedding)))
        hidden = self.condition2(self.norm2(self.dropout(hidden)), embedding)
        out: Tensor = self.skip(x) + self.dropout(self.conv2(F.gelu(hidden)))
        return out


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(channels, groups=max(1, channels // _CHANNELS_PER_GROUP))


def _modulation(embedding: int, channels: int) -> Modulation:
    layer = Modulation(embedding, channels)
    zero_init(layer.linear)
    return layer


class KDiffLevel(nn.Module):
    """The blocks of one level, on the way down or up, each with attention or without.

    Args:
        sizes: channels before the first block, inside, and behind the last.
        depth: number of blocks.
        attends: attention follows each block.
        embedding: length of the embedding.
        dims: number of dimensions beside batch and channels.
        dropout: see `KDiffBlock`.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        depth: int,
        attends: bool,
        embedding: int,
        dims: int,
        dropout: float,
    ) -> None:
        super().__init__()
        first, middle, last = sizes
        ends = [first, *[middle] * (depth - 1), last]
        self.blocks = nn.ModuleList(
            KDiffBlock(channels, middle, out, embedding, dims, dropout)
            for channels, out in pairwise(ends)
        )
        self.attentions = nn.ModuleList(
            _attention(out, embedding) if attends else nn.Identity() for out in ends[1:]
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            x = block(x, embedding)
            if isinstance(attention, Attention):
                x = attention(x, embedding)
        return x


def _attention(channels: int, embedding: int) -> Attention:
    heads = max(1, channels // _CHANNELS_PER_HEAD)
    groups = max(1, channels // _CHANNELS_PER_GROUP)
    attention = Attention(channels, heads, groups, embedding=embedding)
    zero_init(cast(nn.Module, attention.condition))
    return attention


class KDiffUNet(nn.Module):
    """k-diffusion's `image_v1`: a U-Net whose every normalization the noise level controls.

    Its published time label is a quarter of log(sigma). One result a level is concatenated on the
    way up. Signals of one to three sides, of any size; an odd side is padded by a zero. Attention
    itself has no dropout. Beside the original, it takes classes.

    Args:
        event_shape: shape of one example, of one to three sides.
        widths: channels of each level, finest first.
        depths: number of blocks of each level, on the way down and up.
        attention: for each level, whether attention follows its blocks.
        embedding_width: length of the embedding.
        patch: side of the patches that become one position.
        num_classes: number of classes; 0 for a network without condition.
        num_augment: number of augmentation labels, 9 in k-diffusion: entry `augment` of a
            dictionary of conditions.
        variance: answer with a logarithm of the variance in `with_log_variance`.
        dropout: probability of dropping a channel in training, in [0, 1), one for all levels or one
            for each.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range, or lists that do not have one entry per level.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, for the preconditioning; code
    at https://github.com/crowsonkb/k-diffusion.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        widths: Sequence[int] = (128, 256, 512),
        depths: Sequence[int] = (2, 4, 4),
        attention: Sequence[bool] = (False, True, True),
        embedding_width: int = 256,
        patch: int = 1,
        num_classes: int = 0,
        num_augment: int = 0,
        variance: bool = False,
        dropout: Sequence[float] | float = 0.0,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        count, dims = len(widths), len(self.event_shape) - 1
        require_count(patch=patch, levels=count)
        for name, values in (("widths", widths), ("depths", depths)):
            require_count(**{f"{name}[{i}]": value for i, value in enumerate(values)})
        drops = per_level("dropout", dropout, count)
        for drop in drops:
            require_dropout(drop)
        require_memory(
            4 * sum(40 * 3**dims * width**2 for width in widths), f"a network of {widths=}"
        )
        self.patch, self.variance = patch, variance
        channels = self.event_shape[0] * patch**dims
        self.embedding = TimeEmbedding(
            TimeFeatures(embedding_width, "fourier", sine_first=False, scale=1.0),
            embedding_width,
            num_classes,
            class_first=True,
            num_augment=num_augment,
            activation="gelu",
            last="gelu",
            condition_shape=condition_shape,
        )
        self.condition_shape = shape_told(self.embedding)
        self.stem = convolution(dims, channels, widths[0], 1)
        self.head = zero_init(convolution(dims, widths[0], channels + variance, 1))
        self.shrink, self.enlarge = Downsample(dims, FIR, True), Upsample(dims, FIR, True)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        depth, attends = (
            per_level("depths", depths, count),
            per_level("attention", attention, count),
        )
        for i, width in enumerate(widths):
            finer = widths[max(i - 1, 0)]
            rest = (depth[i], attends[i], embedding_width, dims, drops[i])
            self.encoder.append(KDiffLevel((finer, width, width), *rest))
            joined = width if i == count - 1 else 2 * width
            self.decoder.insert(0, KDiffLevel((joined, width, finer), *rest))

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, channels, ...)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`.
            condition: labels, or a dictionary with `label` and `augment`, see `TimeEmbedding`.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        return self._answer(x, time_label, condition)[0].to(x.dtype)

    def with_log_variance(
        self, x: Tensor, time_label: Tensor, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """The answer, and the logarithm of its squared error, shape `(batch,)`.

        Raises:
            ValueError: for a network without variance.
        """
        if not self.variance:
            raise ValueError("this network has no variance: build it with variance=True")
        answer, last = self._answer(x, time_label, condition)
        return answer.to(x.dtype), last.flatten(1).mean(1).to(x.dtype)

    def _answer(self, x: Tensor, time_label: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        require_signal(x, time_label, self.event_shape)
        embedding = self.embedding(time_label, condition)
        hidden = self.stem(space_to_depth(x.to(self.embedding.first.weight.dtype), self.patch))
        kept: list[Tensor] = []
        for level in self.encoder:
            hidden = level(self.shrink(hidden) if kept else hidden, embedding)
            kept.append(hidden)
        for i, level in enumerate(self.decoder):
            hidden = torch.cat([hidden, kept.pop()], dim=1) if i else kept.pop()
            hidden = level(hidden, embedding)
            if kept:
                hidden = self.enlarge(hidden, kept[-1].shape[2:])
        out = self.head(hidden)
        channels = out.shape[1] - self.variance
        answer = depth_to_space(out[:, :channels], self.patch, x.shape[2:])
        return answer, out[:, channels:]
