"""The look of the examples of a data set: their kind, and what is black and what is white."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sde_score.data import Scaling, TableCoding, column_names
from sde_score.training import Run, coding_of

Kind = Literal["images", "series", "table"]

_USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_TINY = 16  # pixels; images with a shorter side are enlarged smoothly, as an eye can read them
_READABLE = 64  # pixels; shorter sides are enlarged to about that
_LARGE = 90  # pixels; images with a longer side than this are not enlarged
_SHEET = 1 << 25  # pixels of a picture
_BAND = 6  # white pixels between channels
_SLICES = 4  # of a volume


def kind_of(event_shape: Sequence[int]) -> Kind:
    """Kind of picture of an event: images, with channels, of slices for volumes; curves for series,
    shape `(channels, length)`; numbers of a table."""
    if len(event_shape) in (3, 4) and min(event_shape[-2:]) > 1:
        return "images"
    return "table" if len(event_shape) == 1 else "series"


@dataclass(frozen=True)
class Look:
    """How examples of a data set are drawn.

    Args:
        scaling: map between the data's own terms, which are drawn, and model range.
        low: smallest value of each channel or column of the data, in their own terms; empty if it
            is not known, so that the values that are drawn must tell.
        high: the largest values.
        column_names: of a table; empty where it has none.
        condition_names: of the columns that are conditions; empty where there are none.
        coding: of the columns of a table, None where it is not known.
    """

    scaling: Scaling = Scaling()  # noqa: RUF009
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    column_names: tuple[str, ...] = ()
    condition_names: tuple[str, ...] = ()
    coding: TableCoding | None = None

    @classmethod
    def of(cls, run: Run) -> Look:
        """The look of the data that a run was trained on."""
        if run.record is None:
            return cls(run.scaling)
        record = run.record
        names = record.column_names, record.condition_names
        return cls(run.scaling, record.low, record.high, *names, coding_of(run))

    def names(self, columns: int) -> list[str]:
        """Names of the columns of a table."""
        return column_names(self.column_names, columns)

    def raw(self, x: Tensor) -> Tensor:
        """Examples in model range in the data's own terms, float64; what is not finite is 0."""
        finite = torch.nan_to_num(x.detach().cpu().double(), 0.0, 0.0, 0.0)
        return self.scaling.from_model(finite).double()

    def images(self, x: Tensor) -> Tensor:
        """Examples as images of uint8, shape `(n, parts, 1 or 3, height, width)`.

        Three channels that share a range are colors, one part; other channels are parts of their
        own, each black at its smallest value and white at its largest. The usual ranges [0, 1],
        [-1, 1] and [0, 255] are black to white where the data fill one of them. A volume is some of
        its slices side by side, see `slices`.
        """
        raw = self.raw(x)
        raw = slices(raw) if raw.ndim == 5 else raw
        ends = self.ends(x)
        shape = (-1, *[1] * (raw.ndim - 2))
        low, high = (torch.tensor(side).double().reshape(shape) for side in zip(*ends, strict=True))
        pixels = (255 * ((raw - low) / (high - low)).clamp(0, 1)).round().to(torch.uint8)
        pixels = side_by_side(pixels) if pixels.ndim == 5 else pixels
        return pixels.unsqueeze(1 if len(ends) < pixels.shape[1] else 2)

    def ends(self, x: Tensor) -> list[tuple[float, float]]:
        """Values that are drawn black and white: one pair for colors, else one for each channel."""
        ends = self._ends(self.raw(x))
        if self._has_colors(x.shape[1], ends):
            return [_usual(min(low for low, _ in ends), max(high for _, high in ends))]
        return [_usual(low, high) for low, high in ends]

    def is_field(self, x: Tensor) -> bool:
        """Whether the channels of images are quantities that need a scale, neither gray nor
        colors."""
        ends = self.ends(x)
        return len(ends) > 1 or (self.scaling.levels is None and ends[0] not in _USUAL)

    def _ends(self, raw: Tensor) -> list[tuple[float, float]]:
        """Smallest and largest value of each channel."""
        if self.scaling.levels is not None:
            return [(0.0, self.scaling.levels - 1.0)] * raw.shape[1]
        if len(self.low) == raw.shape[1]:
            return list(zip(self.low, self.high, strict=True))
        values = raw.transpose(0, 1).flatten(1).sort(dim=1).values
        edge = values.shape[1] // 100
        return [(row[edge].item(), row[-1 - edge].item()) for row in values]

    def _has_colors(self, channels: int, ends: Sequence[tuple[float, float]]) -> bool:
        widths, shown = [high - low for low, high in ends], {_usual(*pair) for pair in ends}
        alike = shown <= set(_USUAL) and len(shown) == 1
        return channels == 3 and (alike or max(widths) <= 2 * min(widths))

    def sheet(self, x: Tensor, columns: int) -> Tensor:
        """Images side by side, enlarged where they are small: uint8, shape `(height, width, 3)`.

        Channels that are no colors lie apart, each with all images.
        """
        sheets = self.sheets(x, columns)
        band = torch.full((len(sheets[0]), _BAND, 3), 255, dtype=torch.uint8)
        joined = [piece for sheet in sheets for piece in (band, sheet)]
        return torch.cat(joined[1:], dim=1)

    def sheets(self, x: Tensor, columns: int) -> list[Tensor]:
        """The sheet of each part of images, see `images`; volumes, which are wide, lie apart."""
        gap = 2 * _BAND if x.ndim == 5 else 1
        parts = _enlarged(self.images(x)).unbind(1)
        return [mosaic(part, columns, gap).expand(-1, -1, 3) for part in parts]

    def most(self, event_shape: Sequence[int]) -> int:
        """Number of images that a picture of bearable size holds, at least 1."""
        height, width = cell(event_shape)
        return max(1, _SHEET // (height * width))


def cell(event_shape: Sequence[int]) -> tuple[int, int]:
    """Height and width in pixels of an image with its channels side by side, as if none were
    colors."""
    channels, height, width = event_shape[0], *event_shape[-2:]
    if len(event_shape) == 4:
        width = (width + 1) * min(event_shape[1], _SLICES) - 1
    return height, channels * width if channels != 3 else width


def slices(volumes: Tensor) -> Tensor:
    """Some slices of volumes `(n, C, depth, height, width)`, evenly spaced in depth, at most 4."""
    depth = volumes.shape[2]
    count = min(depth, _SLICES)
    return volumes[:, :, [(2 * k + 1) * depth // (2 * count) for k in range(count)]]


def side_by_side(pixels: Tensor) -> Tensor:
    """Slices of uint8 `(n, C, S, H, W)` as images `(n, C, H, W')`, one white pixel between them."""
    spaced = F.pad(pixels, (0, 1), value=255).transpose(2, 3).flatten(3)
    return spaced[..., :-1]


def mosaic(images: Tensor, columns: int, gap: int = 1) -> Tensor:
    """Images of uint8 `(n, C, H, W)` side by side: shape `(h, w, C)`.

    White pixels stand between neighbors, `gap` of them; places left over are white.
    """
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = torch.full(shape, 255, dtype=torch.uint8)
    for index, image in enumerate(images.permute(0, 2, 3, 1)):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def _enlarged(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    factor = math.ceil(_READABLE / min(height, width))
    if factor == 1 or max(height, width) > _LARGE:
        return images
    if min(height, width) >= _TINY:
        return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    smooth = F.interpolate(images.flatten(0, 1).float(), scale_factor=factor, mode="bicubic")
    larger = smooth.round().clamp(0, 255).to(torch.uint8)
    return larger.reshape(*images.shape[:3], *larger.shape[-2:])


def _usual(low: float, high: float) -> tuple[float, float]:
    """Values of black and white for data between two values."""
    for black, white in _USUAL:
        width = white - black
        within = black - 0.05 * width <= low and high <= white + 0.05 * width
        if within and high - low >= 0.5 * width:
            return black, white
    return low, high if high > low else low + 1.0
