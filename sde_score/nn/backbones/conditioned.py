"""Networks around networks: images of the condition beside x, and encoders of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from sde_score._core.checks import class_of, require_batch
from sde_score._core.conditions import (
    Condition,
    ConditionShape,
    absent,
    require_condition,
    require_condition_shape,
)
from sde_score._core.errors import ArgumentError
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import require_event_shape


def channels_beside(condition_shape: ConditionShape, event_shape: Sequence[int]) -> int:
    """Channels that the images of a condition take behind those of x, an indicator for each.

    Raises:
        ValueError: for images of other sides than those of the examples, or beyond the memory.
    """
    images, sides = _images(condition_shape), require_event_shape(event_shape)[1:]
    for name, shape in images.items():
        if shape[1:] != sides:
            fix = (
                f"resize it, or give Encoded(network, encoder) with an encoder to that size, such "
                f"as torch.nn.Upsample({sides})"
                if len(shape) == len(sides) + 1
                else "flatten it, or give Encoded(network, encoder)"
            )
            raise ValueError(
                f"{name} of shape {shape} does not have the sides of the examples, {sides}: {fix}"
            )
    channels = sum(shape[0] + 1 for shape in images.values())
    require_memory(4.0 * channels * prod(sides), f"condition_shape={condition_shape}")
    return channels


def told_inside(condition_shape: ConditionShape) -> ConditionShape:
    """What is left for the network inside when images have joined the channels of x."""
    images = _images(condition_shape)
    if not isinstance(condition_shape, Mapping):
        return () if images else condition_shape
    return {n: kind for n, kind in condition_shape.items() if n not in images} or ()


def _images(condition_shape: ConditionShape) -> dict[str, tuple[int, ...]]:
    """The shapes of the images among the conditions, by name."""
    named = (
        condition_shape if isinstance(condition_shape, Mapping) else {"condition": condition_shape}
    )
    return {n: kind for n, kind in named.items() if not isinstance(kind, int) and len(kind) > 1}


class Concatenated(nn.Module):
    """A network that sees the images of the condition behind the channels of x.

    Each image is followed by a channel of ones; for an example without that image all of these
    channels are zeros, so that the network tells a black image from none. Of its answer the
    channels of x are kept. Other conditions go to the network as they are.

    Args:
        network: made for as many channels as x, the images and one more for each image have.
        event_shape: shape of one example, with one side or more.
        condition_shape: of an image with the sides of the example, or a dictionary of them and
            other conditions.

    Raises:
        ValueError: for images of other sides.

    Reference: Saharia et al. 2021, https://arxiv.org/abs/2104.07636, section 2.4.
    """

    def __init__(
        self, network: nn.Module, event_shape: Sequence[int], condition_shape: ConditionShape
    ) -> None:
        super().__init__()
        self.network = network
        self.event_shape = require_event_shape(event_shape)
        self.condition_shape = require_condition_shape(condition_shape)
        channels_beside(self.condition_shape, self.event_shape)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, *event_shape)`.
            time_label: shape `(batch,)`.
            condition: images in model range, shape `(batch, channels, *sides)`, NaN for none; or a
                dictionary; None for none at all.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or names that do not fit.
        """
        require_batch("x", x)
        require_condition(condition, self.condition_shape, len(x))
        given = condition if isinstance(condition, Mapping) else {"condition": condition}
        images = _images(self.condition_shape)
        seen = [x]
        for name, shape in images.items():
            image = given.get(name)
            if image is None:
                seen.append(x.new_zeros(len(x), shape[0] + 1, *x.shape[2:]))
                continue
            known = ~absent(image).reshape(-1, *(1,) * (x.ndim - 1))
            image = torch.where(known, image, 0.0).to(x.dtype)
            seen += [image, known.to(x.dtype).expand_as(image[:, :1])]
        rest = {n: value for n, value in given.items() if n not in images and value is not None}
        out: Tensor = self.network(torch.cat(seen, dim=1), time_label, rest or None)
        return out[:, : x.shape[1]]


class Encoded(nn.Module):
    """A network whose condition passes an encoder first.

    An encoder maps a batch of conditions to vectors or images that the network takes: it
    enlarges low-resolution images, or makes a vector of a text's tokens. It is trained with the
    network. Examples without a condition, with NaN, have none behind the encoder either.

    Args:
        network: called as `network(x, time_label, condition)`.
        encoder: a module, called with a floating-point condition; or a dictionary from names to
            such modules, for a dictionary of conditions, of which the others pass as they are.
        condition_shape: what is declared before the encoder, see `sde_score.nn.create`; empty for
            anything.

    Raises:
        TypeError: for an encoder that is no module.
    """

    def __init__(
        self,
        network: nn.Module,
        encoder: nn.Module | Mapping[str, nn.Module],
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        named = {"condition": encoder} if isinstance(encoder, nn.Module) else encoder
        if not isinstance(named, Mapping) or not all(
            isinstance(part, nn.Module) for part in named.values()
        ):
            raise ArgumentError(
                f"encoder is {class_of(encoder)}; accepted: a torch.nn.Module, or a dictionary "
                "from names of conditions to them"
            )
        self.network = network
        self.names = tuple(named)
        self.encoders = nn.ModuleList(named.values())
        self.condition_shape = require_condition_shape(condition_shape)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: as the network takes it.
            time_label: shape `(batch,)`.
            condition: as the encoders take it; None for none at all.

        Raises:
            TypeError, ValueError: for a condition that was not declared.
        """
        if self.condition_shape:
            require_condition(condition, self.condition_shape, len(x))
        told: Condition = None
        if isinstance(condition, Mapping):
            encoders = dict(zip(self.names, self.encoders, strict=True))
            told = {
                name: _encoded(encoders[name], value, x.dtype) if name in encoders else value
                for name, value in condition.items()
            }
        elif condition is not None:
            told = _encoded(self.encoders[0], condition, x.dtype)
        out: Tensor = self.network(x, time_label, told)
        return out


def _encoded(encoder: nn.Module, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point():
        found: Tensor = encoder(value)
        return found
    lost = absent(value)
    found = encoder(torch.nan_to_num(value).to(dtype))
    return torch.where(lost.reshape(-1, *(1,) * (found.ndim - 1)), torch.nan, found)
