r"""The transformer with long skips, U-ViT."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import require_inputs, require_sides, shape_told
from sde_score.nn.blocks.conditions import condition_embedding, label_of, refuse_label
from sde_score.nn.blocks.embeddings import Embedding, require_noise_level
from sde_score.nn.blocks.group_norm import LayerNorm
from sde_score.nn.blocks.layers import zero_init
from sde_score.nn.blocks.resampling import convolution
from sde_score.nn.blocks.time_embedding import (
    TimeFeatures,
    class_vectors,
)
from sde_score.nn.blocks.tokens import FeedForward, PatchEmbedding, TokenAttention, from_patches


class UViT(nn.Module):
    r"""A transformer over patches, the time label and the class as tokens, with long skips.

    The outputs of the first half of the blocks join the inputs of the second half, the last the
    first, by concatenation and a linear layer. Every block adds attention, then a two-layer
    network, of its normalized input. Sides that no patch divides are padded by zeros, and cut at
    the end. The published time label is 999 t. The published sizes are S, 512 wide with 12 blocks
    beside the one in the middle and 8 heads, the default; M, 768 with 16 and 12; L, 1024 with 20
    and 16; and H, 1152 with 28 and 16. Unlike in the paper, the last layer starts at zero.

    Args:
        event_shape: shape of one example, channels and one to three sides; positions are learned
            for these sides alone.
        width: length of the vectors.
        depth: number of blocks beside the one in the middle, even.
        heads: of attention, a divisor of `width`.
        patch: side of a patch.
        num_classes: number of classes; 0 for a network without condition.
        mlp_ratio: length inside of the two-layer networks, as a multiple of `width`.
        qkv_bias: give queries, keys and values a bias.
        embeds_time: pass the features of the time label through a two-layer network.
        last_convolution: smooth the patches by a convolution of three taps.
        null_class: give "no class" a vector of its own; False has zeros in its place.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes,
            whose embedding is added to the token of the time label; empty for a network without.

    Raises:
        ValueError: for sizes out of range.

    Reference: Bao et al. 2023, https://arxiv.org/abs/2209.12152.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 512,
        depth: int = 12,
        heads: int = 8,
        patch: int = 2,
        num_classes: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        embeds_time: bool = False,
        last_convolution: bool = True,
        null_class: bool = True,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        dims = len(self.event_shape) - 1
        require_count(2, width=width, depth=depth)
        require_count(patch=patch)
        if depth % 2:
            raise ValueError(f"depth={depth} must be even: half of the blocks stand on either side")
        hidden = int(width * mlp_ratio)
        require_memory(
            4 * (depth + 1) * (5 * width**2 + 2 * width * hidden),
            f"a network of {width=}, {depth=}, {mlp_ratio=}",
        )
        channels = self.event_shape[0]
        self.embedding = _Embedding(width, num_classes, embeds_time, null_class, condition_shape)
        self.condition_shape = shape_told(self.embedding)
        self.patches = PatchEmbedding(channels, width, patch, dims)
        count = prod(self.patches.grid(self.event_shape[1:]))
        self.positions = nn.Parameter(torch.zeros(self.embedding.tokens + count, width))
        blocks = [
            _Block(width, heads, hidden, qkv_bias, place > depth // 2) for place in range(depth + 1)
        ]
        self.first = nn.ModuleList(blocks[: depth // 2])
        self.middle = blocks[depth // 2]
        self.second = nn.ModuleList(blocks[depth // 2 + 1 :])
        self.norm = LayerNorm(width, affine=True)
        self.head = nn.Linear(width, patch**dims * channels)
        self.smooth = convolution(dims, channels, channels) if last_convolution else nn.Identity()
        self._draw()
        zero_init(self.smooth if last_convolution else self.head)

    def _draw(self) -> None:
        """Draw the first weights of linear layers and tables as the paper does."""
        nn.init.trunc_normal_(self.positions, std=0.02)
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, *event_shape)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 or None for no class; or a dictionary
                with `label`.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        require_inputs(x, time_label, self.event_shape)
        dtype = self.positions.dtype
        sides = x.shape[2:]
        front = self.embedding(time_label, condition, dtype)
        tokens = torch.cat([front, self.patches(x.to(dtype))], dim=1) + self.positions
        kept = []
        for block in self.first:
            tokens = block(tokens)
            kept.append(tokens)
        tokens = self.middle(tokens)
        for block in self.second:
            tokens = block(tokens, kept.pop())
        drawn = self.head(self.norm(tokens))[:, self.embedding.tokens :]
        image = from_patches(drawn, self.patches.patch, self.patches.grid(sides), sides)
        return self.smooth(image).to(x.dtype)  # type: ignore[no-any-return]


class _Embedding(Embedding):
    """Tokens of the class, where there are classes, and of the time label."""

    def __init__(
        self,
        width: int,
        num_classes: int,
        embeds_time: bool,
        null_class: bool,
        condition_shape: ConditionShape,
    ) -> None:
        super().__init__(width)
        self.vectors = condition_embedding(condition_shape, width, num_classes)
        self.num_classes = num_classes
        self.features = TimeFeatures(width, sine_first=False, shift=0.0)
        self.classes = nn.Embedding(num_classes + null_class, width) if num_classes else None
        self.time = (
            nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            if embeds_time
            else nn.Identity()
        )

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return 1 if self.classes is None else 2

    def forward(self, time_label: Tensor, condition: Condition, dtype: torch.dtype) -> Tensor:
        """The tokens, shape `(batch, tokens, width)`, the time label last."""
        require_noise_level(time_label)
        found = [self.time(self.features.of(time_label).to(dtype))]
        if self.vectors is not None:
            found[0] = found[0] + self.vectors(condition, len(time_label))
        elif self.classes is None:
            refuse_label(condition)
        else:
            label = label_of(condition)
            found.insert(0, class_vectors(self.classes, label, time_label, self.num_classes))
        found[-1] = self.told(found[-1], condition)
        return torch.stack(found, dim=1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, qkv_bias: bool, skips: bool) -> None:
        super().__init__()
        self.skip = nn.Linear(2 * width, width) if skips else None
        self.norm1 = LayerNorm(width, affine=True)
        self.attention = TokenAttention(width, heads, qkv_bias)
        self.norm2 = LayerNorm(width, affine=True)
        self.mlp = FeedForward(width, hidden)

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        if self.skip is not None and kept is not None:
            x = self.skip(torch.cat([x, kept], dim=-1))
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out
