"""A small network whose inner activations serve as features, trained or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor, nn

from sde_score._core.arguments import check_fields
from sde_score.data import is_image
from sde_score.nn.blocks.group_norm import GroupNorm
from sde_score.random import initializing

FEATURES = 64
_HIDDEN = 128  # of the network for vectors
_CHANNELS = (32, 64)  # first, and largest
_SMALLEST_SIDE = 4


class FeatureNetwork(nn.Module):
    """Convolutions for images, dense layers for anything else, then a linear classifier.

    Images are halved, by convolutions of stride 2, until the shorter side is 4 or less; the rest
    is mapped to 64 features.

    Args:
        event_shape: shape of one example.
        num_classes: number of classes.
    """

    def __init__(self, event_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.event_shape, self.num_classes = tuple(event_shape), num_classes
        layers = _convolutions if is_image(event_shape) else _dense
        self.body = nn.Sequential(*layers(event_shape), nn.SiLU())
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Features of a batch `(n, *event_shape)`, from before the classifier: shape `(n, 64)`.

        Raises:
            ValueError: if the examples have another shape.
        """
        if tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"x has examples of shape {tuple(x.shape[1:])}, this extractor takes "
                f"{self.event_shape}"
            )
        found: Tensor = self.body(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes, shape `(n, num_classes)`."""
        logits: Tensor = self.head(self.features(x))
        return logits


def _convolutions(event_shape: Sequence[int]) -> list[nn.Module]:
    channels, height, width = event_shape
    now, most = _CHANNELS
    layers: list[nn.Module] = [nn.Conv2d(channels, now, 3, padding=1), GroupNorm(now), nn.SiLU()]
    for _ in range(min(height, width).bit_length()):
        if min(height, width) <= _SMALLEST_SIDE:
            break
        after = min(2 * now, most)
        layers += [nn.Conv2d(now, after, 3, stride=2, padding=1), GroupNorm(after), nn.SiLU()]
        now, height, width = after, -(-height // 2), -(-width // 2)
    return [*layers, nn.Flatten(), nn.Linear(now * height * width, FEATURES)]


def _dense(event_shape: Sequence[int]) -> list[nn.Module]:
    first, second = nn.Linear(prod(event_shape), _HIDDEN), nn.Linear(_HIDDEN, FEATURES)
    return [nn.Flatten(), first, nn.SiLU(), second]


def seeded_network(event_shape: Sequence[int], num_classes: int, seed: int) -> FeatureNetwork:
    """An untrained network, a function of the arguments alone; the global generator is kept."""
    with initializing(seed):
        return FeatureNetwork(event_shape, num_classes)


@lru_cache(maxsize=8)
def _frozen_network(event_shape: tuple[int, ...], seed: int) -> FeatureNetwork:
    return seeded_network(event_shape, 1, seed).eval().requires_grad_(False)


@dataclass(frozen=True)
class RandomConvolution:
    """Features of images by a network with random weights that was never trained.

    It sees local structure but no meaning: for images without labels.

    Args:
        seed: random seed of the weights; figures of different seeds cannot be compared.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def name(self) -> str:
        """The name, with the seed."""
        return f"random-convolution(seed={self.seed})"

    def __call__(self, x: Tensor) -> Tensor:
        """Features of images `(n, channels, height, width)`: shape `(n, 64)`, on the CPU.

        Raises:
            ValueError: if `x` does not hold images of at least 4 x 4.
        """
        event_shape = tuple(x.shape[1:])
        if not is_image(event_shape):
            raise ValueError(
                f"x has examples of shape {event_shape}, random-convolution takes images "
                "(channels, height, width) of at least 4 x 4: try 'pixels'"
            )
        return _frozen_network(event_shape, self.seed).features(x.to("cpu", torch.float32))
