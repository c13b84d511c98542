"""Files in the idx format of MNIST: 8-bit images and their labels, plain or gzipped.

An idx file is: two zero bytes, a type code (8 is uint8), the number of dimensions, each dimension
as a big-endian 32-bit number, and the numbers. See http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged, naming
from sde_score.data.dataset import DataSet
from sde_score.data.limits import Limits, require_file
from sde_score.data.tensors import from_tensor

_UINT8 = 8
# Deflate cannot shrink data by more than this, so a header that claims more lies.
_GZIP_RATIO = 1032


@checked
def mnist(path: Path, max_bytes: int | None = None) -> DataSet:
    """Images `(1, height, width)` of an idx file, 256 levels, with labels from the file beside it.

    Args:
        path: the images file, or a folder that holds exactly one. The labels file has the same name
            with `images-idx3` replaced by `labels-idx1`, with or without `.gz`.
        max_bytes: limit of what a file unpacks to; None for 100 MB, or 300 times the file where
            that is more.

    Raises:
        DataError: if a file is not idx, damaged or truncated, or images and labels do not fit.
    """
    path = Path(path)
    require_file(path)
    if path.is_dir():
        path = _images_in(path)
        with naming(path.name):
            return mnist(path, max_bytes)
    images = read_idx(path, max_bytes)
    if images.ndim != 3:
        hint = "these look like labels, give the images file" if images.ndim == 1 else "accepted: 3"
        raise DataError(f"holds numbers in {images.ndim} dimensions; {hint}")
    labels_path = _labels_beside(path)
    labels = None
    if labels_path is not None:
        with naming(labels_path):
            labels = read_idx(labels_path, max_bytes)
    return from_tensor(images.unsqueeze(1), labels, name=path.name)


def read_idx(path: Path, max_bytes: int | None = None) -> Tensor:
    """The numbers of an idx file of uint8, in its own shape.

    Raises:
        DataError: if the file is not idx, damaged, truncated or larger than `max_bytes`.
    """
    require_file(path)
    limits = Limits(path.stat().st_size, max_bytes)
    with damaged("an idx file"), _opened(path) as file:
        head = file.read(4)
        rank = head[3] if len(head) == 4 else 0
        sizes = file.read(4 * rank)
    if rank == 0 or head[:2] != b"\0\0" or len(sizes) < 4 * rank:
        raise DataError("is not an idx file: it does not begin with an idx header")
    if head[2] != _UINT8:
        raise DataError(f"holds idx type {head[2]:#04x}; accepted: 0x08, unsigned bytes")
    shape = struct.unpack(f">{rank}I", sizes)
    expected = math.prod(shape)
    if expected == 0 or expected > limits.stored * (_GZIP_RATIO if _zipped(path) else 1):
        raise DataError(f"claims the shape {shape}, which a file of this size cannot hold")
    limits.require_unpacked(expected)
    with damaged("an idx file"), _opened(path) as file:
        file.seek(4 + 4 * rank)
        # One byte more than expected: it finds what is left over, and makes gzip check its sum.
        numbers = file.read(expected + 1)
    if len(numbers) != expected:
        found = "more" if len(numbers) > expected else f"only {len(numbers)}: truncated?"
        raise DataError(f"claims the shape {shape}, {expected} bytes, but holds {found}")
    return torch.frombuffer(bytearray(numbers), dtype=torch.uint8).reshape(shape)


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if _zipped(path) else path.open("rb")


def _zipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _images_in(folder: Path) -> Path:
    found = sorted(file for file in folder.glob("*images*idx3*") if not file.is_dir())
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"holds {len(found)} files of images-idx3 ({names}): name the one you mean")
    return found[0]


def _labels_beside(path: Path) -> Path | None:
    name = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    candidates = [path.with_name(name), path.with_name(name + ".gz")]
    return next((file for file in candidates if file != path and file.is_file()), None)
