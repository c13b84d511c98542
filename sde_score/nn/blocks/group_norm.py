r"""Group normalization with every derivative in every memory layout.

torch's own is fast, most of all on channels-last tensors, but there its second and forward-mode
derivatives fail. Both follow from one fact: with y = (x - mean) / std over a group of m numbers,

.. math:: \frac{\partial y}{\partial x} = \frac{1}{std} (I - \frac{1 1^T}{m} - \frac{y y^T}{m})

is symmetric. So one product, written in operations that torch differentiates any number of times,
serves reverse mode and forward mode. First-order training keeps torch's fast kernels.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# On channels-last tensors the kernels are fast from 16 channels a group upward, and 3 to 13 times
# slower with 2 to 8.
_CHANNELS_PER_GROUP = 16
_MOST_GROUPS = 32
_EPS = 1e-5


def groups_for(channels: int) -> int:
    """The largest number of equal groups, 32 at most, of at least 16 channels each; else 1."""
    accepted = (
        groups
        for groups in range(min(_MOST_GROUPS, channels // _CHANNELS_PER_GROUP), 1, -1)
        if channels % groups == 0
    )
    return next(accepted, 1)


class GroupNorm(nn.Module):
    """Each group of channels of each example gets mean 0 and variance 1.

    There is no learned scale and shift: within a group, the layer before can give each channel its
    own, and the layers that need one for the noise level have a `Modulation`.

    Args:
        channels: size of dimension 1 of x; `groups_for(channels)` groups are made.

    Reference: Wu & He 2018, https://arxiv.org/abs/1803.08494.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = groups_for(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, shape `(batch, channels, height, width)`."""
        if torch.compiler.is_compiling():  # the compiler writes its own kernels
            return F.group_norm(x, self.groups, eps=_EPS)
        y: Tensor = _Normalize.apply(x, self.groups)[0]  # type: ignore[no-untyped-call]
        return y


class _Normalize(torch.autograd.Function):
    """(x, groups) -> (y, mean, 1 / std), of which y alone is differentiated."""

    @staticmethod
    def forward(x: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_group_norm(_dense(x, x), None, None, *_sizes(x), groups, _EPS)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, ...]) -> None:
        x, ctx.groups = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, mean, rstd)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # this derivative will be differentiated
            return _jacobian_product(grads[0], x, ctx.groups), None
        sizes, wanted = _sizes(x), [True, False, False]
        out = torch.ops.aten.native_group_norm_backward(
            _dense(grads[0], x), _dense(x, x), mean, rstd, None, *sizes, ctx.groups, wanted
        )
        return out[0], None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        return _jacobian_product(tangent, x, ctx.groups), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None], x: Tensor, groups: int
    ) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
        """Examples are normalized one by one, so a further batch dimension joins the batch."""
        x = x.movedim(in_dims[0], 0)
        together = _Normalize.apply(x.flatten(0, 1), groups)  # type: ignore[no-untyped-call]
        return tuple(out.unflatten(0, x.shape[:2]) for out in together), (0, 0, 0)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], prod(x.shape[2:])


def _dense(x: Tensor, like: Tensor) -> Tensor:
    """Lay x out without gaps, as the kernels demand: channels-last if `like` is, on a CPU."""
    _, channels, height, width = like.shape
    by_pixel = (channels * height * width, 1, channels * width, channels)
    if like.device.type == "cpu" and like.stride() == by_pixel:
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _jacobian_product(v: Tensor, x: Tensor, groups: int) -> Tensor:
    """dy/dx times v; also v times dy/dx. Shapes as x."""
    grouped = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    v, x = v.reshape(grouped), x.reshape(grouped)
    axes = tuple(range(2, x.ndim))

    def mean(z: Tensor) -> Tensor:
        return z.mean(axes, keepdim=True)

    centered = x - mean(x)
    rstd = (mean(centered.square()) + _EPS).rsqrt()
    y = centered * rstd
    return (rstd * (v - mean(v) - y * mean(y * v))).flatten(1, 2)
