"""Decoding of images: bytes of a file, or a picture in memory, to pixels."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score._core.progress import progress_bar
from sde_score.data.limits import Limits, require_file

# Formats that are decoded in this process and hold one picture; others may start programs (EPS) or
# are rare.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
"""Endings of the names of image files."""

_SMALLER = "read them smaller, such as with size=64, or take fewer of them"
_TRANSPARENT = "is partly transparent; accepted: opaque images, so put it on a background"
_BICUBIC = 3  # of PIL
_LIMITS = Limits(stored=0)
_TO_MODE = {"1": "L", "L": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "P": "RGB", "CMYK": "RGB"}


def decode_all(
    contents: Iterable[tuple[str, bytes]],
    count: int,
    name: str,
    limits: Limits,
    size: int | None = None,
) -> Tensor:
    """Decode images into one uint8 tensor `(count, channels, height, width)`, showing progress.

    Args:
        contents: where each image comes from, for messages, and its encoded bytes.
        count: how many there are.
        name: what is being read, for the progress bar.
        limits: of what the images take.
        size: side to which they are scaled; None takes them as they are.

    Raises:
        DataError: as `decode`; or if images differ in shape, `count` is wrong, or all of them
            would go beyond the limits.
    """
    images = torch.empty(0)
    done = 0
    for where, content in progress_bar(contents, name=f"reading {name}", total=count, unit="image"):
        with naming(where):
            image = decode(content, limits, size)
        if done == 0:
            # The bytes of the encoded images stand for their number, where they are tiny.
            limits.require_unpacked(count * max(image.numel(), len(content)), _SMALLER)
            images = torch.empty((count, *image.shape), dtype=torch.uint8)
        with naming(where):
            require_same_shape(image, images.shape[1:])
        if done == count:
            raise DataError(f"holds more than the {count} images it promises")
        images[done] = image
        done += 1
    if done < count or count == 0:
        raise DataError(f"holds {done} images where at least {max(1, count)} were promised")
    return images


def decode(content: bytes, limits: Limits = _LIMITS, size: int | None = None) -> Tensor:
    """One encoded image as uint8 `(channels, height, width)`: 1 channel for grey, 3 for color.

    Raises:
        DataError: if the bytes are no image, damaged or truncated, hold transparency or more than
            8 bits, or more pixels than the limit.
    """
    pixels, known = _opened(content, limits, size)
    if not bool(known.all()):
        raise DataError(_TRANSPARENT)
    return pixels


def _opened(content: bytes, limits: Limits, size: int | None) -> tuple[Tensor, Tensor]:
    """One encoded image as uint8 `(channels, height, width)`, and where it is opaque."""
    image_module = require_extra("PIL.Image")
    with _without_limit(image_module):
        with damaged("an image"):
            image = image_module.open(io.BytesIO(content), formats=_FORMATS)
        limits.require_pixels(*image.size)
        if size is None:
            limits.require_unpacked(math.prod(image.size) * _channels(image), _SMALLER)
        with damaged("an image"):
            frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"has several frames ({frames}); save one of them")
        return _pixels(image, size)


def _channels(image: Any) -> int:
    return 1 if _TO_MODE.get(image.mode) == "L" else 3


@contextmanager
def _without_limit(image_module: Any) -> Iterator[None]:
    """Leave the limit of PIL aside, which warns of some pictures and refuses others: ours holds."""
    before, image_module.MAX_IMAGE_PIXELS = image_module.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        image_module.MAX_IMAGE_PIXELS = before


def from_pil(image: Any, size: int | None = None) -> Tensor:
    """A PIL image as uint8 `(channels, height, width)`, turned as its EXIF orientation says.

    Args:
        image: the image.
        size: side to which its middle square is scaled; None takes it as it is.

    Raises:
        DataError: if it holds transparency or more than 8 bits.
    """
    pixels, known = _pixels(image, size)
    if not bool(known.all()):
        raise DataError(_TRANSPARENT)
    return pixels


def image_with_hole(path: Path | str) -> tuple[Tensor, Tensor]:
    """An image that is transparent where it is not known, as one for inpainting.

    Args:
        path: an image file, such as `.png`.

    Returns:
        uint8 pixels `(channels, height, width)`, and where they are opaque, `(height, width)`.

    Raises:
        DataError: as for `decode`, naming the file.
    """
    path = Path(path)
    with naming(path):
        require_file(path)
        return _opened(path.read_bytes(), Limits(path.stat().st_size), None)


def _pixels(image: Any, size: int | None) -> tuple[Tensor, Tensor]:
    """A PIL image as uint8 `(channels, height, width)`, and where it is opaque."""
    if image.mode not in _TO_MODE:
        raise DataError(f"has mode {image.mode}; accepted: 8-bit grey or color, convert it first")
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        # PIL would cut these to 8 bits; what it knows of the file is gone once it is loaded.
        raise DataError("has 16 bits per channel; accepted: 8 bits, convert it first")
    opaque = None
    with damaged("an image"):
        image = require_extra("PIL.ImageOps").exif_transpose(image)
        if "A" in image.mode or "transparency" in image.info:
            opaque = np.asarray(image.convert("RGBA"))[..., 3] == 255
        image = image.convert(_TO_MODE[image.mode])
        if size is not None:
            image = _middle_square(image).resize((size, size), _BICUBIC)
        pixels = np.array(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    known = np.ones(pixels.shape[1:], dtype=bool) if opaque is None else opaque
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(known)


def _middle_square(image: Any) -> Any:
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def require_same_shape(image: Tensor, shape: Sequence[int]) -> None:
    """Refuse an image that does not have the shape of the others, `(channels, height, width)`.

    Raises:
        DataError: with both shapes.
    """
    if tuple(image.shape) != tuple(shape):
        found, first = ("x".join(map(str, each)) for each in (image.shape, shape))
        raise DataError(
            f"is {found} (channels x height x width) where the first image is {first}: "
            "convert them so that all agree, or give size=64 to crop and scale"
        )
