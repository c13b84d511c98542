r"""The diffusion transformer, DiT."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, ConditionShape
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import SignalNetwork, require_sides, require_signal
from sde_score.nn.blocks.time_embedding import TimeEmbedding, TimeFeatures
from sde_score.nn.blocks.tokens import (
    AdaptiveBlock,
    AdaptiveHead,
    PatchEmbedding,
    draw_linear,
    from_patches,
    grid_waves,
)


class DiT(SignalNetwork):
    r"""A transformer over patches, whose normalizations the time label and the class control.

    Each block adds attention, then a two-layer network, of its normalized input:

    .. math:: x \leftarrow x + g \, f(\mathrm{LN}(x) (1 + s) + b)

    with s, b and g linear in the embedding and zero in a new network (adaLN-zero), which therefore
    begins as the identity, with a last layer of zeros. It takes signals of one to three sides and
    of any size; sides that no patch divides are padded by zeros, and cut at the end. The published
    time label is the index of the layer, 0 ... 999. The published sizes are S, 384 wide with 12
    blocks and 6 heads, the default; B, 768 with 12 and 12; L, 1024 with 24 and 16; and XL, 1152
    with 28 and 16.

    Args:
        event_shape: shape of one example, channels and one to three sides.
        width: length of the vectors, a multiple of twice the number of sides.
        depth: number of blocks.
        heads: of attention, a divisor of `width`.
        patch: side of a patch.
        num_classes: number of classes; 0 for a network without condition.
        mlp_ratio: length inside of the two-layer networks, as a multiple of `width`.
        learned_variance: answer with twice the channels in `everything`.
        null_class: give "no class" a vector of its own; False leaves it out of the sum.
        features: number of features of the time label.
        shift: see `TimeFeatures`.
        eps: of the normalizations in front of the two-layer networks; of the others it is 1e-6.
        shared_embedding: one embedding of time label and class for all blocks; False gives each
            block its own, as diffusers stores them.
        rounded_positions: round the positions to float32, as the files of the authors hold them.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range.

    Reference: Peebles & Xie 2023, https://arxiv.org/abs/2212.09748.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        num_classes: int = 0,
        mlp_ratio: float = 4.0,
        learned_variance: bool = False,
        null_class: bool = True,
        features: int = 256,
        shift: float = 0.0,
        eps: float = 1e-6,
        shared_embedding: bool = True,
        rounded_positions: bool = False,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        dims = len(self.event_shape) - 1
        require_count(width=width, depth=depth, patch=patch)
        if width % (2 * dims):
            raise ValueError(
                f"width={width} must be a multiple of {2 * dims}: the positions along {dims} sides "
                "have a sine and a cosine each"
            )
        hidden = int(width * mlp_ratio)
        require_memory(
            4 * depth * (10 * width**2 + 2 * width * hidden),
            f"a network of {width=}, {depth=}, {mlp_ratio=}",
        )
        channels = self.event_shape[0]
        self.out_channels = 2 * channels if learned_variance else channels
        self.rounded_positions = rounded_positions

        def embedding() -> TimeEmbedding:
            waves = TimeFeatures(features, sine_first=False, shift=shift)
            made = TimeEmbedding(
                waves, width, num_classes, null_class=null_class, condition_shape=condition_shape
            )
            for name, parameter in made.named_parameters():
                drawn = name.endswith("weight")
                nn.init.normal_(parameter, std=0.02) if drawn else nn.init.zeros_(parameter)
            return made

        self.patches = PatchEmbedding(channels, width, patch, dims)
        draw_linear(*self.patches.conv.parameters())
        self.embedding = embedding()
        self.blocks = nn.ModuleList(AdaptiveBlock(width, heads, hidden, eps) for _ in range(depth))
        self.embeddings = nn.ModuleList(
            embedding() for _ in range(0 if shared_embedding else depth - 1)
        )
        self.head = AdaptiveHead(width, nn.Linear(width, patch**dims * self.out_channels))

    @override
    def everything(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """All `out_channels` of the answer, such as a learned variance behind the mean."""
        require_signal(x, time_label, self.event_shape)
        dtype = self.embedding.first.weight.dtype
        sides = x.shape[2:]
        grid = self.patches.grid(sides)
        tokens = self.patches(x.to(dtype))
        kept = torch.float32 if self.rounded_positions else torch.float64
        tokens = tokens + grid_waves(grid, tokens.shape[-1], x.device, kept).to(tokens.dtype)
        first = embedding = self.embedding(time_label, condition)
        for place, block in enumerate(self.blocks):
            if place and len(self.embeddings):
                embedding = self.embeddings[place - 1](time_label, condition)
            tokens = block(tokens, embedding)
        return from_patches(self.head(tokens, first), self.patches.patch, grid, sides).to(x.dtype)
