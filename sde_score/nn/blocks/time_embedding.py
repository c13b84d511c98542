r"""Embeddings of the time label as published networks have them, with the class beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_choice, require_count, require_positive
from sde_score._core.conditions import NO_CLASS, Condition, ConditionShape, require_labels
from sde_score.nn.blocks.conditions import condition_embedding, label_of, refuse_label
from sde_score.nn.blocks.embeddings import Embedding, require_noise_level

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": F.gelu}


@dataclass(frozen=True)
class TimeFeatures:
    r"""Sines and cosines of a time label c.

    .. math:: (\sin \omega_k c, \cos \omega_k c), \qquad
              \omega_k = 10000^{-k / (K - s)} \quad \text{or} \quad \omega_k = 2 \pi W_k

    for k = 0 ... K - 1: the fixed frequencies of transformers, or random ones, drawn once as
    normal numbers times `scale` and saved with the weights.

    Args:
        channels: number of features, 2 K; an odd number ends with a zero, or begins with the label.
        embedding: `"positional"` or `"fourier"`.
        sine_first: the sines in front, as DDPM and NCSN++ have them; False the cosines, as ADM.
        shift: s, 1 where the slowest frequency is 1 / 10000 (DDPM) and 0 for ADM.
        scale: of the random frequencies.
        theta: the base of the fixed frequencies, 10000 in the formula.
        label_first: put the label itself in front, which makes 2 K + 1 features.
        learned: train the random frequencies with the rest.

    Reference: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Tancik et al. 2020,
    https://arxiv.org/abs/2006.10739.
    """

    channels: int
    embedding: str = "positional"
    sine_first: bool = True
    shift: float = 1.0
    scale: float = 16.0
    theta: float = 10000.0
    label_first: bool = False
    learned: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require_count(2, channels=self.channels)
        require_choice("embedding", self.embedding, ("positional", "fourier"))
        require_positive(theta=self.theta)

    def frequencies(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The fixed frequencies, shape `(K,)`."""
        half = self.channels // 2
        steps = torch.arange(half, dtype=dtype, device=device)
        return torch.exp(steps * (-math.log(self.theta) / (half - self.shift)))

    def draw(self) -> Tensor:
        """Random frequencies W, shape `(K,)`, by torch's global generator."""
        return torch.randn(self.channels // 2) * self.scale

    def of(self, time_label: Tensor, W: Tensor | None = None) -> Tensor:
        """Features, shape `(batch, channels)`, in the dtype of the labels and float32 at least.

        Args:
            time_label: shape `(batch,)`.
            W: random frequencies, for `"fourier"`.
        """
        dtype = torch.promote_types(time_label.dtype, torch.float32)
        label = time_label.to(dtype)[:, None]
        if W is None:
            angles = label * self.frequencies(dtype, label.device)
        else:
            angles = label * W.to(dtype) * math.tau
        waves = (angles.sin(), angles.cos()) if self.sine_first else (angles.cos(), angles.sin())
        out = torch.cat([label, *waves] if self.label_first else waves, dim=1)
        return F.pad(out, (0, 1)) if self.channels > out.shape[1] else out


def class_vectors(
    table: nn.Embedding, label: Tensor | None, time_label: Tensor, num_classes: int
) -> Tensor:
    """The vector of each example's class, shape `(batch, channels)`.

    An example without a class has the row behind the last class if the table has one, else zero.

    Args:
        table: one row per class, or one more.
        label: int64 of shape `(batch,)`, -1 for no class; None for none at all.
        time_label: shape `(batch,)`.
        num_classes: number of classes.
    """
    if label is None:
        label = torch.full_like(time_label, NO_CLASS, dtype=torch.int64)
    label = require_labels(label, len(time_label), num_classes)
    # Looked up even when no example has a class, so that every process of a distributed run
    # has a gradient for the table.
    if table.num_embeddings > num_classes:
        found: Tensor = table(torch.where(label < 0, num_classes, label))
        return found
    known: Tensor = table(label.clamp(min=0)) * (label >= 0)[:, None]
    return known


class TimeEmbedding(Embedding):
    """The time label, and the condition, of each example as a vector that has passed an activation.

    Features of the label go through a two-layer network. The vector of the class is added to the
    features, or to what comes out; augmentation labels, of EDM, are added to the features.

    Args:
        features: of the time label.
        channels: length of the vector.
        num_classes: number of classes; 0 for a network without condition.
        class_first: add the class to the features instead of the output.
        num_augment: number of augmentation labels.
        class_scale: factor on the vectors of classes.
        class_bias: a vector added whether there is a class or not, as a linear layer of EDM has it.
        null_class: give "no class" a vector of its own, as DiT; False leaves it out of the sum.
        activation: between the layers, `"silu"` or `"gelu"`.
        last: activation of what comes out, likewise.
        condition_shape: of a vector `(n,)`, or a dictionary of such and of numbers of classes,
            added to what comes out; empty for none.
    """

    W: Tensor

    def __init__(
        self,
        features: TimeFeatures,
        channels: int,
        num_classes: int = 0,
        class_first: bool = False,
        num_augment: int = 0,
        class_scale: float = 1.0,
        class_bias: bool = False,
        null_class: bool = False,
        activation: str = "silu",
        last: str = "silu",
        condition_shape: ConditionShape = (),
    ) -> None:
        require_count(channels=channels)
        super().__init__(channels)
        require_count(0, num_augment=num_augment)
        self.vectors = condition_embedding(condition_shape, channels, num_classes)
        require_choice("activation", activation, tuple(_ACTIVATIONS))
        require_choice("last", last, tuple(_ACTIVATIONS))
        self.activation, self.last = _ACTIVATIONS[activation], _ACTIVATIONS[last]
        self.features = features
        self.num_classes = num_classes
        self.class_first = class_first
        self.class_scale = class_scale
        if features.embedding == "fourier":
            if features.learned:
                self.W = nn.Parameter(features.draw())
            else:
                self.register_buffer("W", features.draw())
        self.first = nn.Linear(features.channels, channels)
        self.second = nn.Linear(channels, channels)
        width = features.channels if class_first else channels
        rows = num_classes + null_class
        self.classes = nn.Embedding(rows, width) if num_classes else None
        self.class_bias = nn.Parameter(torch.zeros(width)) if class_bias and num_classes else None
        self.augment = (
            nn.Linear(num_augment, features.channels, bias=False) if num_augment else None
        )

    def forward(self, time_label: Tensor, condition: Condition = None) -> Tensor:
        """Embed a batch of time labels and, where there are classes, of labels.

        Args:
            time_label: shape `(batch,)`.
            condition: labels, int64 of shape `(batch,)`, -1 or None for no class; or a dictionary
                with `label` and, for networks that were trained with augmentation, `augment` of
                shape `(batch, num_augment)`; or what `condition_shape` declares.

        Returns:
            Shape `(batch, channels)`.
        """
        require_noise_level(time_label)
        augment = condition.get("augment") if isinstance(condition, Mapping) else None
        W = self.W if self.features.embedding == "fourier" else None
        features = self.features.of(time_label, W).to(self.first.weight.dtype)
        known = self._classes(condition, time_label)
        if self.class_first and known is not None:
            features = features + known
        if augment is not None:
            if self.augment is None:
                raise ValueError(
                    "condition has 'augment', but the network was made without augmentation labels"
                )
            features = features + self.augment(augment.to(features))
        hidden: Tensor = self.second(self.activation(self.first(features)))
        if not self.class_first and known is not None:
            hidden = hidden + known
        if self.vectors is not None:
            hidden = hidden + self.vectors(condition, len(time_label))
        return self.told(self.last(hidden), condition)

    def _classes(self, condition: Condition, time_label: Tensor) -> Tensor | None:
        if self.classes is None:
            if self.vectors is None:
                refuse_label(condition)
            return None
        known = class_vectors(self.classes, label_of(condition), time_label, self.num_classes)
        known = known if self.class_scale == 1 else known * self.class_scale
        return known if self.class_bias is None else known + self.class_bias
