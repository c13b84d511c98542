r"""Convolutions and resampling by a factor of two, in one, two or three dimensions.

A filter f of n taps (n even), normalized to sum 1 and applied along every dimension, gives

.. math:: down(x)_j = \sum_l f_l\, x_{2j + n/2 - l}, \qquad
          up(x)_j = 2^{dims} \sum_i x_i\, f_{j + n/2 - 1 - 2i}

with zeros outside, or x mirrored: `BOX` is the mean of neighbors and their repetition, `FIR` the
filter of StyleGAN 2 and NCSN++. An odd side is padded by one zero at its far end before it is
halved, and doubling cuts to the size asked for, so that any size passes a U-Net.

Reference: Karras et al. 2020, https://arxiv.org/abs/1912.04958, appendix B; Zhang 2019,
https://arxiv.org/abs/1904.11486.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BOX = (1.0, 1.0)
FIR = (1.0, 3.0, 3.0, 1.0)

_LAYERS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONVOLVE: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def convolution(
    dims: int,
    channels: int,
    out: int,
    kernel: int = 3,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = True,
    dilation: int = 1,
) -> nn.Module:
    """A convolution in `dims` dimensions that keeps the size unless `padding` says otherwise."""
    pad = dilation * (kernel // 2) if padding is None else padding
    layer: nn.Module = _LAYERS[dims](
        channels, out, kernel, stride=stride, padding=pad, bias=bias, dilation=dilation
    )
    return layer


def channels_last(x: Tensor) -> Tensor:
    """x with its channels last in memory: the fastest layout, which all that follows keeps.

    Spelled out, because vmap refuses contiguous(memory_format=...).
    """
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def weights_channels_last(network: nn.Module) -> None:
    """Let the weights of convolutions have their channels last in memory, in which they run faster.

    Args:
        network: changed in place; its numbers stay.
    """
    for weight in (*network.parameters(), *network.buffers()):
        if weight.ndim in _LAYOUTS:
            weight.data = weight.data.contiguous(memory_format=_LAYOUTS[weight.ndim])


def halve(x: Tensor) -> Tensor:
    """Means of two neighbors along every side; the last of an odd side is a mean of its own."""
    halved: Tensor = _POOL[x.ndim - 2](x, 2, ceil_mode=True)
    return halved


def double(x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Every entry of x twice along every side, cut to `size`: undoes `halve`."""
    return _cut(F.interpolate(x, scale_factor=2.0, mode="nearest"), size)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """x, shape `(batch, channels, ...)`, under a weight of odd taps; its size is kept."""
    out: Tensor = _CONVOLVE[weight.ndim - 2](x, weight, padding=weight.shape[-1] // 2)
    return out


def _even(x: Tensor) -> Tensor:
    """x with a zero at the far end of every odd side."""
    odd = [side % 2 for side in reversed(x.shape[2:])]
    return F.pad(x, [pad for side in odd for pad in (0, side)]) if any(odd) else x


def _cut(x: Tensor, size: Sequence[int] | None) -> Tensor:
    if size is None or x.shape[2:] == tuple(size):
        return x
    index = (slice(None), slice(None), *(slice(side) for side in size))
    return x[index]


def _reflected(x: Tensor, width: int) -> Tensor:
    """x, mirrored at both ends of every side without the ends; one entry alone is repeated."""
    for axis in range(2, x.ndim) if width else ():
        side = x.shape[axis]
        near = [min(place, side - 1) for place in range(width, 0, -1)]
        ends = [x.narrow(axis, place, 1) for place in near]
        far = [x.narrow(axis, side - 1 - place, 1) for place in reversed(near)]
        x = torch.cat([*ends, x, *far], dim=axis)
    return x


class _Filter(nn.Module):
    """A filter along every dimension; its taps are not saved with the weights."""

    taps: Tensor

    def __init__(self, dims: int, taps: Sequence[float], reflect: bool = False) -> None:
        super().__init__()
        self.reflect = reflect
        if len(taps) % 2 or len(taps) < 2:
            raise ValueError(f"taps={tuple(taps)!r} must have an even number of entries, 2 or more")
        self.dims = dims
        self.box = tuple(taps) == BOX
        line = torch.tensor(taps, dtype=torch.float32)
        kernel = reduce(lambda a, b: a[..., None] * b, [line / line.sum()] * dims)
        self.register_buffer("taps", kernel, persistent=False)

    def per_channel(self, x: Tensor) -> Tensor:
        return self.taps.to(x.dtype).expand(x.shape[1], 1, *self.taps.shape)


class Downsample(_Filter):
    """Half the size, rounded up.

    Args:
        dims: number of dimensions beside batch and channels.
        taps: the filter, an even number of entries.
        reflect: mirror x at its ends instead of zeros outside, where the filter is no box.
    """

    def __init__(self, dims: int = 2, taps: Sequence[float] = BOX, reflect: bool = False) -> None:
        super().__init__(dims, taps, reflect)

    def forward(self, x: Tensor) -> Tensor:
        """Halve x, shape `(batch, channels, ...)`."""
        x = _even(x)
        if self.box:
            halved: Tensor = _POOL[self.dims](x, 2)
            return halved
        kernel = self.per_channel(x).flip(tuple(range(2, 2 + self.dims)))
        pad = kernel.shape[-1] // 2 - 1
        if self.reflect:
            x, pad = _reflected(x, pad), 0
        filtered: Tensor = _CONVOLVE[self.dims](x, kernel, stride=2, padding=pad, groups=x.shape[1])
        return filtered


class Upsample(_Filter):
    """Twice the size, or less where the size before was odd.

    Args:
        dims: number of dimensions beside batch and channels.
        taps: the filter, an even number of entries.
        reflect: mirror x at its ends instead of zeros outside, where the filter is no box.
    """

    def __init__(self, dims: int = 2, taps: Sequence[float] = BOX, reflect: bool = False) -> None:
        super().__init__(dims, taps, reflect)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Double x, shape `(batch, channels, ...)`, and cut it to `size`."""
        if self.box:
            return double(x, size)
        kernel = self.per_channel(x) * 2**self.dims
        pad = kernel.shape[-1] // 2 - 1
        if self.reflect:
            width = (pad + 1) // 2
            x, pad = _reflected(x, width), pad + 2 * width
        doubled: Tensor = _TRANSPOSED[self.dims](
            x, kernel, stride=2, padding=pad, groups=x.shape[1]
        )
        return _cut(doubled, size)


class ConvDownsample(nn.Module):
    """A convolution of three taps with stride two, after a filter if one is given.

    Args:
        channels: of x.
        out: of what comes out.
        dims: number of dimensions beside batch and channels.
        taps: filter in front of the convolution; None for the convolution alone.
        one_sided: without a filter, pad one zero at the far end instead of one at each, as DDPM.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        dims: int = 2,
        taps: Sequence[float] | None = None,
        one_sided: bool = False,
    ) -> None:
        super().__init__()
        self.filter = None if taps is None else _Filter(dims, taps)
        self.one_sided = one_sided
        padding = 0 if taps is not None or one_sided else 1
        self.conv = convolution(dims, channels, out, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Halve x, shape `(batch, channels, ...)`."""
        x = _even(x)
        if self.filter is not None:
            kernel = self.filter.per_channel(x).flip(tuple(range(2, x.ndim)))
            pad = kernel.shape[-1] // 2
            x = _CONVOLVE[x.ndim - 2](x, kernel, padding=pad, groups=x.shape[1])
        elif self.one_sided:
            x = F.pad(x, (0, 1) * (x.ndim - 2))
        halved: Tensor = self.conv(x)
        return halved


class ConvUpsample(nn.Module):
    """Doubling, then a convolution of three taps.

    Args:
        channels: of x.
        out: of what comes out.
        dims: number of dimensions beside batch and channels.
        taps: the filter of the doubling.
    """

    def __init__(self, channels: int, out: int, dims: int = 2, taps: Sequence[float] = BOX) -> None:
        super().__init__()
        self.enlarge = Upsample(dims, taps)
        self.conv = convolution(dims, channels, out)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Double x, shape `(batch, channels, ...)`, and cut it to `size`."""
        doubled: Tensor = self.conv(self.enlarge(x, size))
        return doubled
