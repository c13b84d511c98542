"""Images in parquet shards, as the Hugging Face hub writes them, as rows read by row groups."""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score._core.memory import readable
from sde_score.data.limits import Limits
from sde_score.data.sources.base import Part
from sde_score.data.sources.encoded import EncodedImages
from sde_score.data.sources.files import shard_names

_KEPT = 1 << 27  # bytes of row groups that are kept and mixed
_LARGEST = 1 << 30  # bytes of one row group
_WIDEST = 1024  # row groups that are mixed
_OPEN = 16  # files that are kept open
_TOGETHER = 1024  # rows that are read at once


class _Group(NamedTuple):
    """A row group: the number of its shard, its number in it, its first row, and how many."""

    shard: int
    number: int
    first: int
    rows: int


class ParquetImages(EncodedImages):
    """The images in parquet shards, by number.

    Args:
        files: shards in their order.
        label: column of the labels.
        limits: of one image.
        size: as for `EncodedImages`.

    Attributes:
        labels: int64, one for each row; None where there is no such column.
        class_names: that the hub keeps beside the schema; empty where there are none.
    """

    def __init__(self, files: list[Path], label: str, limits: Limits, size: int | None) -> None:
        self._files, self._process = files, os.getpid()
        self._opened: OrderedDict[int, Any] = OrderedDict()
        self._cached: OrderedDict[int, Any] = OrderedDict()
        self._groups: list[_Group] = []
        schema = self._open(0).schema_arrow
        self._column, labeled = image_column(schema), label in schema.names
        parts, labels, largest = [], [], 1
        for shard, name in enumerate(shard_names(files)):
            with naming(name) if len(files) > 1 else nullcontext():
                file = self._open(shard)
                names = file.schema_arrow.names
                if image_column(file.schema_arrow) != self._column or (label in names) != labeled:
                    raise DataError(f"has other columns than {files[0].name}")
                largest = max(largest, self._add_groups(shard))
                labels += [labels_of(file, label)] if labeled else []
                parts.append(_part(name, files[shard], file))
        super().__init__(sum(part.count for part in parts), limits, size)
        self.parts = tuple(parts)
        self._firsts = [group.first for group in self._groups]
        self.blocks = torch.tensor([*self._firsts, len(self)]) if self._groups else None
        self.window = max(1, min(_WIDEST, _KEPT // largest))
        self.labels = torch.cat(labels) if labels else None
        self.class_names = class_names(schema.metadata or {}, label)
        self.begin()

    def content(self, row: int) -> bytes:
        """Bytes of an image of a row."""
        number = bisect_right(self._firsts, row) - 1
        group = self._groups[number]
        with damaged("a parquet file"):
            content = self._images(number)[row - group.first].as_py()
        if not content:
            raise DataError("the image holds no bytes, only a path or nothing")
        return bytes(content)

    def where(self, row: int) -> str:
        """Shard and row in it."""
        number = bisect_right(self._firsts, row) - 1
        shard = self._groups[number].shard
        first = sum(part.count for part in self.parts[:shard])
        name = self.parts[shard].name if self.parts else self._files[shard].name
        return f"{name}: row {row - first}"

    def __getstate__(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"_opened": OrderedDict(), "_cached": OrderedDict()}
        return {**self.__dict__, **empty, "_process": -1}

    def _add_groups(self, shard: int) -> int:
        """Note the row groups of a shard; the bytes of the largest."""
        file, largest = self._open(shard), 1
        with damaged("a parquet file"):
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            for number, group in enumerate(groups):
                chunks = [group.column(i) for i in range(group.num_columns)]
                size = sum(
                    chunk.total_uncompressed_size
                    for chunk in chunks
                    if chunk.path_in_schema.split(".")[0] == self._column
                )
                _require_size(size, number)
                largest = max(largest, size)
                last = self._groups[-1] if self._groups else _Group(0, 0, 0, 0)
                first = last.first + last.rows
                if group.num_rows:
                    self._groups.append(_Group(shard, number, first, group.num_rows))
        return largest

    def _images(self, number: int) -> Any:
        """The bytes of the images of a row group, of which as many are kept as a window holds."""
        self._begin_process()
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        group, found, size = self._groups[number], [], 0
        file = self._open(group.shard)
        for batch in batches(file, group.number, self._column):
            found.append(batch.column(self._column).field("bytes"))
            size += found[-1].nbytes
            _require_size(size, group.number)
        arrow = require_extra("pyarrow")
        images = arrow.chunked_array(found)
        if len(images) != group.rows:
            raise DataError(
                f"row group {group.number} holds {len(images)} rows where {group.rows} were "
                "promised"
            )
        self._cached[number] = images
        kept = sum(each.nbytes for each in self._cached.values())
        for oldest in list(self._cached)[:-2]:
            if kept > 2 * _KEPT:
                kept -= self._cached.pop(oldest).nbytes
        return images

    def _open(self, shard: int) -> Any:
        self._begin_process()
        if shard not in self._opened:
            if len(self._opened) >= _OPEN:
                self._opened.popitem(last=False)[1].close()
            pq = require_extra("pyarrow.parquet")
            with damaged("a parquet file"):
                self._opened[shard] = pq.ParquetFile(self._files[shard])
        self._opened.move_to_end(shard)
        return self._opened[shard]

    def _begin_process(self) -> None:
        """Leave the files of the process that this one was copied from alone."""
        if self._process != os.getpid():
            self._process, self._opened = os.getpid(), OrderedDict()


def _require_size(size: int, number: int) -> None:
    if not 0 <= size <= _LARGEST:
        raise DataError(
            f"row group {number} unpacks to {readable(size)}, and is read as a whole: write it "
            "anew with smaller ones, as with row_group_size=1000 of pyarrow"
        )


def _part(name: str, path: Path, file: Any) -> Part:
    """A shard, with a digest of where its row groups are."""
    digest, meta = hashlib.sha256(), file.metadata
    with damaged("a parquet file"):
        for number in range(meta.num_row_groups):
            group = meta.row_group(number)
            places = [group.column(i).data_page_offset for i in range(group.num_columns)]
            digest.update(f"{group.num_rows} {places} ".encode())
    return Part(name, meta.num_rows, path.stat().st_size, digest.hexdigest())


def image_column(schema: Any) -> str:
    """Name of the column that holds `{bytes, path}`.

    Raises:
        DataError: unless there is exactly one.
    """
    found = []
    with damaged("a parquet file"):
        for field in schema:
            parts = [field.type.field(i).name for i in range(field.type.num_fields)]
            if "bytes" in parts and "path" in parts:
                found.append(str(field.name))
    if len(found) != 1:
        raise DataError(
            f"has {len(found)} columns of images among {', '.join(schema.names) or 'none'}; "
            "accepted: exactly one column of {bytes, path}, or columns of numbers, texts and flags"
        )
    return found[0]


def batches(file: Any, group: int, column: str) -> Iterator[Any]:
    """A column of a row group in batches of rows, each checked."""
    with damaged("a parquet file"):
        for batch in file.iter_batches(
            _TOGETHER, row_groups=[group], columns=[column], use_threads=False
        ):
            batch.validate(full=True)
            yield batch


def labels_of(file: Any, column: str) -> Tensor:
    """A column of integers.

    Raises:
        DataError: for anything else.
    """
    found: list[Any] = []
    for group in range(file.num_row_groups):
        for batch in batches(file, group, column):
            found += batch.column(column).to_pylist()
    wrong = [v for v in found if isinstance(v, bool) or not isinstance(v, int)]
    if wrong:
        raise DataError(f"column {column!r} holds {wrong[0]!r}; accepted: integers")
    with damaged("a parquet file"):
        return torch.tensor(found, dtype=torch.int64)


def class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Class names that the hub keeps beside the schema; empty where it has none."""
    if b"huggingface" not in metadata:
        return ()
    with damaged("hub metadata"):
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features.get(label, {}).get("names", ()))
