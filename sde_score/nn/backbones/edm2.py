r"""The magnitude-preserving U-Net of EDM2.

Every layer keeps the expected size of its input: weights are of unit norm, sums and concatenations
are divided by what they add, and there are no biases and no learned normalizations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import checked, naming_arguments
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, ConditionShape, require_labels
from sde_score._core.memory import require_memory
from sde_score.nn.backbones.base import require_sides, require_signal, shape_told
from sde_score.nn.blocks.conditions import condition_embedding, label_of, refuse_label
from sde_score.nn.blocks.dropout import Dropout, require_dropout
from sde_score.nn.blocks.embeddings import Embedding, require_noise_level
from sde_score.nn.blocks.magnitude import (
    MPFourier,
    MPLayer,
    mp_cat,
    mp_silu,
    mp_sum,
    unit_size,
)
from sde_score.nn.blocks.resampling import Downsample, Upsample


class EDM2(nn.Module):
    r"""A U-Net whose layers keep the size of what passes them.

    Weights are used at unit norm, and in training they are also set to it before every evaluation,
    so that steps of an optimizer turn them instead of making them longer. Inside a transform of
    `torch.func`, which forbids that, they are used at unit norm alone. It takes signals of one to
    three sides and of any size; its time label is log(sigma) / 4. The published widths are
    (1, 2, 3, 4) times 128 (XS), 192 (S, the default), 256 (M), 320 (L), 384 (XL) and 448 (XXL).

    Args:
        event_shape: shape of one example, channels and one to three sides.
        widths: channels of each level, finest first.
        blocks: residual blocks per level on the way down; the way up has one more.
        attention: resolutions (shorter side) where attention follows every block.
        num_classes: number of classes; 0 for a network without condition.
        head_channels: channels of a head of attention.
        dropout: probability of dropping a hidden number in training, in [0, 1); 0.1 from M upward.
        noise_features: number of features of the time label; None for the finest width.
        embedding_width: length of the embedding; None for the largest width.
        label_balance: share of the class in its sum with the time label.
        residual_balance: share of a block in its sum with its input.
        attention_balance: share of attention in its sum with its input.
        concat_balance: share of what comes from the way down in a concatenation.
        clip: bound on everything that leaves a block.
        variance_features: number of features of the head `log_variance`, 128 in the paper; 0 for
            no head.
        condition_shape: of a vector, `(n,)`, or a dictionary of such and of numbers of classes;
            empty for a network without.

    Raises:
        ValueError: for sizes out of range.

    Reference: Karras et al. 2024, https://arxiv.org/abs/2312.02696, appendix B.
    """

    @naming_arguments
    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        widths: Sequence[int] = (192, 384, 576, 768),
        blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        num_classes: int = 0,
        head_channels: int = 64,
        dropout: float = 0.0,
        noise_features: int | None = None,
        embedding_width: int | None = None,
        label_balance: float = 0.5,
        residual_balance: float = 0.3,
        attention_balance: float = 0.3,
        concat_balance: float = 0.5,
        clip: float = 256.0,
        variance_features: int = 0,
        condition_shape: ConditionShape = (),
    ) -> None:
        super().__init__()
        self.event_shape = require_sides(event_shape)
        dims = len(self.event_shape) - 1
        require_dropout(dropout)
        require_count(levels=len(widths), blocks=blocks, head_channels=head_channels)
        require_count(0, variance_features=variance_features)
        for width in widths:
            require_count(width=width)
        require_memory(
            4 * sum(24 * 3**dims * blocks * width**2 for width in widths),
            f"a network of {widths=}, {blocks=}",
        )
        self.concat_balance = concat_balance
        width = max(widths) if embedding_width is None else embedding_width
        self.embedding = _Embedding(
            widths[0] if noise_features is None else noise_features,
            width,
            num_classes,
            label_balance,
            condition_shape,
        )
        self.condition_shape = shape_told(self.embedding)
        style = _Style(
            dims, width, head_channels, dropout, residual_balance, attention_balance, clip
        )
        sides = [min(self.event_shape[1:])]
        for _ in widths[1:]:
            sides.append((sides[-1] + 1) // 2)
        attends = [side in attention for side in sides]
        self._build(widths, blocks, attends, style)
        self.gain = nn.Parameter(torch.zeros(()))
        self.variance_features = MPFourier(variance_features) if variance_features else None
        self.variance = MPLayer(variance_features, 1) if variance_features else None

    def _build(
        self, widths: Sequence[int], blocks: int, attends: Sequence[bool], style: _Style
    ) -> None:
        dims, channels = style.dims, self.event_shape[0]
        self.stem = MPLayer(channels + 1, widths[0], 3, dims)
        width, kept = widths[0], [widths[0]]
        encoder: list[_Block] = []
        for level, out in enumerate(widths):
            if level:
                encoder.append(_Block(width, width, style, down=True, resample="down"))
                kept.append(width)
            for _ in range(blocks):
                encoder.append(_Block(width, out, style, down=True, attends=attends[level]))
                width = out
                kept.append(width)
        self.middle = nn.ModuleList(
            _Block(width, width, style, attends=place == 0) for place in range(2)
        )
        decoder: list[_Block] = []
        for level, out in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                decoder.append(_Block(width, width, style, resample="up"))
            for _ in range(blocks + 1):
                decoder.append(_Block(width + kept.pop(), out, style, attends=attends[level]))
                width = out
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.head = MPLayer(width, channels, 3, dims)

    def forward(self, x: Tensor, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Map a noisy batch to a batch of the same shape.

        Args:
            x: shape `(batch, channels, ...)`; cast to the dtype of the weights and back.
            time_label: shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 or None for no class; or a dictionary
                with `label`.

        Raises:
            TypeError: for tensors of the wrong kind.
            ValueError: for shapes or labels that do not fit.
        """
        require_signal(x, time_label, self.event_shape)
        if self.training and not torch._C._are_functorch_transforms_active():
            self.normalize_weights()
        embedding = self.embedding(time_label, condition)
        dtype, x = x.dtype, x.to(self.stem.weight.dtype)
        hidden = self.stem(torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        kept = [hidden]
        for block in self.encoder:
            hidden = block(hidden, embedding)
            kept.append(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for block in self.decoder:
            if block.up is None:
                hidden = mp_cat(hidden, kept.pop(), self.concat_balance)
                hidden = block(hidden, embedding)
            else:
                hidden = block(hidden, embedding, kept[-1].shape[2:])
        return self.head(hidden, self.gain).to(dtype)  # type: ignore[no-any-return]

    def log_variance(self, time_label: Tensor) -> Tensor:
        r"""The logarithm u of the squared error that training expects, shape `(batch,)`.

        Its loss is :math:`e^{-u} \ell + u`, with the weighted squared error l of an example.

        Args:
            time_label: shape `(batch,)`.

        Raises:
            ValueError: for a network without `variance_features`.
        """
        if self.variance is None or self.variance_features is None:
            raise ValueError(
                "the network has no head for the variance: build it with variance_features=128"
            )
        require_noise_level(time_label)
        features = self.variance_features(time_label).to(self.variance.weight.dtype)
        return self.variance(features)[:, 0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def normalize_weights(self) -> None:
        """Set all weights to the norm at which they are used."""
        for module in self.modules():
            if isinstance(module, MPLayer):
                module.normalize_weight()


@dataclass(frozen=True)
class _Style:
    """What all blocks of a network have in common."""

    dims: int
    embedding: int
    head_channels: int
    dropout: float
    residual_balance: float
    attention_balance: float
    clip: float


class _Embedding(Embedding):
    """The time label and the class of each example as a vector."""

    def __init__(
        self,
        features: int,
        width: int,
        num_classes: int,
        balance: float,
        condition_shape: ConditionShape,
    ) -> None:
        require_count(noise_features=features, embedding_width=width)
        super().__init__(width)
        self.vectors = condition_embedding(condition_shape, width, num_classes)
        self.num_classes = num_classes
        self.balance = balance
        self.features = MPFourier(features)
        self.noise = MPLayer(features, width)
        self.classes = MPLayer(num_classes, width) if num_classes else None

    def forward(self, time_label: Tensor, condition: Condition) -> Tensor:
        """Embed a batch, shape `(batch, width)`."""
        return self.told(self._vector(time_label, condition), condition)

    def _vector(self, time_label: Tensor, condition: Condition) -> Tensor:
        require_noise_level(time_label)
        out: Tensor = self.noise(self.features(time_label).to(self.noise.weight.dtype))
        if self.vectors is not None:
            return mp_silu(mp_sum(out, self.vectors(condition, len(out)), self.balance))
        if self.classes is None:
            refuse_label(condition)
            return mp_silu(out)
        if (label := label_of(condition)) is None:
            label = torch.full_like(time_label, -1, dtype=torch.int64)
        label = require_labels(label, len(out), self.num_classes)
        # The layer of a vector that has sqrt(n) for one class and 0 for the n - 1 others.
        table = self.classes.used(self.num_classes**0.5).mT
        known = F.embedding(label.clamp(min=0), table) * (label >= 0)[:, None]
        return mp_silu(mp_sum(out, known, self.balance))


class _Block(nn.Module):
    """A residual block, with attention behind it where the channels have heads."""

    def __init__(
        self,
        channels: int,
        out: int,
        style: _Style,
        down: bool = False,
        resample: str | None = None,
        attends: bool = False,
    ) -> None:
        super().__init__()
        dims = style.dims
        self.style = style
        self.on_the_way_down = down
        self.down = Downsample(dims) if resample == "down" else None
        self.up = Upsample(dims) if resample == "up" else None
        self.skip = MPLayer(channels, out, 1, dims) if channels != out else None
        self.conv1 = MPLayer(out if down else channels, out, 3, dims)
        self.condition = MPLayer(style.embedding, out)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = Dropout(style.dropout)
        self.conv2 = MPLayer(out, out, 3, dims)
        self.heads = max(1, out // style.head_channels) if attends else 0
        if attends and out % self.heads:
            raise ValueError(f"head_channels={style.head_channels} must divide the width {out}")
        self.qkv = MPLayer(out, 3 * out) if attends else None
        self.out = MPLayer(out, out) if attends else None

    def forward(self, x: Tensor, embedding: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Map x, shape `(batch, channels, ...)`; a block that doubles cuts to `size`."""
        style = self.style
        x = x if self.down is None else self.down(x)
        x = x if self.up is None else self.up(x, size)
        if self.on_the_way_down:
            x = unit_size(x if self.skip is None else self.skip(x), (1,))
        hidden = self.conv1(mp_silu(x))
        scale = self.condition(embedding, self.gain) + 1
        hidden = mp_silu(hidden * scale.reshape(*scale.shape, *(1,) * style.dims))
        hidden = self.conv2(self.dropout(hidden))
        if not self.on_the_way_down and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, hidden, style.residual_balance)
        if self.qkv is not None and self.out is not None:
            x = mp_sum(x, self._attend(x, self.qkv, self.out), style.attention_balance)
        return x.clamp(-style.clip, style.clip)

    def _attend(self, x: Tensor, qkv: MPLayer, out: MPLayer) -> Tensor:
        tokens = x.flatten(2).mT
        parts = qkv(tokens).unflatten(-1, (3, self.heads, -1))
        q, k, v = unit_size(parts, (-1,)).permute(2, 0, 3, 1, 4)
        # Written out: fused attention has neither second derivatives nor forward-mode ones.
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(dim=-1)
        found = (weights @ v).transpose(1, 2).flatten(2)
        change: Tensor = out(found)
        return change.mT.reshape(x.shape)
