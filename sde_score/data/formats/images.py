"""Folders of image files, decoded into memory or read lazily."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged, naming
from sde_score.data.dataset import DataSet
from sde_score.data.decoding import SUFFIXES, decode_all
from sde_score.data.limits import MAX_PIXELS, Limits, require_file, require_side
from sde_score.data.sources.encoded import LAZY, lazy_images
from sde_score.data.sources.folder import FolderImages
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

Files = list[tuple[str, int]]
"""Names relative to the folder, and sizes in bytes."""


@checked
def folder(
    path: Path,
    levels: int | None = None,
    size: int | None = None,
    max_bytes: int | None = None,
    max_pixels: int = MAX_PIXELS,
    lazy: bool | None = None,
) -> DataSet:
    """All images in a folder, `(channels, height, width)`, 256 levels; subfolders are classes.

    Files that are no images by their ending, and hidden ones, are left aside. Classes are numbered
    in the order of their names. Images are turned as their EXIF orientation says.

    Args:
        path: the folder.
        levels: number of levels of masks or label maps; by default see `from_tensor`.
        size: side in pixels to which photographs are scaled after their middle square is cut out;
            None takes images as they are.
        max_bytes: limit of what all images take once they are decoded into memory; None for 100 MB,
            or 300 times the files where that is more.
        max_pixels: limit of the pixels of one image file.
        lazy: decode images when they are asked for; None where all together take more than 1 GB.

    Raises:
        DataError: if there are no images, one cannot be decoded or is beyond the limits, they
            differ in size or channels, or a link leads nowhere.
    """
    scaling = None if levels is None else Scaling.discrete(levels)
    require_side(size, max_pixels)
    path = Path(path)
    require_file(path)
    files, class_names = _files(path)
    labels = None
    if class_names:
        counts = torch.tensor([len(inside) for inside in files.values()])
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
    stored = sum(length for inside in files.values() for _, length in inside)
    limits = Limits(stored, max_bytes, max_pixels)
    source = FolderImages(path, files, limits, size)
    if lazy or (lazy is None and max_bytes is None and source.nbytes > LAZY):
        return lazy_images(source, path.name, labels, class_names, levels)
    images = decode_all(source.encoded(), len(source), path.name, limits, size)
    return from_tensor(images, labels, scaling, name=path.name, class_names=class_names)


def _files(path: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Image files by class folder, or under the name `.` where there are no classes."""
    listed = _listed(path)
    loose = _images_in(listed, "")
    classes = [entry.name for entry in listed if entry.is_dir()]
    if loose and not classes:
        return {".": loose}, ()
    if loose:
        raise DataError(f"holds images ({loose[0][0]}) beside folders ({classes[0]}): move either")
    files = {name: _images_in(_listed(path / name), name) for name in classes}
    for name, inside in files.items():
        if not inside:
            raise DataError(f"the class folder {name} holds no images")
    if not files:
        raise DataError(f"holds no images; accepted: {', '.join(sorted(SUFFIXES))}")
    return files, tuple(classes)


def _images_in(listed: list[os.DirEntry[str]], folder: str) -> Files:
    found = []
    for entry in listed:
        if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            with naming(entry.name):
                require_file(Path(entry.path))
                if entry.is_file():
                    with damaged("an image"):
                        found.append((os.path.join(folder, entry.name), entry.stat().st_size))
    return found


def _listed(path: Path) -> list[os.DirEntry[str]]:
    with damaged("a folder"), os.scandir(path) as entries:
        found = sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )
    for entry in found:
        if entry.is_symlink() and not os.path.exists(entry.path):
            where = os.readlink(entry.path)
            raise DataError(f"the link {entry.name} leads to {where}, which is absent")
    return found
