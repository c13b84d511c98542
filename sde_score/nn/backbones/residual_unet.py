"""The U-Net that the published ones are cases of: residual blocks, attention, skips.

`ncsnpp`, `ddpmpp`, `ddpm` and `adm` in `sde_score.nn.backbones.published` are its named cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_choice, require_count
from sde_score._core.conditions import Condition
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import SignalNetwork, require_sides, require_signal
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.resampling import (
    BOX,
    ConvDownsample,
    ConvUpsample,
    Downsample,
    Upsample,
    channels_last,
    convolution,
)
from sde_score.nn.blocks.residual import BlockStyle, ResBlock
from sde_score.nn.blocks.time_embedding import TimeEmbedding


@dataclass(frozen=True)
class Level:
    """One resolution of a `ResidualUNet`.

    Args:
        width: channels.
        blocks: residual blocks on the way down; the way up has one more.
        attention: attention follows every block on the way down.
        up_attention: blocks on the way up that attention follows: `"all"`, `"last"` or `"none"`.
        down: the way to the next coarser level: a residual `"block"`, a strided `"conv"`, or the
            `"filter"` alone.
        up: the way to the next finer level, likewise.
    """

    width: int
    blocks: int
    attention: bool = False
    up_attention: str = "all"
    down: str = "block"
    up: str = "block"

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(width=self.width, blocks=self.blocks)
        require_choice("up_attention", self.up_attention, ("all", "last", "none"))
        for name in ("down", "up"):
            require_choice(name, getattr(self, name), ("block", "conv", "filter"))


@dataclass(frozen=True)
class Branches:
    """Paths of the image itself beside a U-Net.

    Args:
        input_branch: the halved image joins every coarser level on the way down by a 1 x 1
            convolution (`"skip"`), or residually by a strided one (`"residual"`); None for neither.
        output_branch: every level on the way up adds to an image that is doubled (`"skip"`), or
            joins residually (`"residual"`); None for neither.
        concatenate: join an input skip by concatenation instead of a sum.

    Reference: Karras et al. 2020, https://arxiv.org/abs/1912.04958, section 4; Song et al. 2021,
    https://arxiv.org/abs/2011.13456, appendix H.
    """

    input_branch: str | None = None
    output_branch: str | None = None
    concatenate: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("input_branch", "output_branch"):
            if getattr(self, name) is not None:
                require_choice(name, getattr(self, name), ("skip", "residual"))


class ResidualUNet(SignalNetwork):
    """A U-Net of residual blocks for signals of one to three dimensions and any size.

    The output of every block and of every halving on the way down is concatenated to the input of a
    block on the way up. A side that is odd is padded by one zero before it is halved, and cut again
    on the way up.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        levels: finest first.
        embedding: of the time label and the condition.
        style: of all blocks; its `dims` is that of `event_shape`.
        branches: paths of the image beside the network.
        middle_style: style of the blocks in the middle, where it differs.
        middle_attention: attention follows the first block in the middle.
        one_sided: strided convolutions pad the far ends alone, as DDPM's.
        out_channels: channels of the answer of `everything`, of which `forward` gives those of x;
            twice as many for networks that learn a variance.
        up_groups: groups of the first normalization of each block on the way up, where the style
            does not say.
        stem_width: channels of the first convolution; None for those of the finest level.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range.

    Reference: Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        levels: Sequence[Level],
        embedding: TimeEmbedding,
        style: BlockStyle,
        branches: Branches = Branches(),
        middle_style: BlockStyle | None = None,
        middle_attention: bool = True,
        one_sided: bool = False,
        out_channels: int | None = None,
        up_groups: Sequence[int] | None = None,
        stem_width: int | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        dims = len(self.event_shape) - 1
        self.embedding = embedding
        self.branches = branches
        self.scale = style.scale
        self.style = style = replace(style, dims=dims)
        middle_style = style if middle_style is None else replace(middle_style, dims=dims)
        self.one_sided = one_sided
        channels = self.event_shape[0]
        self.out_channels = channels if out_channels is None else out_channels
        require_memory(
            4 * sum(24 * 3**dims * level.blocks * level.width**2 for level in levels),
            f"a network of {len(levels)} levels of width={[level.width for level in levels]}",
        )
        require_memory(8 * 3**dims * channels * levels[0].width, f"{event_shape=}")
        width = levels[0].width if stem_width is None else stem_width
        require_count(stem_width=width)
        self.stem = convolution(dims, channels, width)
        widths = self._build_encoder(levels, width)
        width = widths[-1]
        self.middle = nn.ModuleList(
            Stage(
                ResBlock(width, width, self._embedding_width, middle_style),
                middle_style.attention(width) if place == 0 and middle_attention else None,
                number=place,
            )
            for place in range(2)
        )
        self._build_decoder(levels, width, widths)
        for stage, groups in zip(stages_of(self.decoder), up_groups or (), strict=False):
            cast(ResBlock, stage.block).norm1.groups = groups
        self.head = None if branches.output_branch == "skip" else self._head(levels[0].width)
        self.enlarge = Upsample(dims, style.taps)

    @property
    def _embedding_width(self) -> int:
        return self.embedding.second.out_features

    def _build_encoder(self, levels: Sequence[Level], width: int) -> list[int]:
        """Channels of everything that is kept for the way up."""
        style, kept = self.style, [width]
        pyramid = self.event_shape[0]
        self.encoder = nn.ModuleList()
        for number, level in enumerate(levels):
            for place in range(level.blocks):
                block = ResBlock(width, level.width, self._embedding_width, style)
                width = level.width
                attention = style.attention(width) if level.attention else None
                self.encoder.append(Stage(block, attention, number, place))
                kept.append(width)
            if number == len(levels) - 1:
                break
            stage = Stage(level=number, number=level.blocks)
            stage.down = self._resampler("down", level.down, width)
            if self.branches.input_branch is not None:
                stage.merge = InputMerge(pyramid, width, style, self.branches, self.one_sided)
                pyramid = width if self.branches.input_branch == "residual" else pyramid
                width *= 2 if self.branches.concatenate else 1
            self.encoder.append(stage)
            kept.append(width)
        return kept

    def _build_decoder(self, levels: Sequence[Level], width: int, kept: list[int]) -> None:
        style, kept = self.style, list(kept)
        self.decoder = nn.ModuleList()
        pyramid = 0
        for number, level in reversed(list(enumerate(levels))):
            for place in range(level.blocks + 1):
                last = place == level.blocks
                attends = level.up_attention == "all" or (level.up_attention == "last" and last)
                block = ResBlock(width + kept.pop(), level.width, self._embedding_width, style)
                width = level.width
                attention = style.attention(width) if attends else None
                stage = Stage(block, attention, number, place)
                self.decoder.append(stage)
            if self.branches.output_branch == "skip":
                stage.image = self._head(width)
            elif self.branches.output_branch == "residual":
                stage.image = (
                    ConvUpsample(pyramid, width, style.dims, style.taps)
                    if pyramid
                    else self._head(width, width)
                )
                pyramid = width
            if number:
                stage.up = self._resampler("up", level.up, width)

    def _resampler(self, way: str, kind: str, width: int) -> nn.Module:
        dims, taps, down = self.style.dims, self.style.taps, way == "down"
        if kind == "block":
            return ResBlock(width, width, self._embedding_width, self.style, way)
        if kind == "filter":
            return Downsample(dims, taps) if down else Upsample(dims, taps)
        filtered = None if taps == BOX else taps
        if down:
            return ConvDownsample(width, width, dims, filtered, self.one_sided)
        return ConvUpsample(width, width, dims, taps)

    def _head(self, width: int, out: int | None = None) -> Head:
        out = self.out_channels if out is None else out
        return Head(self.style.norm(width), zero_init(convolution(self.style.dims, width, out)))

    @override
    def everything(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """All `out_channels` of the answer, such as a learned variance behind the mean."""
        require_signal(x, time_label, self.event_shape)
        embedding = self.embedding(time_label, condition)
        dtype, image = x.dtype, x.to(self.embedding.first.weight.dtype)
        hidden = channels_last(self.stem(image))
        kept = [hidden]
        for stage in stages_of(self.encoder):
            hidden = stage(hidden, embedding)
            if stage.merge is not None:
                hidden, image = stage.merge(hidden, image)
            kept.append(hidden)
        for stage in stages_of(self.middle):
            hidden = stage(hidden, embedding)
        return self._decode(hidden, kept, embedding).to(dtype)

    def _decode(self, hidden: Tensor, kept: list[Tensor], embedding: Tensor) -> Tensor:
        image: Tensor | None = None
        for stage in stages_of(self.decoder):
            hidden = stage(torch.cat([hidden, kept.pop()], dim=1), embedding)
            if self.branches.output_branch == "skip" and stage.image is not None:
                drawn = stage.image(hidden)
                image = drawn if image is None else self.enlarge(image, drawn.shape[2:]) + drawn
            elif self.branches.output_branch == "residual" and stage.image is not None:
                if image is None:
                    image = stage.image(hidden)
                else:
                    image = hidden = (stage.image(image, hidden.shape[2:]) + hidden) * self.scale
            if stage.up is not None:
                size = kept[-1].shape[2:]
                block = isinstance(stage.up, ResBlock)
                hidden = stage.up(hidden, embedding, size) if block else stage.up(hidden, size)
        if self.head is None:
            return cast(Tensor, image)
        out: Tensor = self.head(hidden)
        return out


class Stage(nn.Module):
    """What stands between two concatenations; everything may be absent.

    Args:
        block: a residual block.
        attention: after it.
        level: the resolution, 0 the finest.
        number: place among the stages of its level.

    On the way down, `down` halves and `merge` joins the halved image; on the way up, `image` draws
    and `up` doubles.
    """

    def __init__(
        self,
        block: nn.Module | None = None,
        attention: nn.Module | None = None,
        level: int = 0,
        number: int = 0,
    ) -> None:
        super().__init__()
        self.level = level
        self.number = number
        self.block = block
        self.attention = attention
        self.down: nn.Module | None = None
        self.merge: InputMerge | None = None
        self.image: nn.Module | None = None
        self.up: nn.Module | None = None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The block, attention and the halving."""
        if self.block is not None:
            x = self.block(x, embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.down is not None:
            x = self.down(x, embedding) if isinstance(self.down, ResBlock) else self.down(x)
        return x


class Head(nn.Module):
    """Normalization, SiLU and a convolution."""

    def __init__(self, norm: GroupNorm, conv: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        out: Tensor = self.conv(F.silu(self.norm(x)))
        return out


class InputMerge(nn.Module):
    """The halved image, joined to the features of a level."""

    def __init__(
        self, image: int, width: int, style: BlockStyle, branches: Branches, one_sided: bool
    ) -> None:
        super().__init__()
        self.scale = style.scale
        self.residual = branches.input_branch == "residual"
        self.concatenate = branches.concatenate
        if self.residual:
            taps = None if one_sided else style.taps
            self.down: nn.Module = ConvDownsample(image, width, style.dims, taps, one_sided)
        else:
            self.down = Downsample(style.dims, style.taps)
            self.conv = convolution(style.dims, image, width, kernel=1)

    def forward(self, hidden: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The joined features, and the halved image."""
        image = self.down(image)
        if self.residual:
            hidden = image = (image + hidden) * self.scale
            return hidden, image
        seen = self.conv(image)
        return torch.cat([seen, hidden], dim=1) if self.concatenate else seen + hidden, image


def stages_of(modules: nn.ModuleList) -> Iterator[Stage]:
    """The stages of one way."""
    return (cast(Stage, module) for module in modules)
