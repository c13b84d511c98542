"""U-Net for images of any size from 8 x 8, square or not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import Backbone, require_event_shape
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.nn.blocks.layers import Modulation, SelfAttention, zero_init

_SMALLEST_IMAGE = 8
_DEFAULT_ATTENTION = 16


class UNet(Backbone):
    """Convolutions at several resolutions, with skips from the way down to the way up.

    Every level halves the image by averaging (rounding up) and doubles it by repetition, cut to the
    size it had, so any size goes. Neither costs a convolution: the residual blocks on both sides
    mix what they get, and the last block of a level already has the channels of the next.

    Args:
        event_shape: (channels, height, width), both sides at least 8.
        base: channels of a multiplier of 1, at least 2.
        multipliers: channels of each level, finest first, as multiples of `base`.
        blocks: residual blocks per level, on the way down and again on the way up.
        attention: resolutions (shorter side of the image at a level) where blocks are followed by
            attention. None: wherever it is 16 or less, or at the coarsest level if it never is.
        num_classes: number of classes; 0 for a network without labels.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        condition_shape: of a vector `(n,)` that is the condition; empty for a network without.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range, more levels than the image can be halved into, or
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
        condition_shape: Sequence[int] = (),
    ) -> None:
        shape = _require_image(event_shape)
        require_count(2, base=base)
        require_count(blocks=blocks)
        require_dropout(dropout)
        _require_multipliers(multipliers)
        require_count(0, num_classes=num_classes)
        widest = base * max(multipliers)
        require_memory(
            4 * (2 * 2 * 9 * blocks * widest**2 + 4 * base * num_classes + 9 * shape[0] * base),
            f"a network of event_shape={shape}, {base=}, {multipliers=}, {blocks=}, {num_classes=}",
        )
        super().__init__(shape, 4 * base, num_classes, condition_shape)
        resolutions = _resolutions(min(shape[1:]), len(multipliers))
        attends = [r in _attention(attention, resolutions) for r in resolutions]
        widths = [base * multiplier for multiplier in multipliers]
        width, embedding = widths[0], 4 * base

        def block(channels: int, out: int, attend: bool) -> _Block:
            return _Block(channels, out, embedding, attend, dropout)

        self.blocks = blocks
        self.first = nn.Conv2d(self.event_shape[0], width, 3, padding=1)
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
        self.last = zero_init(nn.Conv2d(widths[0], self.event_shape[0], 3, padding=1))

    @override
    def answer(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(x)
        # Channels-last in memory: the fastest layout on a CPU, and all that follows keeps it.
        # Spelled out, because vmap refuses contiguous(memory_format=...).
        hidden = hidden.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        skips = []
        for number, block in enumerate(self.down):
            if number and number % self.blocks == 0:
                hidden = _halve(hidden)
            hidden = block(hidden, embedding)
            skips.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for block in self.up:
            skip = skips.pop()
            if hidden.shape[-2:] != skip.shape[-2:]:
                hidden = _double(hidden, skip)
            hidden = block(torch.cat([hidden, skip], dim=1), embedding)
        out: Tensor = self.last(F.silu(self.norm(hidden)))
        return out


class _Block(nn.Module):
    """Two convolutions around a modulation by the noise level, and attention if asked for."""

    def __init__(
        self, channels: int, out: int, embedding: int, attend: bool, dropout: float
    ) -> None:
        super().__init__()
        self.first_norm = GroupNorm(channels)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.second_norm = GroupNorm(out)
        self.modulation = Modulation(embedding, out)
        self.dropout = Dropout(dropout)
        self.second = zero_init(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()
        self.attention = SelfAttention(out) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.first_norm(x)))
        hidden = F.silu(self.modulation(self.second_norm(hidden), embedding))
        hidden = self.skip(x) + self.second(self.dropout(hidden))
        out: Tensor = self.attention(hidden)
        return out


def _halve(x: Tensor) -> Tensor:
    """Average 2 x 2 pixels; an odd last row or column is averaged with itself alone."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _double(x: Tensor, like: Tensor) -> Tensor:
    """Repeat every pixel 2 x 2 and cut to the size of `like`: undoes `_halve`."""
    height, width = like.shape[-2:]
    return F.interpolate(x, scale_factor=2.0, mode="nearest")[..., :height, :width]


def _resolutions(side: int, levels: int) -> list[int]:
    """Shorter side of the image at each level.

    Raises:
        ValueError: if a level would not be smaller than the one before.
    """
    sides = [side]
    for _ in range((side - 1).bit_length()):
        sides.append((sides[-1] + 1) // 2)
    if levels > len(sides):
        raise ValueError(
            f"multipliers gives {levels} levels, but an image whose shorter side is {side} halves "
            f"into {len(sides)} at most: drop {levels - len(sides)}"
        )
    return sides[:levels]


def _attention(wanted: Sequence[int] | None, resolutions: list[int]) -> Sequence[int]:
    """Resolutions with attention.

    Raises:
        ValueError: if one that was asked for does not occur.
    """
    if wanted is None:
        small = [resolution for resolution in resolutions if resolution <= _DEFAULT_ATTENTION]
        return small or resolutions[-1:]
    if not isinstance(wanted, (tuple, list)) or any(r not in resolutions for r in wanted):
        raise ValueError(
            f"attention={wanted!r} must be a tuple of resolutions that occur, among "
            f"{', '.join(map(str, resolutions))}; () for no attention"
        )
    return wanted


def _require_image(event_shape: Sequence[int]) -> tuple[int, ...]:
    shape = require_event_shape(event_shape)
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST_IMAGE:
        raise ValueError(
            f"event_shape={shape} must be (channels, height, width) with sides of at least "
            f"{_SMALLEST_IMAGE}: use the mlp for other events"
        )
    return shape


def _require_multipliers(multipliers: Sequence[int]) -> None:
    if not isinstance(multipliers, (tuple, list)) or not multipliers:
        raise ValueError(
            f"multipliers={multipliers!r} must be a tuple with one integer per level, such "
            "as (1, 2, 2)"
        )
    for number in multipliers:
        require_count(multipliers=number)
