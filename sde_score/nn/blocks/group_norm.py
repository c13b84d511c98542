r"""Normalization with every derivative in every memory layout, or by torch's kernels alone.

torch's group normalization is fast, most of all on channels-last tensors, but there its
forward-mode derivatives and its rules for vmap fail; the third derivative of its layer
normalization is a wrong number (torch 2.13), as score matching takes it of an energy. All follow
from one fact: with y = (x - mean) / std over a group of m numbers,

.. math:: \frac{\partial y}{\partial x} = \frac{1}{std} (I - \frac{1 1^T}{m} - \frac{y y^T}{m})

is symmetric. So one product, written in operations that torch differentiates any number of times,
serves reverse mode and forward mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.gradients import values_alone

# On channels-last tensors the kernels are fast from 16 channels a group upward. With fewer they are
# up to 13 times slower in bfloat16: backward, and forward with fewer positions (torch 2.13).
_CHANNELS_PER_GROUP = 16
_POSITIONS = 1024
_MOST_GROUPS = 32
_EPS = 1e-5
_HALVES = (torch.bfloat16, torch.float16)


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

    By default there is no learned scale and shift: within a group, the layer before can give each
    channel its own, and the layers that need one for the noise level have a `Modulation`. Networks
    of published papers have them (`affine`).

    Args:
        channels: size of dimension 1 of x.
        second_derivatives: False takes torch's own layer, whose first derivatives are a tenth of a
            training step faster and have the same bits; see `set_second_derivatives`.
        groups: number of equal groups of channels; None takes `groups_for(channels)`.
        eps: added to the variance.
        affine: scale and shift every channel by numbers that are learned.

    Reference: Wu & He 2018, https://arxiv.org/abs/1803.08494.
    """

    def __init__(
        self,
        channels: int,
        second_derivatives: bool = True,
        groups: int | None = None,
        eps: float = _EPS,
        affine: bool = False,
    ) -> None:
        super().__init__()
        self.groups = groups_for(channels) if groups is None else groups
        self.eps = eps
        self.second_derivatives = second_derivatives
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, shape `(batch, channels, ...)`."""
        # A compiler writes its own kernels.
        if not self.second_derivatives or torch.compiler.is_compiling() or values_alone():
            return _kernel(x, self.groups, self.eps, self.weight, self.bias)
        y: Tensor = _Normalize.apply(x, self.groups, self.eps)  # type: ignore[no-untyped-call]
        if self.weight is None or self.bias is None:
            return y
        per_channel = (-1, *(1,) * (x.ndim - 2))
        return torch.addcmul(self.bias.reshape(per_channel), y, self.weight.reshape(per_channel))


class LayerNorm(GroupNorm):
    """Each vector gets mean 0 and variance 1; by default without a learned scale and shift.

    Args:
        width: length of the vectors.
        second_derivatives: see `GroupNorm`.
        eps: added to the variance.
        affine: scale and shift every entry by numbers that are learned.

    Reference: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    def __init__(
        self,
        width: int,
        second_derivatives: bool = True,
        eps: float = _EPS,
        affine: bool = False,
    ) -> None:
        super().__init__(width, second_derivatives, 1, eps, affine)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, vectors in its last dimension."""
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def set_second_derivatives(network: nn.Module, needed: bool) -> None:
    """Choose between the layers with every derivative and torch's faster ones, in a whole network.

    Args:
        network: any module; its layers of ours are switched, others are left as they are.
        needed: True for objectives that differentiate twice, for forward mode and for vmap, the
            state in which networks are made; False for training by first derivatives alone.
    """
    for module in network.modules():
        if hasattr(module, "second_derivatives"):
            module.second_derivatives = needed  # type: ignore[assignment]


class _Normalize(torch.autograd.Function):
    """Normalization whose derivatives are written out."""

    @staticmethod
    def forward(x: Tensor, groups: int, eps: float) -> Tensor:
        return _kernel(x, groups, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, float], output: Tensor) -> None:
        x, ctx.groups, ctx.eps = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # this derivative will be differentiated
            return _jacobian_product(grads[0], x, ctx.groups, ctx.eps), None, None
        pull = torch.func.vjp(lambda z: _kernel(z, ctx.groups, ctx.eps), x)[1]
        return pull(grads[0])[0], None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return _jacobian_product(tangent, x, ctx.groups, ctx.eps)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], x: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, int]:
        """Examples are normalized one by one, so a further batch dimension joins the batch."""
        x = x.movedim(in_dims[0], 0)
        together = _Normalize.apply(x.flatten(0, 1), groups, eps)  # type: ignore[no-untyped-call]
        return together.reshape(x.shape), 0


def _kernel(
    x: Tensor,
    groups: int,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """torch's own normalization, of vectors or of channels; its statistics are float32 at least."""
    if x.ndim == 2 and groups == 1:
        return F.layer_norm(x, x.shape[1:], weight, bias, eps)
    if x.dtype in _HALVES and x.device.type == "cpu" and not torch.compiler.is_compiling():
        if weight is None:  # without it torch keeps the statistics in the type of x
            weight = torch.ones(x.shape[1])
        if x.shape[1] // groups < _CHANNELS_PER_GROUP and _is_channels_last(x):
            y: Tensor
            y, *_ = _NarrowGroups.apply(x, groups, eps, weight, bias)  # type: ignore[no-untyped-call]
            return y
    return F.group_norm(x, groups, weight, bias, eps)


def _is_channels_last(x: Tensor) -> bool:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    return layout is not None and x.is_contiguous(memory_format=layout)


class _NarrowGroups(torch.autograd.Function):
    """Groups of few channels in two bytes a number, channels last, by kernels that are fast there.

    Values, and first derivatives that are not differentiated.
    """

    @staticmethod
    def forward(
        x: Tensor, groups: int, eps: float, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        positions = x[0, 0].numel()
        wide = x if positions >= _POSITIONS else x.float()
        batch, channels = x.shape[:2]
        y, mean, rstd = torch.native_group_norm(
            wide, weight, bias, batch, channels, positions, groups, eps
        )
        return y.to(x.dtype), mean, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, _, _, weight, ctx.bias = inputs
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The product of `_jacobian_product` from two sums over positions for each channel."""
        x, weight, mean, rstd = ctx.saved_tensors
        grad, axes = grads[0], tuple(range(2, x.ndim))
        width, shape = x.shape[1] // mean.shape[1], (*x.shape[:2], *(1,) * (x.ndim - 2))
        m = width * x[0, 0].numel()

        def by_channel(z: Tensor) -> Tensor:
            return z.repeat_interleave(width, dim=1)

        def mean_of_group(z: Tensor) -> Tensor:
            mean: Tensor = (z * weight).unflatten(1, (-1, width)).sum(2) / m
            return mean

        def laid(z: Tensor) -> Tensor:
            return z.reshape(shape).to(x.dtype)

        # Centered by the mean as x can hold it; the rest of the mean enters the sums.
        rest = by_channel(mean - mean.to(x.dtype))
        centered = x - laid(by_channel(mean))
        sums = grad.sum(axes).float()
        products = (grad * centered).sum(axes).float() - rest * sums
        slope = -(rstd**3) * mean_of_group(products)
        start = -rstd * mean_of_group(sums)
        found = torch.addcmul(laid(by_channel(start)), centered, laid(by_channel(slope)))
        found.addcmul_(grad, laid(by_channel(rstd) * weight))
        by_weight = (products * by_channel(rstd)).sum(0)
        return found, None, None, by_weight, None if ctx.bias is None else sums.sum(0)


def _jacobian_product(v: Tensor, x: Tensor, groups: int, eps: float) -> Tensor:
    """dy/dx times v; also v times dy/dx. Shapes as x."""
    grouped = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    v, x = v.reshape(grouped), x.reshape(grouped)
    axes = tuple(range(2, x.ndim))

    def mean(z: Tensor) -> Tensor:
        return z.mean(axes, keepdim=True)

    centered = x - mean(x)
    rstd = (mean(centered.square()) + eps).rsqrt()
    y = centered * rstd
    return (rstd * (v - mean(v) - y * mean(y * v))).flatten(1, 2)
