r"""A transformer for tables and sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import Backbone, require_event_shape
from sde_score.nn.blocks.tokens import AdaptiveBlock, AdaptiveHead


class Transformer(Backbone):
    r"""A transformer whose tokens are the columns of a table or the members of a set.

    Column j of a table, a number x_j, becomes the vector x_j w_j + b_j and is read off by weights
    of its own; members of a set, rows of features, share one linear layer and have a learned
    position each. In between are blocks of attention and two-layer networks that the noise level
    and the condition control, those of `dit`. The defaults are the size of FT-Transformer, whose
    gated two-layer networks have as many weights. Series and images are cut into patches by `dit`.

    Args:
        event_shape: (columns,) of a table, or (members, features) of a set.
        width: length of the vectors.
        depth: number of blocks.
        heads: of attention, a divisor of `width`.
        mlp_ratio: length inside of the two-layer networks, as a multiple of `width`.
        positions: tell columns or members apart; False treats them alike, so that permuting them
            permutes the answer.
        num_classes: number of classes; 0 for a network without labels.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        TypeError: if `event_shape` is not a tuple of integers.
        ValueError: for sizes out of range, or events of another rank.

    Reference: after Gorishniy et al. 2021, https://arxiv.org/abs/2106.11959; blocks of Peebles &
    Xie 2023, https://arxiv.org/abs/2212.09748.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 192,
        depth: int = 3,
        heads: int = 8,
        mlp_ratio: float = 2.0,
        positions: bool = True,
        num_classes: int = 0,
        condition_shape: ConditionShape = (),
    ) -> None:
        shape = require_event_shape(event_shape)
        if len(shape) not in (1, 2):
            raise ValueError(
                f"event_shape={shape} must be (columns,) of a table or (members, features) of a "
                "set: take dit or unet for images"
            )
        require_count(width=width, depth=depth)
        require_count(0, num_classes=num_classes)
        hidden = int(width * mlp_ratio)
        count, features = (*shape, 1)[:2]
        require_memory(
            4 * width * (depth * (10 * width + 2 * hidden) + 3 * count + 2 * features),
            f"a network of event_shape={shape}, {width=}, {depth=}, {mlp_ratio=}",
        )
        super().__init__(shape, width, num_classes, condition_shape)
        table = positions and len(shape) == 1
        self.tokens = ColumnTokens(count, width) if table else nn.Linear(features, width)
        self.places = (
            nn.Parameter(0.02 * torch.randn(count, width)) if positions and not table else None
        )
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads, hidden) for _ in range(depth))
        last = ColumnValues(count, width) if table else nn.Linear(width, features)
        self.head = AdaptiveHead(width, last)

    @override
    def answer(self, x: Tensor, embedding: Tensor) -> Tensor:
        tokens = self.tokens(x[..., None] if x.ndim == 2 else x)
        if self.places is not None:
            tokens = tokens + self.places
        for block in self.blocks:
            tokens = block(tokens, embedding)
        out: Tensor = self.head(tokens, embedding)
        return out.reshape(x.shape)


class ColumnTokens(nn.Module):
    """Numbers as vectors, x_j w_j + b_j.

    Args:
        count: number of columns.
        width: length of the vectors.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))
        self.bias = nn.Parameter(torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        """Vectors, shape `(batch, columns, width)`, of numbers, shape `(batch, columns, 1)`."""
        return torch.addcmul(self.bias, x, self.weight)


class ColumnValues(nn.Module):
    """Vectors as numbers, the scalar product with w_j plus b_j.

    Args:
        count: number of columns.
        width: length of the vectors.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(count, width))
        self.bias = nn.Parameter(torch.zeros(count))

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers, shape `(batch, columns)`, of vectors, shape `(batch, columns, width)`."""
        return (tokens * self.weight).sum(dim=-1) + self.bias
