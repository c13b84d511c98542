"""RefineNet of NCSNv2: features refined from coarse to fine, without the noise level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import per_level, require_sides, require_signal
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.resampling import Downsample, convolution

_EPS = 1e-5
_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class RefineNet(nn.Module):
    r"""The network of NCSNv2, which is told neither the noise level nor a class.

    Two residual blocks a level halve the signal, or dilate their convolutions where a level has a
    dilation; then every level is refined by the coarser one, with residual units, sums of what is
    enlarged, and chains of pooling. Its output is sigma times the score: the parametrization
    divides by the noise level.

    Args:
        event_shape: shape of one example, of one to three sides.
        base: channels of a multiplier of 1, at least 2.
        multipliers: channels of each level, finest first, as multiples of `base`: of NCSNv2 for
            images of 32 and 64 pixels; (1, 2, 2, 4, 4) up to 128, and (1, 2, 2, 2, 4, 4) for 256.
        dilations: of each level; 1 halves the signal instead, but for the finest level. The
            published ones end with 2 and 4.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range.

    Reference: Song & Ermon 2020, https://arxiv.org/abs/2006.09011, appendix A; Lin et al. 2017,
    https://arxiv.org/abs/1611.06612.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        base: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 2, 4),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        require_count(2, base=base)
        dims, channels = len(self.event_shape) - 1, self.event_shape[0]
        dilations = per_level("dilations", list(dilations), len(multipliers))
        for multiplier, dilation in zip(multipliers, dilations, strict=True):
            require_count(multipliers=multiplier, dilations=dilation)
        widths = [base * multiplier for multiplier in multipliers]
        require_memory(4 * 40 * 3**dims * sum(w * w for w in widths), f"a network of base={base}")
        require_memory(8 * 3**dims * channels * widths[0], f"{event_shape=}")
        self.stem = convolution(dims, channels, widths[0])
        self.levels = nn.ModuleList()
        before = widths[0]
        for level, (width, dilation) in enumerate(zip(widths, dilations, strict=True)):
            first = ResidualBlock(dims, before, width, level > 0, dilation)
            second = ResidualBlock(dims, width, width, False, dilation)
            self.levels.append(nn.ModuleList([first, second]))
            before = width
        self.refine = nn.ModuleList()
        for level, width in enumerate(widths):
            finest, coarsest = level == 0, level == len(widths) - 1
            # What a level hands on has the channels of the next finer one.
            out = width if finest or coarsest else widths[level - 1]
            coarser = [] if coarsest else [width if level + 2 < len(widths) else widths[-1]]
            self.refine.append(Refinement(dims, [width, *coarser], out, 3 if finest else 1))
        self.norm = InstanceNormPlus(widths[0])
        self.head = zero_init(convolution(dims, widths[0], channels))

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, channels, ...)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`; the answer does not depend on it.
            condition: None; the network has no classes.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes that do not fit, or a condition.
        """
        require_signal(x, time_label, self.event_shape)
        if condition is not None:
            raise ValueError(
                "condition was given to a network without classes: leave it out, or take a network "
                "with num_classes"
            )
        hidden, kept = self.stem(x.to(self.norm.alpha.dtype)), []
        for blocks in self.levels:
            for block in cast(nn.ModuleList, blocks):
                hidden = block(hidden)
            kept.append(hidden)
        refined: list[Tensor] = []
        for refinement, features in zip(reversed(self.refine), reversed(kept), strict=True):
            refined = [refinement([features, *refined])]
        out: Tensor = self.head(F.elu(self.norm(refined[0])))
        return out.to(x.dtype)


class InstanceNormPlus(nn.Module):
    r"""Instance normalization that keeps how the means of the channels differ.

    .. math:: \gamma_c \left(\frac{x_c - \mu_c}{s_c} + \alpha_c \frac{\mu_c - m}{v}\right) + \beta_c

    with mean and standard deviation of each channel (mu, s), and of the means (m, v).

    Args:
        channels: size of dimension 1 of x, at least 2.

    Reference: Song & Ermon 2019, https://arxiv.org/abs/1907.05600, appendix A.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, shape `(batch, channels, ...)`."""
        axes = tuple(range(2, x.ndim))
        means = x.mean(axes, keepdim=True)
        centered = x - means
        scale = (centered.square().mean(axes, keepdim=True) + _EPS).rsqrt()
        apart = means - means.mean(1, keepdim=True)
        # The published code divides by one less than the number of channels.
        variance = apart.square().sum(1, keepdim=True) / (x.shape[1] - 1)
        apart = apart * (variance + _EPS).rsqrt()
        per_channel = (-1, *(1,) * len(axes))
        alpha, gamma, beta = (
            value.reshape(per_channel) for value in (self.alpha, self.gamma, self.beta)
        )
        return gamma * (centered * scale + alpha * apart) + beta


class ResidualBlock(nn.Module):
    """Two normalized convolutions added to the input, halved or dilated.

    Args:
        dims: number of dimensions beside batch and channels.
        channels: of x.
        out: channels of what comes out.
        coarser: whether it is the first of a coarser level.
        dilation: of the convolutions; a coarser level with 1 halves the signal.
    """

    def __init__(self, dims: int, channels: int, out: int, coarser: bool, dilation: int) -> None:
        super().__init__()
        halves, middle = coarser and dilation == 1, channels if coarser else out
        self.norm1 = InstanceNormPlus(channels)
        self.conv1 = convolution(dims, channels, middle, dilation=dilation)
        self.norm2 = InstanceNormPlus(middle)
        self.conv2 = convolution(dims, middle, out, dilation=dilation)
        kernel = 3 if dilation > 1 else 1
        self.shortcut = (
            convolution(dims, channels, out, kernel, dilation=dilation)
            if coarser or channels != out
            else nn.Identity()
        )
        self.halve = Downsample(dims) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        hidden = self.conv1(F.elu(self.norm1(x)))
        hidden = self.halve(self.conv2(F.elu(self.norm2(hidden))))
        out: Tensor = self.halve(self.shortcut(x)) + hidden
        return out


class Units(nn.ModuleList):
    """Residual units: ELU and a convolution, twice, added to the input.

    Args:
        dims: number of dimensions beside batch and channels.
        channels: of x.
        count: number of units.
    """

    def __init__(self, dims: int, channels: int, count: int) -> None:
        super().__init__(
            nn.ModuleList(convolution(dims, channels, channels, bias=False) for _ in range(2))
            for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape `(batch, channels, ...)`."""
        for unit in self:
            change = x
            for conv in cast(nn.ModuleList, unit):
                change = conv(F.elu(change))
            x = x + change
        return x


class Refinement(nn.Module):
    """The features of a level and those of the coarser one, joined.

    Args:
        dims: number of dimensions beside batch and channels.
        channels: of each input, that of the level first.
        out: channels of what comes out.
        units: number of residual units at the end.
    """

    def __init__(self, dims: int, channels: Sequence[int], out: int, units: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(Units(dims, width, 2) for width in channels)
        self.join = nn.ModuleList(
            convolution(dims, width, out) for width in channels if len(channels) > 1
        )
        self.chain = nn.ModuleList(convolution(dims, out, out, bias=False) for _ in range(2))
        self.outputs = Units(dims, out, units)
        self.pool, self.mode = _POOL[dims], _LINEAR[dims]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Join features, the first of the size of the result."""
        size = features[0].shape[2:]
        seen = [units(x) for units, x in zip(self.inputs, features, strict=True)]
        joined = seen[0]
        if self.join:
            wide = [conv(x) for conv, x in zip(self.join, seen, strict=True)]
            wide = [
                F.interpolate(x, size, mode=self.mode, align_corners=True)
                if x.shape[2:] != size
                else x
                for x in wide
            ]
            joined = wide[0] + wide[1]
        path = joined = F.elu(joined)
        for conv in self.chain:
            path = conv(self.pool(path, 5, stride=1, padding=2))
            joined = joined + path
        out: Tensor = self.outputs(joined)
        return out
