"""The hourglass diffusion transformer, HDiT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_choice, require_count
from sde_score._core.conditions import Condition, ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import per_level, require_sides, require_signal, shape_told
from sde_score.nn.blocks.conditions import condition_embedding, label_of, refuse_label
from sde_score.nn.blocks.dropout import require_dropout
from sde_score.nn.blocks.embeddings import Embedding, require_noise_level
from sde_score.nn.blocks.gated import ControlledNorm, GatedBlock, RMSNorm
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.rotary import RotaryAttention
from sde_score.nn.blocks.time_embedding import (
    TimeFeatures,
    class_vectors,
)

ATTENTIONS = ("global", "neighborhood", "window", "none")


class HDiTEmbedding(Embedding):
    """Time label, class and augmentation labels as one vector.

    Random waves of the label and of the augmentation labels pass a linear layer each; with the
    vector of the class, their sum passes gated blocks. Absent augmentation labels are zeros, whose
    cosines are 1.

    Args:
        width: length of the vector, an even number.
        depth: number of blocks.
        hidden: length inside of the blocks.
        num_classes: number of classes, with one more vector for no class; 0 for none.
        num_augment: number of augmentation labels; 0 leaves them out.
        dropout: probability of dropping a hidden number in training.
        condition_shape: of vectors and of classes in a dictionary, whose embedding is added.
    """

    W: Tensor
    augment_waves: Tensor

    def __init__(
        self,
        width: int,
        depth: int,
        hidden: int,
        num_classes: int,
        num_augment: int,
        dropout: float,
        condition_shape: ConditionShape = (),
    ) -> None:
        require_count(2, embedding_width=width)
        require_count(0, num_augment=num_augment, embedding_depth=depth)
        require_memory(12.0 * depth * width * hidden, f"embedding_depth={depth}")
        super().__init__(width)
        self.vectors = condition_embedding(condition_shape, width, num_classes)
        self.num_classes, self.num_augment = num_classes, num_augment
        self.features = TimeFeatures(width, "fourier", sine_first=False, scale=1.0)
        self.register_buffer("W", self.features.draw())
        self.time = nn.Linear(width, width, bias=False)
        self.augment: nn.Module | None = None
        if num_augment:
            self.register_buffer("augment_waves", torch.randn(width // 2, num_augment))
            self.augment = nn.Linear(width, width, bias=False)
        self.classes = nn.Embedding(num_classes + 1, width) if num_classes else None
        self.first_norm = RMSNorm(width)
        self.blocks = nn.ModuleList(
            GatedBlock(RMSNorm(width), width, hidden, dropout) for _ in range(depth)
        )
        self.last_norm = RMSNorm(width)

    def forward(self, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Embed a batch of time labels, and the condition of `HDiT`."""
        require_noise_level(time_label)
        augment = condition.get("augment") if isinstance(condition, Mapping) else None
        dtype = self.time.weight.dtype
        hidden = self.time(self.features.of(time_label, self.W).to(dtype))
        if self.augment is not None:
            if augment is None:
                augment = time_label.new_zeros(time_label.shape[0], self.num_augment)
            angles = augment.to(self.augment_waves.dtype) @ self.augment_waves.mT * math.tau
            hidden = hidden + self.augment(torch.cat([angles.cos(), angles.sin()], 1).to(dtype))
        elif augment is not None:
            raise ValueError(
                "condition has 'augment', but the network was made without augmentation labels"
            )
        if self.vectors is not None:
            hidden = hidden + self.vectors(condition, len(time_label))
        elif self.classes is None:
            refuse_label(condition)
        else:
            label = label_of(condition)
            hidden = hidden + class_vectors(self.classes, label, time_label, self.num_classes)
        hidden = self.first_norm(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        return self.told(self.last_norm(hidden), condition)


class HDiTLayer(nn.Module):
    """Attention, or none, and a gated block.

    Args:
        attention: over the tokens, or None.
        block: behind it.
    """

    def __init__(self, attention: RotaryAttention | None, block: GatedBlock) -> None:
        super().__init__()
        self.attention = attention
        self.block = block

    def forward(self, x: Tensor, embedding: Tensor, positions: list[Tensor]) -> Tensor:
        """Map x, shape `(batch, *grid, width)`."""
        if self.attention is not None:
            x = self.attention(x, embedding, positions)
        out: Tensor = self.block(x, embedding)
        return out


class Merge(nn.Module):
    """Blocks of tokens as one token each, mapped to `out` channels.

    Args:
        width: length of a token.
        out: length of what comes out.
        block: sides of a block.
    """

    def __init__(self, width: int, out: int, block: Sequence[int]) -> None:
        super().__init__()
        self.block = tuple(block)
        self.linear = nn.Linear(width * math.prod(block), out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge tokens of x, shape `(batch, *grid, width)`; short blocks are filled by zeros."""
        dims = len(self.block)
        spare = [-side % size for side, size in zip(x.shape[1:-1], self.block, strict=True)]
        if any(spare):
            x = F.pad(x, [0, 0, *(n for extra in reversed(spare) for n in (0, extra))])
        grid = [side // size for side, size in zip(x.shape[1:-1], self.block, strict=True)]
        split = [n for pair in zip(grid, self.block, strict=True) for n in pair]
        x = x.reshape(x.shape[0], *split, x.shape[-1])
        order = [1 + 2 * i for i in range(dims)] + [2 + 2 * i for i in range(dims)]
        x = x.permute(0, *order, x.ndim - 1).flatten(1 + dims)
        out: Tensor = self.linear(x)
        return out


class Split(nn.Module):
    """The inverse of `Merge`: a linear map of every token, whose parts are a block of tokens.

    Args:
        width: length of a token.
        out: length of what comes out.
        block: sides of a block.
        joins: add to the tokens of the way down: their mean, weighted by a learned number.
    """

    def __init__(self, width: int, out: int, block: Sequence[int], joins: bool) -> None:
        super().__init__()
        self.block = tuple(block)
        self.out = out
        self.linear = nn.Linear(width, out * math.prod(block), bias=False)
        self.share = nn.Parameter(torch.tensor([0.5])) if joins else None

    def forward(self, x: Tensor, grid: Sequence[int], skip: Tensor | None = None) -> Tensor:
        """Split tokens of x, shape `(batch, *grid, width)`, and cut them to `grid`."""
        dims = len(self.block)
        coarse = x.shape[1:-1]
        x = self.linear(x).reshape(x.shape[0], *coarse, *self.block, self.out)
        order = [axis for i in range(dims) for axis in (1 + i, 1 + dims + i)]
        x = x.permute(0, *order, x.ndim - 1)
        sides = [side * size for side, size in zip(coarse, self.block, strict=True)]
        x = x.reshape(x.shape[0], *sides, x.shape[-1])
        index = (slice(None), *(slice(side) for side in grid))
        x = x[index]
        if self.share is None or skip is None:
            return x
        return skip + self.share * (x - skip)


class HDiT(nn.Module):
    r"""The hourglass transformer: tokens are merged level by level, and split again.

    Its published time label is a quarter of log(sigma), its parametrization EDM's. At fine levels
    attention sees a neighborhood or a window alone, so that the cost grows with the number of
    pixels. Signals of one to three sides, of any size; sides that no patch divides are padded by
    zeros. The last layer starts at zero, and so does the last of every block.

    Args:
        event_shape: shape of one example, of one to three sides.
        widths: length of the tokens of each level, finest first.
        depths: number of layers of each level, on the way down and up.
        attention: of each level, `"global"`, `"neighborhood"`, `"window"`, every second one shifted
            by half a side, or `"none"`; one for all or one for each.
        sizes: side of the neighborhood or window, one for all levels or one for each.
        head_channels: channels of a head of attention, one for all levels or one for each.
        hidden: lengths inside of the two-layer networks; None for three times the widths.
        patch: sides of the patches that become a token, one for all sides or one for each.
        embedding_width: length of the embedding.
        embedding_depth: number of its blocks.
        embedding_hidden: length inside of its blocks; None for three times its length.
        num_classes: number of classes; 0 for a network without condition.
        num_augment: number of augmentation labels: entry `augment` of a dictionary of conditions.
        dropout: probability of dropping a hidden number in training, in [0, 1), one for all levels
            or one for each.
        embedding_dropout: of the embedding.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range, or lists that do not have one entry per level.

    Reference: Crowson et al. 2024, https://arxiv.org/abs/2401.11605.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        widths: Sequence[int] = (128, 256, 512),
        depths: Sequence[int] = (2, 2, 4),
        attention: Sequence[str] | str = ("neighborhood", "neighborhood", "global"),
        sizes: Sequence[int] | int = 7,
        head_channels: Sequence[int] | int = 64,
        hidden: Sequence[int] | None = None,
        patch: Sequence[int] | int = 4,
        embedding_width: int = 256,
        embedding_depth: int = 2,
        embedding_hidden: int | None = None,
        num_classes: int = 0,
        num_augment: int = 9,
        dropout: Sequence[float] | float = 0.0,
        embedding_dropout: float = 0.0,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        count, dims, channels = len(widths), len(self.event_shape) - 1, self.event_shape[0]
        inner = [3 * width for width in widths] if hidden is None else hidden
        for name, values in (("widths", widths), ("depths", depths), ("hidden", inner)):
            require_count(**{f"{name}[{i}]": value for i, value in enumerate(values)})
        drops = per_level("dropout", dropout, count)
        for drop in (*drops, embedding_dropout):
            require_dropout(drop)
        require_memory(
            4 * sum(30 * depth * width**2 for depth, width in zip(depths, widths, strict=False)),
            f"a network of {widths=}",
        )
        self.patch = per_level("patch", patch, dims)
        self.embedding = HDiTEmbedding(
            embedding_width,
            embedding_depth,
            3 * embedding_width if embedding_hidden is None else embedding_hidden,
            num_classes,
            num_augment,
            embedding_dropout,
            condition_shape,
        )
        self.condition_shape = shape_told(self.embedding)
        given = {
            "widths": widths,
            "depths": depths,
            "hidden": inner,
            "attention": attention,
            "sizes": sizes,
            "head_channels": head_channels,
            "dropout": drops,
        }
        rows = zip(*(per_level(key, value, count) for key, value in given.items()), strict=True)
        levels = [_Style(embedding_width, dims, *row) for row in rows]
        twos = (2,) * dims
        self.stem = Merge(channels, widths[0], self.patch)
        self.down = nn.ModuleList(style.layers(0) for style in levels[:-1])
        self.middle = levels[-1].layers(0)
        self.up = nn.ModuleList(style.layers(style.depth) for style in levels[:-1])
        self.merges = nn.ModuleList(Merge(a, b, twos) for a, b in pairwise(widths))
        self.splits = nn.ModuleList(Split(b, a, twos, True) for a, b in pairwise(widths))
        self.last_norm = RMSNorm(widths[0])
        self.head = Split(widths[0], channels, self.patch, False)
        zero_init(self.head)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, channels, ...)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 or None for no class; or a dictionary
                with `label` and `augment`, of shape `(batch, num_augment)`.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        require_signal(x, time_label, self.event_shape)
        embedding = self.embedding(time_label, condition)
        hidden = self.stem(x.to(embedding.dtype).movedim(1, -1))
        positions = centers(hidden.shape[1:-1], torch.promote_types(hidden.dtype, torch.float32))
        positions = [line.to(x.device) for line in positions]
        kept: list[tuple[Tensor, list[Tensor]]] = []
        for level, merge in zip(self.down, self.merges, strict=True):
            hidden = _through(level, hidden, embedding, positions)
            kept.append((hidden, positions))
            hidden, positions = merge(hidden), [_halved(line) for line in positions]
        hidden = _through(self.middle, hidden, embedding, positions)
        for level, split in zip(reversed(self.up), reversed(self.splits), strict=True):
            skip, positions = kept.pop()
            hidden = split(hidden, skip.shape[1:-1], skip)
            hidden = _through(level, hidden, embedding, positions)
        out: Tensor = self.head(self.last_norm(hidden), x.shape[2:])
        return out.movedim(-1, 1).to(x.dtype)


@dataclass(frozen=True)
class _Style:
    """One level's layers."""

    embedding: int
    dims: int
    width: int
    depth: int
    hidden: int
    attention: str
    size: int
    head_channels: int
    dropout: float

    def layers(self, first: int) -> nn.ModuleList:
        """The layers, counted from `first`: windows of odd ones are shifted."""
        require_choice("attention", self.attention, ATTENTIONS)
        require_count(size=self.size, head_channels=self.head_channels)
        return nn.ModuleList(self._layer((first + i) % 2 == 1) for i in range(self.depth))

    def _layer(self, shifted: bool) -> HDiTLayer:
        norm = ControlledNorm(self.width, self.embedding)
        block = GatedBlock(norm, self.width, self.hidden, self.dropout)
        if self.attention == "none":
            return HDiTLayer(None, block)
        rest = (self.attention, self.size, shifted, self.dropout)
        attention = RotaryAttention(
            self.width, self.head_channels, self.embedding, self.dims, *rest
        )
        return HDiTLayer(attention, block)


def centers(grid: Sequence[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Middles of a grid's cells along each side, of which the longest runs from -1 to 1."""
    longest = max(grid)
    return [(2 * torch.arange(side, dtype=dtype) + 1 - side) / longest for side in grid]


def _halved(line: Tensor) -> Tensor:
    """Middles of pairs of neighbors; of an odd number the last is alone."""
    line = torch.cat([line, line[-1:]]) if len(line) % 2 else line
    return line.reshape(-1, 2).mean(dim=1)


def _through(level: nn.Module, x: Tensor, embedding: Tensor, positions: list[Tensor]) -> Tensor:
    for layer in cast(nn.ModuleList, level):
        x = layer(x, embedding, positions)
    return x
