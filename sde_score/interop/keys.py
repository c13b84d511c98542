"""Weights of other code under our names: one walk of a network, one dialect a family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from sde_score._core.conditions import ConditionShape
from sde_score.nn import create as create_backbone
from sde_score.nn.backbones.residual_unet import Head, InputMerge, ResidualUNet, stages_of
from sde_score.nn.blocks.attention import Attention
from sde_score.nn.blocks.layers import Modulation
from sde_score.nn.blocks.resampling import ConvDownsample, ConvUpsample
from sde_score.nn.blocks.residual import ResBlock
from sde_score.training.errors import CheckpointError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A module with weights, and its place in a `ResidualUNet`.

    Args:
        path: its name in our state.
        module: itself.
        where: `"embedding"`, `"stem"`, `"down"`, `"middle"`, `"up"` or `"head"`.
        slot: of a stage: `"block"`, `"attention"`, `"down"`, `"merge"`, `"image"` or `"up"`; of the
            embedding: `"first"`, `"second"`, `"classes"` or `"augment"`.
        level: the resolution, 0 the finest.
        number: place among the stages of its level.
    """

    path: str
    module: nn.Module
    where: str
    slot: str = ""
    level: int = 0
    number: int = 0


def parts(net: ResidualUNet) -> Iterator[Part]:
    """Everything with weights, in the order of a forward pass."""
    for name in ("first", "second", "classes", "augment"):
        module = getattr(net.embedding, name)
        if module is not None:
            yield Part(f"embedding.{name}", module, "embedding", name)
    yield Part("stem", net.stem, "stem")
    for where, stages in (("down", net.encoder), ("middle", net.middle), ("up", net.decoder)):
        folder = {"down": "encoder", "middle": "middle", "up": "decoder"}[where]
        for place, stage in enumerate(stages_of(stages)):
            for slot in ("block", "attention", "down", "merge", "image", "up"):
                module = getattr(stage, slot)
                if module is not None and next(module.parameters(), None) is not None:
                    path = f"{folder}.{place}.{slot}"
                    yield Part(path, module, where, slot, stage.level, stage.number)
    if net.head is not None:
        yield Part("head", net.head, "head")


def leaves(part: Part) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a part that other code gives names of their own, with their paths.

    Blocks, attention and single layers are one; a head has two.
    """
    module = part.module
    if isinstance(module, Head):
        yield f"{part.path}.norm", module.norm
        yield f"{part.path}.conv", module.conv
    elif isinstance(module, InputMerge):
        name = "down.conv" if module.residual else "conv"
        yield f"{part.path}.{name}", module.get_submodule(name)
    elif isinstance(module, (ConvDownsample, ConvUpsample)):
        yield f"{part.path}.conv", module.conv
    else:
        yield part.path, module


@dataclass(frozen=True)
class Dialect:
    """How a family of checkpoints names what a `ResidualUNet` is made of.

    Args:
        block: names of the layers of a residual block: `norm1`, `conv1`, `condition`, `norm2`,
            `conv2` and `skip`.
        attention: (state, prefix, heads) to the weights of our `norm`, `qkv` and `out`.
    """

    block: Mapping[str, str]
    attention: Callable[[Taken, str, int], dict[str, Tensor]]


def outline(spec: str, event_shape: tuple[int, ...], num_classes: int = 0) -> ResidualUNet:
    """A U-Net without memory for its weights, which gives names and shapes."""
    return cast(ResidualUNet, sketch(spec, event_shape, num_classes))


def sketch(
    spec: str,
    event_shape: tuple[int, ...],
    num_classes: int = 0,
    condition_shape: ConditionShape = (),
) -> nn.Module:
    """Any network without memory for its weights, which gives names and shapes.

    Raises:
        CheckpointError: for sizes that no network has.
    """
    try:
        with torch.device("meta"):
            return create_backbone(spec, event_shape, num_classes, condition_shape)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint asks for a network that cannot be built: {error}"
        ) from error


class Taken:
    """A state whose tensors are marked as they are taken, so that what is left over is known.

    Raises:
        CheckpointError: if something in it is no tensor.
    """

    def __init__(self, state: State) -> None:
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                raise CheckpointError(
                    f"the weights of the checkpoint hold {name!r} of type {type(value).__name__}, "
                    "which is no tensor"
                )
        self.state = dict(state)
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def __call__(self, name: str) -> Tensor:
        """The tensor of a name.

        Raises:
            CheckpointError: if there is none.
        """
        if name not in self.state:
            raise CheckpointError(
                f"the checkpoint has no {name!r}, which its kind of network needs: it is "
                "truncated, or of another configuration than was read off or asked for"
            )
        self.used.add(name)
        return self.state[name]

    def sizes(self, name: str, count: int) -> tuple[int, ...]:
        """The shape of a tensor that has so many dimensions.

        Raises:
            CheckpointError: if it is missing, has another number of dimensions, or is empty.
        """
        shape = tuple(self(name).shape)
        if len(shape) != count or not all(shape):
            raise CheckpointError(
                f"{name} has shape {shape} in the checkpoint, but its kind of network has "
                f"{count} dimensions there, none of them empty"
            )
        return shape

    def numbered(self, prefix: str) -> int:
        """How many numbers follow a prefix, as in `blocks.0.`, `blocks.1.`."""
        found = {
            key.removeprefix(prefix).split(".")[0] for key in self.state if key.startswith(prefix)
        }
        return sum(part.isdecimal() for part in found)

    def layer(self, prefix: str) -> dict[str, Tensor]:
        """Weight and, where there is one, bias of a layer."""
        found = {"weight": self(f"{prefix}.weight")}
        if f"{prefix}.bias" in self:
            found["bias"] = self(f"{prefix}.bias")
        return found

    def left(self) -> list[str]:
        """Names that nobody took."""
        return sorted(set(self.state) - self.used)

    def refuse_left(self) -> None:
        """Refuse a checkpoint of which something was not used.

        Raises:
            CheckpointError: with the names.
        """
        left = self.left()
        if left:
            raise CheckpointError(
                f"{len(left)} tensors of the checkpoint have no place in the network, such as "
                f"{left[:3]}: it is of another configuration than was read off or asked for"
            )


def read(
    net: ResidualUNet,
    taken: Taken,
    dialect: Dialect,
    names: Mapping[str, str],
    others: State | None = None,
) -> dict[str, Tensor]:
    """The state of `net` from the tensors of another.

    Args:
        net: gives names and shapes; it may be on the meta device.
        taken: the tensors of the checkpoint.
        dialect: names inside of blocks and attention.
        names: their names of the leaves of the parts, by our path.
        others: tensors of ours that have no name of theirs.

    Raises:
        CheckpointError: for a tensor that is missing or of another shape.
    """
    state: dict[str, Tensor] = dict(others or {})
    for part in parts(net):
        for path, module in leaves(part):
            if path not in names:
                continue
            theirs = names[path]
            if isinstance(module, ResBlock):
                for ours, name in dialect.block.items():
                    if ours == "skip" and isinstance(module.skip, nn.Identity):
                        continue
                    inner = ".linear" if isinstance(module.get_submodule(ours), Modulation) else ""
                    for key, value in taken.layer(f"{theirs}.{name}").items():
                        state[f"{path}.{ours}{inner}.{key}"] = value
            elif isinstance(module, Attention):
                found = dialect.attention(taken, theirs, module.heads)
                state.update({f"{path}.{key}": value for key, value in found.items()})
            else:
                state.update({f"{path}.{k}": v for k, v in taken.layer(theirs).items()})
    return fitted(net, state)


def fitted(net: nn.Module, state: State) -> dict[str, Tensor]:
    """The state, each tensor in the shape that the network has for it.

    Dimensions of length one are no difference: a 1 x 1 convolution is a linear map.

    Raises:
        CheckpointError: for tensors that are missing, too many or of another shape.
    """
    ours = net.state_dict()
    missing, extra = sorted(set(ours) - set(state)), sorted(set(state) - set(ours))
    if missing or extra:
        raise CheckpointError(
            f"the weights do not fit the network: missing {missing[:3]}, left over {extra[:3]}"
        )
    shaped = {}
    for name, wanted in ours.items():
        value = state[name]
        if [n for n in value.shape if n != 1] != [n for n in wanted.shape if n != 1]:
            raise CheckpointError(
                f"{name} has shape {tuple(value.shape)} in the checkpoint, but the network needs "
                f"{tuple(wanted.shape)}"
            )
        shaped[name] = value.reshape(wanted.shape)
    return shaped


def rows(weight: Tensor, heads: int, order: str) -> Tensor:
    """Rows of queries, keys and values in our order, (three heads channels), from another's.

    Args:
        weight: weights or biases, whose first dimension counts the rows.
        heads: number of heads.
        order: theirs: `"three heads channels"`, `"heads three channels"` (ADM's first) or
            `"heads channels three"` (EDM).
    """
    from einops import rearrange

    lengths = {"three": 3, "heads": heads}
    return rearrange(weight, f"({order}) ... -> (three heads channels) ...", **lengths).contiguous()


def concatenated(values: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Layers of the same inputs as one."""
    return {key: torch.cat([value[key] for value in values]) for key in values[0]}
