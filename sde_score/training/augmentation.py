"""Augmentation: examples changed at random as they are trained on, a function of seed and step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_nonnegative
from sde_score._core.registry import Registry
from sde_score.random import Draws, normal, uniform


@runtime_checkable
class Augmentation(Protocol):
    """A random change of a batch."""

    @property
    def num_labels(self) -> int:
        """Labels for each example that tell the network what was done; 0 for none."""
        ...

    def __call__(self, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor | None]:
        """The batch, changed, and its labels `(batch, num_labels)`.

        Args:
            x0: examples `(batch, *event)`, on any device.
            generator: source of all randomness.
        """
        ...


@dataclass(frozen=True)
class NoAugmentation:
    """The examples as they are."""

    num_labels = 0

    def __call__(self, x0: Tensor, generator: Draws) -> tuple[Tensor, None]:
        """The batch itself."""
        return x0, None


@dataclass(frozen=True)
class Flip:
    """Images left to right with probability one half; the model learns both."""

    num_labels = 0

    def __call__(self, x0: Tensor, generator: Draws) -> tuple[Tensor, None]:
        """The batch, each image flipped or not."""
        require_images(x0, "flip")
        return _where(uniform(len(x0), generator, x0.device) < 0.5, x0.flip(-1), x0), None


@dataclass(frozen=True)
class EDMAugmentation:
    """EDM's changes of geometry, of which nine labels tell the network, so that none leak.

    Flips, isotropic scale, rotation, stretch in a direction and shift. Sampled without labels, the
    network draws images that nothing was done to; it needs `num_augment=9`. Images are read between
    pixels by cubic interpolation and continued by reflection; EDM's own code filters them besides.

    Args:
        probability: of each change but the left-right flip, in [0, 1]; EDM takes 0.12 for CIFAR-10
            and 0.15 for FFHQ and AFHQ.
        flip: flip half of the images left to right, as a change with a label.
        scale: standard deviation of log2 of the scale.
        stretch: that of the stretch.
        shift: that of the shift, in widths of the image.

    Reference: Karras et al. 2022, https://arxiv.org/abs/2206.00364, appendix F.2 and table 6.
    """

    probability: float = 0.12
    flip: bool = True
    scale: float = 0.2
    stretch: float = 0.2
    shift: float = 0.125

    num_labels = 9

    def __post_init__(self) -> None:
        check_fields(self)
        require_nonnegative(scale=self.scale, stretch=self.stretch, shift=self.shift)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability!r} must lie in [0, 1]")

    def __call__(self, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor]:
        """The batch, changed, and the nine labels of each image."""
        require_images(x0, "edm")
        inverse, labels = self.draw(x0, generator)
        height, width = x0.shape[-2:]
        # From pixels, counted from the middle, to the square [-1, 1]^2 of `affine_grid`.
        half = inverse.new_tensor([width / 2, height / 2])
        matrix = inverse[:, :2].clone()
        matrix[:, :, :2] *= half / half[:, None]
        matrix[:, :, 2] /= half
        grid = affine_grid(matrix.to(x0.dtype), list(x0.shape), align_corners=False)
        moved = grid_sample(x0, grid, "bicubic", "reflection", align_corners=False)
        x0 = _where(labels[:, 0] > 0, x0.flip(-1), x0)
        x0 = _where(labels[:, 1] > 0, x0.flip(-2), x0)
        return _where((labels[:, 2:] != 0).any(1), moved, x0), labels.to(x0.dtype)

    def draw(self, x0: Tensor, generator: Draws) -> tuple[Tensor, Tensor]:
        """Changes for a batch: maps `(batch, 3, 3)` from places after to places before, in pixels
        from the middle, and labels `(batch, 9)`; float64.

        Args:
            x0: images.
            generator: source of all randomness.
        """
        size, where = len(x0), x0.device
        even = [uniform(size, generator, where) for _ in range(10)]
        like = torch.empty(size, 4, dtype=torch.float64, device=where)
        scale, stretch, right, down = normal(like, generator).unbind(1)
        chosen = [(u < self.probability).double() for u in even[:5]]
        first = (even[5] < 0.5).double() * float(self.flip)
        second = (even[6] < 0.5).double() * chosen[0]
        scale = scale * chosen[1]
        angle = (2 * even[7] - 1) * math.pi * chosen[2]
        stretch = stretch * chosen[3]
        direction = (2 * even[8] - 1) * math.pi * (even[9] < 0.5)
        right, down = right * chosen[4], down * chosen[4]
        height, width = x0.shape[-2:]
        shrink, thin = torch.exp2(-self.scale * scale), torch.exp2(-self.stretch * stretch)
        inverse = _matrix(1 - 2 * first, 1 - 2 * second) @ _matrix(shrink, shrink)
        inverse = inverse @ _rotation(angle) @ _rotation(-direction)
        inverse = inverse @ _matrix(thin, 1 / thin) @ _rotation(direction)
        shift = _matrix(torch.ones_like(right), torch.ones_like(right))
        shift[:, 0, 2] = -right * self.shift * width
        shift[:, 1, 2] = -down * self.shift * height
        labels = [first, second, scale, angle.cos() - 1, angle.sin()]
        labels += [stretch * direction.cos(), stretch * direction.sin(), right, down]
        return inverse @ shift, torch.stack(labels, 1)


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    {"none": NoAugmentation, "flip": Flip, "edm": EDMAugmentation},
    base=Augmentation,
)


def require_images(x0: Tensor, name: str) -> None:
    """Refuse examples that are no images.

    Raises:
        ValueError: with the shape of an example.
    """
    if x0.ndim != 4:
        raise ValueError(
            f"augmentation={name} changes images, of shape (channels, height, width): examples "
            f"here have shape {tuple(x0.shape[1:])}; choose augmentation=none"
        )


def require_labels(augmentation: Augmentation, network: nn.Module) -> None:
    """Refuse a network that is not told what is done to the examples, where that would leak.

    Args:
        augmentation: of the run.
        network: with `augment` layers where it takes labels.

    Raises:
        ValueError: with the option that the network needs.
    """
    wanted = augmentation.num_labels
    parts = [getattr(part, "augment", None) for part in network.modules()]
    if wanted and not any(isinstance(part, nn.Module) for part in parts):
        raise ValueError(
            f"this augmentation has {wanted} labels for the network, which takes none, so that its "
            f"samples would be changed likewise: choose a network with num_augment={wanted}, such "
            f"as ddpmpp(num_augment={wanted}), or augmentation=flip"
        )


def _where(chosen: Tensor, this: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.reshape(-1, 1, 1, 1), this, other)


def _matrix(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _rotation(angle: Tensor) -> Tensor:
    """By an angle from the first axis to the second."""
    matrix = _matrix(angle.cos(), angle.cos())
    matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
    return matrix
