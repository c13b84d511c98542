"""A folder of image files as rows."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sde_score._core.errors import damaged
from sde_score.data.limits import Limits
from sde_score.data.sources.base import Part
from sde_score.data.sources.encoded import EncodedImages
from sde_score.data.sources.files import Names


class FolderImages(EncodedImages):
    """Image files by number.

    Args:
        path: of the folder.
        files: names relative to it, and sizes in bytes, by class folder in their order.
        limits: of one image.
        size: as for `EncodedImages`.
        levels: as for `EncodedImages`.
    """

    def __init__(
        self,
        path: Path,
        files: dict[str, list[tuple[str, int]]],
        limits: Limits,
        size: int | None,
        levels: int = 256,
    ) -> None:
        self._path, self._names = path, Names([name for each in files.values() for name, _ in each])
        super().__init__(len(self._names), limits, size, levels)
        self.parts = tuple(_part(folder, inside) for folder, inside in files.items())
        self.begin()

    def content(self, row: int) -> bytes:
        """Bytes of a file."""
        with damaged("an image"), open(os.path.join(self._path, self._names[row]), "rb") as file:
            self.require_size(os.fstat(file.fileno()).st_size)
            return file.read()

    def where(self, row: int) -> str:
        """Name of a file."""
        return self._names[row]


def _part(folder: str, inside: list[tuple[str, int]]) -> Part:
    digest = hashlib.sha256()
    for name, size in inside:
        digest.update(os.fsencode(f"{name}\0{size}\0"))
    return Part(folder, len(inside), sum(size for _, size in inside), digest.hexdigest())
