r"""Layers that keep the size of what passes them, where size is the root mean square of entries.

Reference: Karras et al. 2024, https://arxiv.org/abs/2312.02696, appendix B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.checks import require_count
from sde_score.nn.blocks.resampling import convolve

_EPS = 1e-4
_SILU_SIZE = 0.596  # of silu(x) for a standard normal x


def unit_size(x: Tensor, axes: Sequence[int]) -> Tensor:
    """x / (10^-4 + its root mean square along the axes): of size one."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(axes), keepdim=True, dtype=dtype)
    count = prod([x.shape[axis] for axis in axes])
    return x / (_EPS + norm / math.sqrt(count)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU over the size of its values at standard normal numbers."""
    return F.silu(x) / _SILU_SIZE


def mp_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """(1 - t) a + t b, over the size that it has for independent a and b of size one.

    Args:
        a: a tensor.
        b: a tensor of the same shape.
        balance: t.
    """
    return torch.lerp(a, b, balance) / math.hypot(1 - balance, balance)


def mp_cat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenated channels, of size one, to whose square b contributes the share of `mp_sum`.

    Args:
        a: shape `(batch, channels, ...)`.
        b: of the same sides.
        balance: t.
    """
    m, n = a.shape[1], b.shape[1]
    scale = math.sqrt(m + n) / math.hypot(1 - balance, balance)
    return torch.cat(
        [a * (scale * (1 - balance) / math.sqrt(m)), b * (scale * balance / math.sqrt(n))], dim=1
    )


class MPFourier(nn.Module):
    r"""Features of size one of a number c, with random frequencies and phases that are not trained.

    .. math:: \sqrt 2 \cos(\omega_k c + \varphi_k), \qquad \omega_k \sim 2 \pi N(0, 1), \quad
              \varphi_k \sim 2 \pi U(0, 1)

    Args:
        channels: number of features.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_count(channels=channels)
        self.register_buffer("frequencies", math.tau * torch.randn(channels))
        self.register_buffer("phases", math.tau * torch.rand(channels))

    def forward(self, label: Tensor) -> Tensor:
        """Features, shape `(batch, channels)`, of labels of shape `(batch,)`, in their dtype and
        float32 at least."""
        dtype = torch.promote_types(label.dtype, torch.float32)
        angles = label.to(dtype)[:, None] * self.frequencies.to(dtype) + self.phases.to(dtype)
        return math.sqrt(2) * angles.cos()


class MPLayer(nn.Module):
    """A linear layer or a convolution that is used with rows of unit norm, without a bias.

    Args:
        channels: of the input.
        out: channels of what comes out.
        kernel: taps of a convolution along every dimension, odd.
        dims: number of dimensions beside batch and channels; 0 for a linear layer, which maps the
            last dimension.
    """

    def __init__(self, channels: int, out: int, kernel: int = 1, dims: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, channels, *(kernel,) * dims))

    def used(self, gain: Tensor | float = 1.0) -> Tensor:
        """The weight as it is used: its rows have the norm `gain`."""
        axes = tuple(range(1, self.weight.ndim))
        fan_in = self.weight[0].numel()
        return unit_size(self.weight, axes) * (gain / math.sqrt(fan_in))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Map x, `(..., channels)` by a linear layer, `(batch, channels, ...)` by a convolution."""
        weight = self.used(gain).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return convolve(x, weight)

    def normalize_weight(self) -> None:
        """Set the weight, in place, to the size one that `used` leaves as it is."""
        axes = tuple(range(1, self.weight.ndim))
        weight = self.weight.data  # autograd needs no other weight where only the length changes
        count = self.weight[0].numel()
        size = torch.linalg.vector_norm(weight, dim=axes, keepdim=True) / math.sqrt(count)
        weight.mul_((1 - _EPS) / size.clamp(min=torch.finfo(weight.dtype).tiny))
