"""Residual multilayer perceptron for vectors, tables and any other small event."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import Backbone, require_event_shape
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.group_norm import LayerNorm
from sde_score.nn.blocks.layers import Modulation, zero_init


class MLP(Backbone):
    """Residual multilayer perceptron over the flattened event.

    Each block adds a two-layer network of its input, normalized, scaled and shifted by the noise
    level in between. The output layer starts at zero and reads the residual stream scaled and
    shifted but not normalized, so that a map that is linear in x at each noise level (the score of
    Gaussian data) is within easy reach.

    Args:
        event_shape: shape of one example, any rank.
        width: length of the hidden vectors, at least 2.
        depth: number of residual blocks, at least 1.
        num_classes: number of classes; 0 for a network without labels.
        dropout: probability of dropping a hidden number in training, in [0, 1).
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        num_classes: int = 0,
        dropout: float = 0.0,
        condition_shape: ConditionShape = (),
    ) -> None:
        require_count(2, width=width)  # layer norm of a single number is zero
        require_count(depth=depth)
        require_dropout(dropout)
        shape = require_event_shape(event_shape)
        require_count(0, num_classes=num_classes)
        require_memory(
            4 * width * (4 * depth * width + 2 * prod(shape) + num_classes),
            f"a network of event_shape={shape}, {width=}, {depth=}, {num_classes=}",
        )
        super().__init__(shape, width, num_classes, condition_shape)
        size = prod(self.event_shape)
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.modulation = Modulation(width, width)
        self.last = zero_init(nn.Linear(width, size))

    @override
    def answer(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.first(x.reshape(x.shape[0], self.first.in_features))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        out: Tensor = self.last(self.modulation(hidden, embedding))
        return out.reshape(x.shape)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = LayerNorm(width)
        self.modulation = Modulation(width, width)
        self.dropout = Dropout(dropout)
        self.outer = zero_init(nn.Linear(width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.norm(self.inner(F.silu(x)))
        hidden = F.silu(self.modulation(hidden, embedding))
        change: Tensor = self.outer(self.dropout(hidden))
        return x + change
