"""Parquet files: images, as the Hugging Face hub writes them, and tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged, require_extra
from sde_score.data.dataset import DataSet
from sde_score.data.formats.images import decode_all
from sde_score.data.limits import MAX_PIXELS, Limits, require_file, require_room, require_side
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.frames import columns_of_arrow
from sde_score.data.tables.kinds import DROP, kinds_of
from sde_score.data.tensors import from_tensor

_CELLS = ["integer", "floating", "boolean", "decimal", "string", "large_string", "dictionary"]
_TOGETHER = 1024  # rows that become objects of Python at once


@checked
def parquet(
    path: Path,
    label: str | None = None,
    size: int | None = None,
    max_bytes: int | None = None,
    max_pixels: int = MAX_PIXELS,
    kinds: str | None = None,
) -> DataSet:
    """Images of a parquet file, `(channels, height, width)`, 256 levels, or a table.

    The image column is the one that holds `{bytes, path}`; images are decoded once into memory.
    Labels are integers; where every one is -1, as hidden labels are written, there are none.
    A file without images, of numbers, texts and flags, is a table, see `data.from_table`.

    Args:
        path: the file.
        label: column of the labels; by default `label` of images, where the file has such a column,
            and none of tables.
        size: side in pixels to which images are scaled after their middle square is cut out; None
            takes them as they are.
        max_bytes: limit of what the file unpacks to; None for 100 MB, or 300 times the file where
            that is more.
        max_pixels: limit of the pixels of one image.
        kinds: of the columns of a table by name, see `data.from_table`.

    Raises:
        DataError: if the file or an image is damaged, or there are several image columns, or
            columns of other kinds beside none.
    """
    given = kinds_of(kinds)
    require_side(size, max_pixels)
    pq = require_extra("pyarrow.parquet")
    path = Path(path)
    require_file(path)
    with damaged("a parquet file"):
        file = pq.ParquetFile(path)
        schema, count = file.schema_arrow, file.metadata.num_rows
    with file:
        if _is_table(schema):
            require_room(8 * count * len(schema.names))
            kept = [name for name in schema.names if given.get(name, ("",))[0] != DROP]
            with damaged("a parquet file"):
                read = file.read(columns=kept)
            cells = columns_of_arrow(read)
            return dataset_of(list(cells), list(cells.values()), path.name, given, label)
        encoded = _encoded(file, _image_column(schema))
        limits = Limits(path.stat().st_size, max_bytes, max_pixels)
        images = decode_all(encoded, count, path.name, limits, size)
        label = "label" if label is None else label
        labels = _labels(file, label) if label in schema.names else None
    if labels is None or bool((labels == -1).all()):
        return from_tensor(images, name=path.name)
    class_names = _class_names(schema.metadata or {}, label)
    return from_tensor(images, labels, name=path.name, class_names=class_names)


def _is_table(schema: Any) -> bool:
    """Whether every column holds numbers, texts or flags."""
    kinds = require_extra("pyarrow.types")
    with damaged("a parquet file"):
        return len(schema) > 0 and all(
            any(getattr(kinds, f"is_{kind}")(field.type) for kind in _CELLS) for field in schema
        )


def _image_column(schema: Any) -> str:
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


def _encoded(file: Any, column: str) -> Iterator[tuple[str, bytes]]:
    row = 0
    for group in range(file.num_row_groups):
        for image in _read(file, group, column):
            content = image and image["bytes"]
            if not content:
                raise DataError(f"row {row}: the image holds no bytes, only a path or nothing")
            yield f"row {row}", content
            row += 1


def _labels(file: Any, column: str) -> Tensor:
    labels = [v for group in range(file.num_row_groups) for v in _read(file, group, column)]
    wrong = [v for v in labels if isinstance(v, bool) or not isinstance(v, int)]
    if wrong:
        raise DataError(f"column {column!r} holds {wrong[0]!r}; accepted: integers")
    with damaged("a parquet file"):
        return torch.tensor(labels, dtype=torch.int64)


def _read(file: Any, group: int, column: str) -> Iterator[Any]:
    with damaged("a parquet file"):
        for batch in file.iter_batches(_TOGETHER, row_groups=[group], columns=[column]):
            batch.validate(full=True)
            yield from batch.column(column).to_pylist()


def _class_names(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    """Class names that the hub keeps beside the schema; empty where it has none."""
    if b"huggingface" not in metadata:
        return ()
    with damaged("hub metadata"):
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features.get(label, {}).get("names", ()))
