"""Embeddings of the noise level and the class of each example."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sde_score._core.checks import require_count
from sde_score._core.conditions import (
    END,
    INTEGERS,
    NO_CLASS,
    Condition,
    ConditionShape,
    require_labels,
)
from sde_score.nn.blocks.conditions import condition_embedding, label_of, refuse_label

# The noise level is a quarter of log(sigma / alpha), within -4 .. 4. The slowest wave, of period
# 16, tells all levels of -8 .. 8 apart; the fastest, of period 1/2, turns once while sigma / alpha
# grows e^2-fold. What a denoiser does changes over about one e-fold, so faster waves would add
# nothing but roughness between the levels seen in training.
LARGEST_LEVEL = 8.0
_SLOWEST, _FASTEST, _WAVES = math.pi / LARGEST_LEVEL, math.tau * 2, 16


def fourier_features(noise_level: Tensor) -> Tensor:
    r"""Cosines and sines of the noise level at 16 frequencies, evenly spaced in their logarithm.

    .. math:: (\cos \omega_k c, \sin \omega_k c), \quad \omega_k = 2^{k/3} \, 2 \pi / 16, \quad
              k = 0 \ldots 15

    The frequencies are fixed and made where they are used: nothing is drawn at random, stored with
    the weights, or rounded when the network is cast to half precision.

    Args:
        noise_level: shape `(batch,)`.

    Returns:
        Shape `(batch, 32)`, in the dtype of `noise_level` and in float32 at least.
    """
    dtype = torch.promote_types(noise_level.dtype, torch.float32)
    first, last = math.log2(_SLOWEST), math.log2(_FASTEST)
    frequencies = torch.logspace(
        first, last, _WAVES, base=2.0, dtype=dtype, device=noise_level.device
    )
    angles = noise_level.to(dtype)[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def require_noise_level(noise_level: Tensor) -> None:
    """Refuse anything but one number per example; an integer is the index of a noise level.

    Raises:
        TypeError: if `noise_level` is not a tensor of numbers.
        ValueError: if its shape is not `(batch,)`.
    """
    known = isinstance(noise_level, Tensor) and (
        noise_level.is_floating_point() or noise_level.dtype in INTEGERS
    )
    if not known:
        what = noise_level.dtype if isinstance(noise_level, Tensor) else type(noise_level).__name__
        raise TypeError(f"noise_level must be a floating-point tensor, got {what}")
    if noise_level.ndim != 1:
        raise ValueError(
            f"noise_level of shape {tuple(noise_level.shape)} must have one entry per example, "
            "shape (batch,): try noise_level.expand(x.shape[0])"
        )


class EndEmbedding(nn.Module):
    """The noise level at which a flow map ends, added to the vector of the one it starts from.

    A two-layer network of its Fourier features and that vector, whose last layer starts at zero:
    a trained network answers as before until it is trained on.

    Args:
        channels: length of the vector.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Linear(2 * _WAVES + channels, channels)
        self.second = nn.Linear(channels, channels)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, vector: Tensor, condition: Condition) -> Tensor:
        """The vector `(batch, channels)` with the end, which the condition has under
        `end_noise_level`.

        Raises:
            ValueError: for a condition without it.
        """
        end = condition.get(END) if isinstance(condition, Mapping) else None
        if end is None:
            raise ValueError(
                "this network is told two noise levels, and the condition has no entry "
                f"{END!r}: make a model of it by FlowMap(network, sde)"
            )
        told = torch.cat([fourier_features(end).to(vector), vector], dim=1)
        change: Tensor = self.second(F.silu(self.first(told)))
        return vector + change


class Embedding(nn.Module):
    """The base of embeddings of the noise level, which `sde_score.nn.tell_end` tells a second one.

    Args:
        width: length of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.end: EndEmbedding | None = None

    def told(self, vector: Tensor, condition: Condition) -> Tensor:
        """The vector `(batch, width)`, with the end where there is one; the last step of forward.

        Raises:
            ValueError: for a condition without an end that is needed.
        """
        return vector if self.end is None else self.end(vector, condition)


class NoiseEmbedding(Embedding):
    """The noise level, and the class, of each example as a vector.

    Fourier features of the noise level go through a two-layer network; the vector of the class is
    added to what comes out. The sum has passed a SiLU already, so that a block needs only one
    linear layer to read it.

    Args:
        channels: length of the vector, at least 1.
        num_classes: number of classes; 0 for a network without labels.
        condition_shape: of a vector `(n,)` that is the condition, or a dictionary of such and of
            numbers of classes; empty for a network without.

    Raises:
        ValueError: for counts that are not integers in range, or both kinds of conditions.
    """

    def __init__(
        self, channels: int, num_classes: int = 0, condition_shape: ConditionShape = ()
    ) -> None:
        require_count(channels=channels)
        require_count(0, num_classes=num_classes)
        super().__init__(channels)
        self.num_classes = num_classes
        self.first = nn.Linear(2 * _WAVES, channels)
        self.second = nn.Linear(channels, channels)
        self.classes = nn.Embedding(num_classes, channels) if num_classes else None
        self.vectors = condition_embedding(condition_shape, channels, num_classes)

    def forward(self, noise_level: Tensor, condition: Condition = None) -> Tensor:
        """Embed a batch of noise levels and, where there are classes, of labels.

        Args:
            noise_level: a quarter of log(sigma / alpha), within -4 .. 4, shape `(batch,)`.
            condition: labels `0 ... num_classes - 1`, or -1 for "no class", integers of shape
                `(batch,)`; or vectors of shape `(batch, n)`, with NaN for "none"; or a dictionary.
                None means no condition for the whole batch.

        Returns:
            Shape `(batch, channels)`.

        Raises:
            TypeError: if the noise level is not floating-point or the labels are no integers.
            ValueError: for a wrong shape, labels out of range (looked at on the CPU only: a look at
                a GPU would stall it), or labels given to a network without classes.
        """
        require_noise_level(noise_level)
        features = fourier_features(noise_level).to(self.first.weight.dtype)
        hidden: Tensor = self.second(F.silu(self.first(features)))
        if self.classes is not None:
            labels = torch.full_like(noise_level, NO_CLASS, dtype=torch.int64)
            if (given := label_of(condition)) is not None:
                labels = require_labels(given, len(noise_level), self.num_classes)
            # Looked up even when no example has a class, so that every process of a distributed run
            # has a gradient for the table.
            known = (labels != NO_CLASS)[:, None]
            hidden = hidden + self.classes(labels.clamp(min=0)) * known
        elif self.vectors is not None:
            hidden = hidden + self.vectors(condition, len(noise_level))
        else:
            refuse_label(condition)
        return self.told(F.silu(hidden), condition)
