"""Limits of what is read: a small file may unpack to more than the memory holds.

Every reader that unpacks or decodes computes the size from headers first, and refuses what is
beyond the limits with the argument that raises them, `max_bytes` or `max_pixels`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sde_score._core.checks import require_count, shown
from sde_score._core.errors import ArgumentError, DataError
from sde_score._core.memory import readable, total_memory

MAX_PIXELS = 1 << 26
"""Pixels of one picture, by default: 67 megapixels."""

# What files unpack to, by default: masks shrink to a hundredth, bombs to less than a thousandth.
_UNPACKED = 10**8
_RATIO = 300

_SPECIAL = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True)
class Limits:
    """What the examples of a file or folder may take.

    Args:
        stored: bytes of the files.
        max_bytes: of the examples once they are unpacked; None for 100 MB, or 300 times the files
            where that is more.
        max_pixels: of one picture.

    Raises:
        ValueError: for a limit that is no positive integer.
    """

    stored: int
    max_bytes: int | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require_count(max_pixels=self.max_pixels)
        if self.max_bytes is not None:
            require_count(max_bytes=self.max_bytes)

    def require_unpacked(self, size: int, fix: str = "") -> None:
        """Refuse examples of more bytes than the memory has, or than the limit.

        Args:
            size: bytes of the examples once they are unpacked.
            fix: a remedy where the memory is too small.

        Raises:
            DataError: with both amounts.
        """
        require_room(size, fix)
        limit = self.max_bytes
        if limit is None:
            raised = 3 * self.max_pixels if self.max_pixels > MAX_PIXELS else 0
            limit = max(_UNPACKED, _RATIO * self.stored, raised)
        if size > limit:
            raise DataError(
                f"{readable(self.stored)} unpack to {readable(size)}, beyond the limit of "
                f"{readable(limit)}: give max_bytes={size} where that is meant"
            )

    def require_pixels(self, width: int, height: int) -> None:
        """Refuse a picture of more pixels than the limit.

        Raises:
            DataError: with both numbers.
        """
        pixels = width * height
        if pixels > self.max_pixels:
            raise DataError(
                f"is {width} x {height}, {pixels / 1e6:.4g} megapixels, beyond the limit of "
                f"{self.max_pixels / 1e6:.4g}: give max_pixels={pixels} where that is meant"
            )


def require_side(size: int | None, max_pixels: int) -> None:
    """Refuse a side to which images cannot be scaled.

    Args:
        size: in pixels; None for images as they are.
        max_pixels: limit of the pixels of one image.

    Raises:
        ValueError: naming what is wrong.
    """
    if size is None:
        return
    require_count(size=size, max_pixels=max_pixels)
    if size * size > max_pixels:
        raise ArgumentError(
            f"size={size} makes images of {size} x {size} pixels, beyond the limit of "
            f"{max_pixels / 1e6:.4g} megapixels: give max_pixels={size * size} where that is meant"
        )


def require_room(size: int, fix: str = "") -> None:
    """Refuse examples of more bytes than the memory has.

    Raises:
        DataError: with both amounts, and `fix`.
    """
    there = total_memory()
    if there is not None and size > there:
        hint = f": {fix}" if fix else ""
        raise DataError(
            f"the examples take {readable(size)}, more than the {readable(there)} of memory{hint}"
        )


def require_file(path: Path) -> None:
    """Refuse what is neither a file nor a folder: reading a pipe or device may never end.

    Raises:
        DataError: saying what it is.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise DataError(f"{shown(os.fspath(path))} cannot be opened: {error.strerror}") from error
    for is_kind, what in _SPECIAL.items():
        if is_kind(mode):
            raise DataError(f"is {what}; accepted: a file or a folder, so save its content first")
