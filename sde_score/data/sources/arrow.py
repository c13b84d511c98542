"""Images in Arrow files, as `datasets` saves them to a disk, as rows of mapped memory."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score.data.limits import Limits
from sde_score.data.sources.base import Part
from sde_score.data.sources.encoded import EncodedImages
from sde_score.data.sources.parquet import image_column


class ArrowImages(EncodedImages):
    """The images in Arrow files, by number.

    Args:
        files: in their order.
        limits: of one image.
        size: as for `EncodedImages`.
    """

    def __init__(self, files: list[Path], limits: Limits, size: int | None) -> None:
        self._files = files
        self._open()
        super().__init__(self._ends[-1] if self._ends else 0, limits, size)
        self.begin()

    def content(self, row: int) -> bytes:
        """Bytes of an image of a row."""
        number = bisect_right(self._ends, row)
        first = self._ends[number - 1] if number else 0
        with damaged("an Arrow file"):
            content = self._images[number][row - first].as_py()
        if not content:
            raise DataError("the image holds no bytes, only a path or nothing")
        return bytes(content)

    def where(self, row: int) -> str:
        """File and row."""
        return f"{self.part_of(row)}: row {row}"

    def _open(self) -> None:
        """Map the files: what is not asked for takes no memory."""
        self._images: list[Any] = []
        parts = []
        for file in self._files:
            with naming(file.name):
                digest, count = hashlib.sha256(), 0
                for batch in batches_of(file):
                    column = batch.column(image_column(batch.schema))
                    with damaged("an Arrow file"):
                        column.validate(full=True)
                        self._images.append(column.field("bytes"))
                    digest.update(f"{len(batch)} {column.nbytes} ".encode())
                    count += len(batch)
                size = file.stat().st_size
                parts.append(Part(file.name, count, size, digest.hexdigest()))
        self._ends = list(accumulate(map(len, self._images)))
        self.parts = tuple(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_images": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def batches_of(file: Path) -> list[Any]:
    """The batches of rows of an Arrow file, in mapped memory.

    Raises:
        DataError: for a file that is damaged or truncated.
    """
    arrow = require_extra("pyarrow")
    with damaged("an Arrow file"):
        if os.path.getsize(file) == 0:
            raise DataError("is empty")
        return list(arrow.ipc.open_stream(arrow.memory_map(os.fspath(file))))
