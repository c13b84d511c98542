"""Parquet files: images, as the Hugging Face hub writes them, and tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sde_score._core.arguments import checked
from sde_score._core.errors import damaged, require_extra
from sde_score.data.dataset import DataSet
from sde_score.data.decoding import decode_all
from sde_score.data.limits import MAX_PIXELS, Limits, require_room, require_side
from sde_score.data.sources.encoded import LAZY, lazy_images
from sde_score.data.sources.files import shards_of
from sde_score.data.sources.parquet import ParquetImages
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.frames import columns_of_arrow
from sde_score.data.tables.kinds import DROP, kinds_of
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

_CELLS = ["integer", "floating", "boolean", "decimal", "string", "large_string", "dictionary"]


@checked
def parquet(
    path: Path,
    label: str | None = None,
    size: int | None = None,
    max_bytes: int | None = None,
    max_pixels: int = MAX_PIXELS,
    kinds: str | None = None,
    levels: int | None = None,
    lazy: bool | None = None,
) -> DataSet:
    """Images of parquet files, `(channels, height, width)`, 256 levels, or a table.

    The image column is the one that holds `{bytes, path}`.
    Labels are integers; where every one is -1, as hidden labels are written, there are none.
    A file without images, of numbers, texts and flags, is a table, see `data.from_table`.

    Args:
        path: a file, a folder of `*.parquet`, or a pattern such as `"train-*.parquet"`.
        label: column of the labels; by default `label` of images, where the file has such a column,
            and none of tables.
        size: side in pixels to which images are scaled after their middle square is cut out; None
            takes them as they are.
        max_bytes: limit of what all images take once they are decoded into memory; None for 100 MB,
            or 300 times the files where that is more.
        max_pixels: limit of the pixels of one image.
        kinds: of the columns of a table by name, see `data.from_table`.
        levels: number of levels of masks or label maps; by default see `from_tensor`.
        lazy: decode images when they are asked for; None where all together take more than 1 GB.

    Raises:
        DataError: if the file or an image is damaged, or there are several image columns, or
            columns of other kinds beside none.
    """
    given = kinds_of(kinds)
    require_side(size, max_pixels)
    pq = require_extra("pyarrow.parquet")
    path = Path(path)
    files = shards_of(path, ".parquet")
    with damaged("a parquet file"), pq.ParquetFile(files[0]) as file:
        schema = file.schema_arrow
    if is_table(schema):
        cells = columns_of_arrow(_table(files, schema, given))
        return dataset_of(list(cells), list(cells.values()), path.name, given, label)
    limits = Limits(sum(file.stat().st_size for file in files), max_bytes, max_pixels)
    source = ParquetImages(files, "label" if label is None else label, limits, size)
    labels, names = source.labels, source.class_names
    if lazy or (lazy is None and max_bytes is None and source.nbytes > LAZY):
        return lazy_images(source, path.name, labels, names, levels)
    images = decode_all(source.encoded(), len(source), path.name, limits, size)
    scaling = None if levels is None else Scaling.discrete(levels)
    if labels is None or bool((labels == -1).all()):
        return from_tensor(images, None, scaling, name=path.name)
    return from_tensor(images, labels, scaling, name=path.name, class_names=names)


def _table(files: list[Path], schema: Any, kinds: Mapping[str, Any]) -> Any:
    """The columns of a table that are kept, of all its files."""
    arrow, pq = require_extra("pyarrow"), require_extra("pyarrow.parquet")
    kept = [name for name in schema.names if kinds.get(name, ("",))[0] != DROP]
    with damaged("parquet files of one table"):
        count = sum(pq.read_metadata(file).num_rows for file in files)
        require_room(8 * count * len(schema.names))
        return arrow.concat_tables([pq.read_table(file, columns=kept) for file in files])


def is_table(schema: Any) -> bool:
    """Whether every column holds numbers, texts or flags."""
    kinds = require_extra("pyarrow.types")
    with damaged("a parquet file"):
        return len(schema) > 0 and all(
            any(getattr(kinds, f"is_{kind}")(field.type) for kind in _CELLS) for field in schema
        )
