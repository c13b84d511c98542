"""Folders that `datasets` saved to a disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged, naming, require_extra
from sde_score._core.files import read_text
from sde_score.data.dataset import DataSet
from sde_score.data.formats.parquet import is_table
from sde_score.data.limits import MAX_PIXELS, Limits, require_file, require_side
from sde_score.data.sources.arrow import ArrowImages, batches_of
from sde_score.data.sources.encoded import lazy_images
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.frames import columns_of_arrow
from sde_score.data.tables.kinds import kinds_of


@checked
def arrow(
    path: Path,
    label: str | None = None,
    levels: int | None = None,
    size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    kinds: str | None = None,
) -> DataSet:
    """What `datasets.Dataset.save_to_disk` wrote: images, read lazily, or a table.

    Args:
        path: the folder, with `state.json` and `dataset_info.json`.
        label: column of the labels; by default `label` of images, where there is such a column, and
            none of tables.
        levels: number of levels of masks or label maps; None for 256.
        size: side in pixels to which images are scaled after their middle square is cut out; None
            takes them as they are.
        max_pixels: limit of the pixels of one image.
        kinds: of the columns of a table by name, see `data.from_table`.

    Raises:
        DataError: if a file is damaged, or there are several image columns, or columns of other
            kinds beside none.
    """
    require_side(size, max_pixels)
    given, path = kinds_of(kinds), Path(path)
    require_file(path)
    files, features = _files(path), _json(path / "dataset_info.json").get("features")
    batches = [batch for file in files for batch in _batches(file)]
    if not batches:
        raise DataError("holds no rows")
    schema = batches[0].schema
    if is_table(schema):
        with damaged("Arrow files of one table"):
            whole = require_extra("pyarrow").Table.from_batches(batches)
        cells = columns_of_arrow(whole)
        return dataset_of(list(cells), list(cells.values()), path.name, given, label)
    limits = Limits(sum(file.stat().st_size for file in files), None, max_pixels)
    source = ArrowImages(files, limits, size)
    label, labels = label or "label", None
    if label in schema.names:
        with damaged(f"a column of integers, {label!r}"):
            found = [batch.column(label).to_numpy(zero_copy_only=False) for batch in batches]
            labels = torch.cat([torch.from_numpy(each.astype("int64")) for each in found])
    kind = features.get(label) if isinstance(features, Mapping) else None
    names = kind.get("names") if isinstance(kind, Mapping) else None
    class_names = tuple(map(str, names)) if isinstance(names, list) else ()
    return lazy_images(source, path.name, labels, class_names, levels)


def _files(path: Path) -> list[Path]:
    """Files of a folder by its `state.json`, in their order."""
    if (path / "dataset_dict.json").exists():
        raise DataError("holds several data sets: give one of its folders, such as its train")
    state = _json(path / "state.json")
    if state.get("_indices_data_files"):
        raise DataError("holds a selection of its rows: save what flatten_indices() returns")
    listed = state.get("_data_files")
    listed = listed if isinstance(listed, list) else []
    names = [each["filename"] for each in listed if _is_named(each)]
    for name in names:
        if not name or os.path.basename(name) != name:
            raise DataError(f"names {name!r} as a file of its own; accepted: names without folders")
        with naming(name):
            require_file(path / name)
    return [path / name for name in names]


def _is_named(entry: object) -> bool:
    return isinstance(entry, Mapping) and isinstance(entry.get("filename"), str)


def _batches(file: Path) -> list[Any]:
    with naming(file.name):
        return batches_of(file)


def _json(path: Path) -> dict[str, Any]:
    with naming(path.name), damaged("JSON"):
        found = json.loads(read_text(path))
        return found if isinstance(found, dict) else {}
