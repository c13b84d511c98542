"""A residual network for vectors, tables and any other small event."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.checks import require_count
from sde_score.nn._inputs import require_dropout, require_event_shape, require_inputs
from sde_score.nn.blocks.embeddings import NoiseEmbedding
from sde_score.nn.blocks.layers import Modulation, zero_init


class MLP(nn.Module):
    """Residual multilayer perceptron over the flattened event.

    Each block adds a two-layer network of its input, normalized, scaled and shifted by the noise
    level in between. The output layer starts at zero and reads the residual stream scaled and
    shifted but not normalized, so that a map that is linear in x at each noise level (the score of
    Gaussian data) is within easy reach.

    Args:
        event_shape: shape of one example, any rank.
        width: length of the hidden vectors, at least 2.
        depth: number of residual blocks, at least 1.
        num_classes: number of classes; 0 for a network without condition.
        dropout: probability of dropping a hidden number in training, in [0, 1).

    Raises:
        TypeError: if `event_shape` is not a tuple of whole numbers.
        ValueError: for sizes out of range.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 256,
        depth: int = 4,
        num_classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.event_shape = require_event_shape(event_shape)
        require_count(2, width=width)  # layer norm of a single number is zero
        require_count(depth=depth)
        require_dropout(dropout)
        size = prod(self.event_shape)
        self.embedding = NoiseEmbedding(width, num_classes)
        self.first = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.modulation = Modulation(width, width)
        self.last = zero_init(nn.Linear(width, size))

    def forward(self, x: Tensor, noise_level: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, *event_shape)`; cast to the dtype of the weights, and the answer back.
            noise_level: a quarter of log(sigma / alpha), within -4 .. 4, shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 for no class; None for none at all.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        require_inputs(x, noise_level, self.event_shape)
        embedding = self.embedding(noise_level, condition)
        flat = x.reshape(x.shape[0], self.first.in_features)
        hidden = self.first(flat.to(self.first.weight.dtype))
        for block in self.blocks:
            hidden = block(hidden, embedding)
        out: Tensor = self.last(self.modulation(hidden, embedding))
        return out.to(x.dtype).reshape(x.shape)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width)
        self.dropout = nn.Dropout(dropout)
        self.outer = zero_init(nn.Linear(width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.norm(self.inner(F.silu(x)))
        hidden = F.silu(self.modulation(hidden, embedding))
        change: Tensor = self.outer(self.dropout(hidden))
        return x + change
