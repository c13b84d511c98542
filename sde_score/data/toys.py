"""Two-dimensional toy data of known distributions.

Each is centered and divided by a constant from its closed form, so that the *distribution* (not the
sample) has mean 0 and a variance that averages 1 over the two dimensions. They are in model range
already: the scaling is the identity.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sde_score._core.checks import require_count, require_integer
from sde_score._core.memory import require_memory
from sde_score.data.dataset import DataSet
from sde_score.data.tensors import from_tensor
from sde_score.random import generator_from
from sde_score.scaling import Scaling

_RING_NOISE = 0.05
_BLOB_NOISE = 0.1
_MOON_NOISE = 0.05
_SPIRAL_NOISE = 0.2
_SPIRAL_END = 3 * math.pi


def ring(n: int = 10_000, seed: int = 0) -> DataSet:
    """Circle of radius 1 whose radius carries normal noise of 0.05, before scaling."""
    draw = _generator(n, seed)
    angle, radius = 2 * math.pi * _uniform(n, draw), 1 + _RING_NOISE * _normal(n, draw)
    # E|x|^2 = 1 + noise^2 is shared by two dimensions.
    return _toy("ring", _polar(radius, angle), variance=(1 + _RING_NOISE**2) / 2)


def gaussians(n: int = 10_000, seed: int = 0) -> DataSet:
    """Eight normal blobs of deviation 0.1 on the unit circle before scaling, labeled."""
    draw = _generator(n, seed)
    label = _choice(n, 8, draw)
    center = _polar(torch.ones(n, dtype=torch.float64), label * (math.pi / 4))
    x = center + _BLOB_NOISE * _normal((n, 2), draw)
    return _toy("gaussians", x, variance=0.5 + _BLOB_NOISE**2, labels=label)


def moons(n: int = 10_000, seed: int = 0) -> DataSet:
    """Two interleaved unit half circles with noise of 0.05 before scaling, labeled."""
    draw = _generator(n, seed)
    label = _choice(n, 2, draw)
    arc = _polar(torch.ones(n, dtype=torch.float64), math.pi * _uniform(n, draw))
    other = torch.tensor([1.0, 0.5], dtype=torch.float64) - arc
    x = torch.where(label[:, None] == 0, arc, other) + _MOON_NOISE * _normal((n, 2), draw)
    x = x - torch.tensor([0.5, 0.25], dtype=torch.float64)
    # The variances are 3/4 and 9/16 - 1/pi, plus noise.
    variance = (0.75 + 0.5625 - 1 / math.pi) / 2 + _MOON_NOISE**2
    return _toy("moons", x, variance=variance, labels=label)


def checkerboard(n: int = 10_000, seed: int = 0) -> DataSet:
    """The eight dark unit squares of a 4 x 4 board over [-2, 2]^2, before scaling."""
    draw = _generator(n, seed)
    column, half = _choice(n, 4, draw), _choice(n, 2, draw)
    corner = torch.stack([column, 2 * half + column % 2], dim=1)
    x = corner + torch.rand((n, 2), generator=draw, dtype=torch.float64) - 2
    # Each coordinate is uniform on [-2, 2].
    return _toy("checkerboard", x, variance=16 / 12)


def spirals(n: int = 10_000, seed: int = 0) -> DataSet:
    """Two arms `r = angle`, 1.5 turns, with noise of 0.2 before scaling, labeled."""
    draw = _generator(n, seed)
    label = _choice(n, 2, draw)
    angle = _SPIRAL_END * _uniform(n, draw).sqrt()
    x = _polar(angle, angle + math.pi * label) + _SPIRAL_NOISE * _normal((n, 2), draw)
    # E r^2 = end^2 / 2 is shared by two dimensions.
    return _toy("spirals", x, variance=_SPIRAL_END**2 / 4 + _SPIRAL_NOISE**2, labels=label)


def _toy(name: str, x: Tensor, variance: float, labels: Tensor | None = None) -> DataSet:
    return from_tensor((x / math.sqrt(variance)).float(), labels, Scaling(), name=name)


def _generator(n: int, seed: int) -> Generator:
    require_count(n=n)
    require_integer(seed=seed)
    require_memory(100 * n, f"n={n}")
    return generator_from(seed)


def _uniform(n: int, draw: Generator) -> Tensor:
    return torch.rand(n, generator=draw, dtype=torch.float64)


def _normal(shape: int | tuple[int, ...], draw: Generator) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def _choice(n: int, classes: int, draw: Generator) -> Tensor:
    return torch.randint(classes, (n,), generator=draw)


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
