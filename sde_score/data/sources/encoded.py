"""Encoded images as rows: each is decoded when it is asked for."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sde_score._core.errors import DataError, naming
from sde_score.data.dataset import DataSet
from sde_score.data.decoding import decode, require_same_shape
from sde_score.data.limits import Limits
from sde_score.data.sources.base import Rows, few, is_of_this_machine
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

LAZY = 10**9
"""Bytes of all decoded images above which they are read lazily."""

_FIRST = 10  # rows of which one must be readable
_LOOKED_AT = 64  # images that tell whether there are few levels
_FEW = 32
_DENSE = 4  # bytes of a file for each pixel that it may have, at most
_BESIDE = 1 << 20  # bytes of a file beside its pixels


class EncodedImages(Rows):
    """Images `(channels, height, width)` of 8 bits, from encoded bytes.

    Args:
        count: number of images.
        limits: of one image.
        size: side in pixels to which images are scaled after their middle square is cut out; None
            takes them as they are.
        levels: number of levels; values beyond them are refused.
    """

    dtype = torch.uint8

    def __init__(self, count: int, limits: Limits, size: int | None, levels: int = 256) -> None:
        self.shape, self._limits, self._size, self.levels = (count,), limits, size, levels

    @abstractmethod
    def content(self, row: int) -> bytes:
        """Encoded bytes of a row.

        Raises:
            DataError: if they cannot be read.
        """

    @abstractmethod
    def where(self, row: int) -> str:
        """Place of a row, for messages."""

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Place and encoded bytes of each image in turn."""
        for row in range(len(self)):
            where = self.where(row)
            with naming(where):
                content = self.content(row)
            yield where, content

    def begin(self) -> None:
        """Find the shape of the images, by the first that can be read.

        Raises:
            DataError: if none of the first can be.
        """
        errors = []
        for row in range(min(_FIRST, len(self))):
            try:
                self.shape = (len(self), *self._decoded(row).shape)
                return
            except DataError as error:
                if is_of_this_machine(error):
                    raise
                errors.append(error)
        raise errors[0] if errors else DataError("holds 0 images; accepted: at least one")

    @property
    def nbytes(self) -> int:
        """Bytes of all images once they are decoded."""
        return math.prod(self.shape)

    def require_size(self, size: int) -> None:
        """Refuse an encoded image of more bytes than any image within the limits has.

        Raises:
            DataError: with both amounts.
        """
        largest = _DENSE * self._limits.max_pixels + _BESIDE
        if not 0 <= size <= largest:
            raise DataError(
                f"takes {size} bytes, and an image of at most {self._limits.max_pixels} pixels "
                f"takes {largest}: give a larger max_pixels where that is meant"
            )

    def _decoded(self, row: int) -> Tensor:
        try:
            image = decode(self.content(row), self._limits, self._size)
            if len(self.shape) > 1:
                require_same_shape(image, self.shape[1:])
            if self.levels < 256 and int(image.max()) >= self.levels:
                raise DataError(f"holds {int(image.max())}, and there are {self.levels} levels")
            return image
        except DataError as error:
            raise DataError(f"{self.where(row)}: {error}") from error

    def __getitem__(self, rows: Tensor) -> Tensor:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        for place, row in enumerate(rows.tolist()):
            images[place] = self._decoded(row)
        return images


def lazy_images(
    source: EncodedImages,
    name: str,
    labels: Tensor | None = None,
    class_names: tuple[str, ...] = (),
    levels: int | None = None,
) -> DataSet:
    """A data set over encoded images that are read lazily.

    Args:
        source: begun.
        name: of the data set.
        labels: int64, one for each row; all -1, as hidden labels are written, are none.
        class_names: of the classes.
        levels: number of levels; None for 256.

    Raises:
        DataError: if the levels are in doubt, or labels do not fit.
    """
    if levels is None:
        rows = few(source, None, _LOOKED_AT)
        seen = source[rows[source.readable(rows)[0]]]
        if len(seen) and 0 < int(seen.max()) < _FEW:
            raise DataError(
                f"the largest value of {len(seen)} images is {int(seen.max())}, so that the number "
                "of levels is in doubt: give levels=... of masks, or levels=256"
            )
    source.levels = levels or 256
    if labels is not None and bool((labels == -1).all()):
        labels, class_names = None, ()
    alike = torch.zeros(1, 1).expand(len(source), 1)  # for what becomes of labels
    found = from_tensor(alike, labels, Scaling(), name=name, class_names=class_names)
    return replace(found, _source=source, scaling=Scaling.discrete(source.levels))


def shown_name(name: Any) -> str:
    """A name from a file, for messages: short, and without control characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(name))
    return text if len(text) <= 80 else f"...{text[-77:]}"
