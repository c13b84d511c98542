"""U-Net for series, images and volumes of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import Backbone, require_sides
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import Modulation, SelfAttention, zero_init
from sde_score.nn.blocks.resampling import channels_last, convolution, double, halve

_DEFAULT_ATTENTION = {1: 64, 2: 16, 3: 8}


class UNet(Backbone):
    """Convolutions at several resolutions, with skips from the way down to the way up.

    Signals have one to three sides of any size, and the convolutions as many dimensions. Every
    level halves all sides by averaging (the last of an odd side is averaged alone) and doubles them
    by repetition, cut to the size there was; convolutions pad by zeros. Halving and doubling cost
    no convolution: the residual blocks on both sides mix what they get, and the last block of a
    level already has the channels of the next.

    Args:
        event_shape: (channels, length), (channels, height, width) or with a depth in front.
        base: channels of a multiplier of 1, at least 2.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level, on the way down and again on the way up.
        attention: resolutions (shortest side at a level) where blocks are followed by attention.
            None: wherever it is 64 or less for series, 16 for images and 8 for volumes, or at the
            coarsest level if it never is.
        num_classes: number of classes; 0 for a network without labels.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range, more levels than the sides can be halved into, or
            attention at a resolution that does not occur.

    Reference: after Ho et al. 2020, https://arxiv.org/abs/2006.11239, appendix B; adaptive group
    norm from Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        base: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        num_classes: int = 0,
        dropout: float = 0.0,
        condition_shape: ConditionShape = (),
    ) -> None:
        shape = require_sides(event_shape)
        dims = len(shape) - 1
        require_count(2, base=base)
        require_count(blocks=blocks)
        require_dropout(dropout)
        _require_multipliers(multipliers)
        require_count(0, num_classes=num_classes)
        widest = base * max(multipliers)
        require_memory(
            4 * (3**dims * (4 * blocks * widest**2 + shape[0] * base) + 4 * base * num_classes),
            f"a network of event_shape={shape}, {base=}, {multipliers=}, {blocks=}, {num_classes=}",
        )
        super().__init__(shape, 4 * base, num_classes, condition_shape)
        resolutions = _resolutions(min(shape[1:]), len(multipliers))
        attends = [r in _attention(attention, resolutions, dims) for r in resolutions]
        widths = [base * multiplier for multiplier in multipliers]
        width, embedding = widths[0], 4 * base

        def block(channels: int, out: int, attend: bool) -> _Block:
            return _Block(channels, out, embedding, attend, dropout, dims)

        self.blocks = blocks
        self.first = _convolution(dims, shape[0], width)
        self.down = nn.ModuleList()
        for level, attend in zip(widths, attends, strict=True):
            self.down.extend(block(c, level, attend) for c in [width, *[level] * (blocks - 1)])
            width = level
        self.middle = nn.ModuleList([block(width, width, attends[-1]), block(width, width, False)])
        self.up = nn.ModuleList()
        next_widths = [widths[0], *widths[:-1]]
        for level, after, attend in reversed(list(zip(widths, next_widths, attends, strict=True))):
            self.up.extend(block(2 * level, c, attend) for c in [*[level] * (blocks - 1), after])
        self.norm = GroupNorm(widths[0])
        self.last = zero_init(_convolution(dims, widths[0], shape[0]))

    @override
    def answer(self, x: Tensor, embedding: Tensor) -> Tensor:
        series = x.ndim == 3
        hidden = channels_last(self.first(x[:, :, None] if series else x))
        skips = []
        for number, block in enumerate(self.down):
            if number and number % self.blocks == 0:
                hidden = channels_last(halve(hidden))
            hidden = block(hidden, embedding)
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for block in self.up:
            skip = skips.pop()
            if hidden.shape != skip.shape:
                hidden = double(hidden, skip.shape[2:])
            hidden = block(torch.cat([hidden, skip], dim=1), embedding)
        out: Tensor = self.last(F.silu(self.norm(hidden)))
        return out[:, :, 0] if series else out


class _Block(nn.Module):
    """Two convolutions around a modulation by the noise level, and attention if asked for."""

    def __init__(
        self, channels: int, out: int, embedding: int, attend: bool, dropout: float, dims: int = 2
    ) -> None:
        super().__init__()
        self.first_norm = GroupNorm(channels)
        self.first = _convolution(dims, channels, out)
        self.second_norm = GroupNorm(out)
        self.modulation = Modulation(embedding, out)
        self.dropout = Dropout(dropout)
        self.second = zero_init(_convolution(dims, out, out))
        dims = max(2, dims)
        projects = channels != out
        self.skip = convolution(dims, channels, out, kernel=1) if projects else nn.Identity()
        self.attention = SelfAttention(out, dims) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.first_norm(x)))
        hidden = F.silu(self.modulation(self.second_norm(hidden), embedding))
        # In this order: the sum has the layout of its first term, and a convolution of volumes by
        # one tap does not keep channels last.
        hidden = self.second(self.dropout(hidden)) + self.skip(x)
        out: Tensor = self.attention(hidden)
        return out


def _convolution(dims: int, channels: int, out: int) -> nn.Module:
    """Three taps along every side.

    A series is computed as an image of height one: torch keeps channels last in memory there, which
    takes up to a third less time.
    """
    if dims == 1:
        return nn.Conv2d(channels, out, (1, 3), padding=(0, 1))
    return convolution(dims, channels, out)


def _resolutions(side: int, levels: int) -> list[int]:
    """Shortest side of the signal at each level.

    Raises:
        ValueError: if a level would not be smaller than the one before.
    """
    sides = [side]
    for _ in range((side - 1).bit_length()):
        sides.append((sides[-1] + 1) // 2)
    if levels > len(sides):
        raise ValueError(
            f"multipliers gives {levels} levels, but the shortest side of event_shape, {side}, "
            f"halves into {len(sides)} at most: drop {levels - len(sides)}"
        )
    return sides[:levels]


def _attention(wanted: Sequence[int] | None, resolutions: list[int], dims: int) -> Sequence[int]:
    """Resolutions with attention.

    Raises:
        ValueError: if one that was asked for does not occur.
    """
    if wanted is None:
        small = [side for side in resolutions if side <= _DEFAULT_ATTENTION[dims]]
        return small or resolutions[-1:]
    if not isinstance(wanted, (tuple, list)) or any(r not in resolutions for r in wanted):
        raise ValueError(
            f"attention={wanted!r} must be a tuple of resolutions that occur, among "
            f"{', '.join(map(str, resolutions))}; () for no attention"
        )
    return wanted


def _require_multipliers(multipliers: Sequence[int]) -> None:
    if not isinstance(multipliers, (tuple, list)) or not multipliers:
        raise ValueError(
            f"multipliers={multipliers!r} must be a tuple with one integer per level, such "
            "as (1, 2, 2)"
        )
    for number in multipliers:
        require_count(multipliers=number)
