"""NumPy files: `.npy` and `.npz`, never unpickled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged, naming
from sde_score.data.dataset import DataSet
from sde_score.data.limits import Limits, require_file
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.column import Cells
from sde_score.data.tables.frames import named_arrays
from sde_score.data.tables.kinds import kinds_of
from sde_score.data.tensors import Channels, from_tensor
from sde_score.scaling import Scaling

_KEYS = ("x", "data", "images", "samples")
_BESIDE = ("labels", "levels", "columns")
_ONE, _NAMED = "condition", "condition_"
_CHANNELS = (1, 3, 4)


@checked
def array(
    path: Path,
    levels: int | None = None,
    max_bytes: int | None = None,
    channels: Channels | None = None,
    kinds: str | None = None,
    label: str | None = None,
) -> DataSet:
    """A NumPy file: floating-point arrays are continuous data, uint8 arrays are 8-bit data.

    A `.npy` file holds one array `(count, *event)` and is memory-mapped, so it may exceed the
    memory. A `.npz` file holds it under one of the keys x, data, images, samples, and optionally
    integers under `labels` or vectors `(count, n)` or images under `condition`, or a dictionary of
    named conditions, each under `condition_` and its name, the number of levels under `levels`, and
    the names of the columns of a table, as text, under `columns`. A `.npz` file of arrays that are
    all one-dimensional and as long is a table, each array a column, see `data.from_table`.
    Continuous data are
    standardized: tables `(count, features)` column by column, all else by one mean and one standard
    deviation. 8-bit images are `(count, channels, height, width)`, or `(count, height, width)` for
    gray ones.

    Args:
        path: the file.
        levels: number of levels of integers 0 ... levels - 1; by default see `from_tensor`.
        max_bytes: limit of what the members of a `.npz` unpack to; None for 100 MB, or 300 times
            the file where that is more.
        channels: where the channels are: `"first"`, `"last"` as in `(count, height, width, 3)`, or
            `"none"` as in `(count, height, width)`; None takes them first and refuses what is in
            doubt.
        kinds: of the columns of a table of named arrays, see `data.from_table`.
        label: of them, the column that is the label of each row.

    Raises:
        DataError: if the file is damaged or the array is not such a one.
    """
    path, given = Path(path), kinds_of(kinds)
    require_file(path)
    limits = Limits(path.stat().st_size, max_bytes)
    with damaged("a NumPy file"):
        # Mode "c" maps the file copy-on-write: torch wants writable memory, and the file is never
        # written.
        opened = np.load(path, allow_pickle=False, mmap_mode="c")
    if isinstance(opened, np.ndarray):
        if kinds is not None or label is not None:
            raise DataError("kinds and label are of a table, a .npz of columns alone")
        return _data_set(opened, None, {}, levels, path.name, channels)
    with opened:
        if (cells := _columns(opened, limits)) is not None:
            return dataset_of(list(cells), list(cells.values()), path.name, given, label)
        if kinds is not None or label is not None:
            raise DataError("kinds and label are of a table, an archive of columns alone")
        key = _key(list(opened.keys()))
        limits.require_unpacked(_unpacked(opened, key))
        with damaged("a NumPy file"):
            values = opened[key]
            labels = opened["labels"] if "labels" in opened.files else None
            told = {name: opened[name] for name in opened.files if _is_condition(name)}
            number = opened["levels"] if "levels" in opened.files else None
            columns = opened["columns"] if "columns" in opened.files else None
        if levels is None and number is not None:
            levels = _told(number)
    found = _data_set(values, labels, told, levels, path.name, channels)
    return found if columns is None else _with_columns(found, columns)


def _columns(opened: Any, limits: Limits) -> dict[str, Cells] | None:
    """The columns of a table of named arrays; None for an archive of examples."""
    others = any(name in _BESIDE or _is_condition(name) for name in opened.files)
    with damaged("a NumPy file"):
        if others or len(opened.files) == 1 or not all(_is_flat(opened, key) for key in _KEYS):
            return None
        limits.require_unpacked(_unpacked(opened, *opened.files))
        return named_arrays({name: opened[name] for name in opened.files})


def _is_flat(opened: Any, name: str) -> bool:
    """Whether a member has one dimension, by its header, or is not there."""
    if name not in opened.files:
        return True
    with opened.zip.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            return len(np.lib.format.read_array_header_1_0(file)[0]) == 1
        return len(np.lib.format.read_array_header_2_0(file)[0]) == 1


def _with_columns(dataset: DataSet, columns: Any) -> DataSet:
    """The table with the names of its columns."""
    named = isinstance(columns, np.ndarray) and columns.dtype.kind == "U"
    if not named or columns.shape != dataset.event_shape:
        raise DataError(
            f"holds something else under columns than a name for each entry of examples of shape "
            f"{dataset.event_shape}, as of np.array(['a', 'b'])"
        )
    return replace(dataset, column_names=tuple(columns.tolist()))


def _data_set(
    values: Any,
    labels: Any,
    told: dict[str, Any],
    levels: int | None,
    name: str,
    channels: Channels | None,
) -> DataSet:
    scaling = None if levels is None else Scaling.discrete(levels)
    named = {key[len(_NAMED) :]: _to_tensor(value) for key, value in told.items() if key != _ONE}
    if named and _ONE in told:
        raise DataError(f"holds {_ONE} and {_NAMED}{next(iter(named))}: give one kind of them")
    condition = named or (_to_tensor(told[_ONE]) if told else None)
    x, found = _examples(values, levels), _labels(labels)
    if channels is None and x.dtype == torch.uint8:
        channels = _of_images(tuple(x.shape))
    given: dict[str, Any] = {"condition": condition, "channels": channels}
    try:
        return from_tensor(x, found, scaling, name=name, **given)
    except TypeError as error:
        raise DataError(f"holds what is no data set: {error}") from error


def _is_condition(key: str) -> bool:
    return key == _ONE or key.startswith(_NAMED)


def load_array(path: Path, shape: tuple[int, ...]) -> Tensor:
    """One array of numbers of a known shape, float64.

    Args:
        path: `.npy`.
        shape: that it must have; one more dimension of length 1 in front is left out.

    Raises:
        DataError: if the file is damaged, or holds an array of another shape.
    """
    path = Path(path)
    with naming(path):
        require_file(path)
        with damaged("a NumPy array, .npy"):
            found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
            raise DataError("holds no array of numbers; accepted: .npy")
        if found.shape not in (shape, (1, *shape)):
            raise DataError(f"holds an array of shape {found.shape}; accepted: {shape}")
        return torch.from_numpy(found.astype(np.float64).reshape(shape))


def load_condition(path: Path, count: int) -> Tensor | dict[str, Tensor]:
    """The conditions in a NumPy file, in the data's own terms, one for each of `count` examples.

    Args:
        path: `.npy` with an array, or `.npz` with one under `condition`, or with a dictionary, each
            entry under `condition_` and its name; a single row counts for all examples.
        count: number of examples; the rows behind are left out.

    Raises:
        DataError: if the file is damaged, holds no conditions or too few.
    """
    path = Path(path)
    with naming(path):
        require_file(path)
        limits = Limits(path.stat().st_size)
        with damaged("a NumPy file"):
            opened = np.load(path, allow_pickle=False)
        found = {_ONE: opened} if isinstance(opened, np.ndarray) else {}
        if not isinstance(opened, np.ndarray):
            with opened:
                limits.require_unpacked(_unpacked(opened))
                with damaged("a NumPy file"):
                    found = {name: opened[name] for name in opened.files if _is_condition(name)}
        if not found:
            raise DataError(f"holds no conditions; accepted: {_ONE}, or {_NAMED} and a name")
        rows = {name: _rows(name, _to_tensor(value), count) for name, value in found.items()}
    return rows[_ONE] if _ONE in rows else {name[len(_NAMED) :]: v for name, v in rows.items()}


def _rows(name: str, value: Tensor, count: int) -> Tensor:
    if value.ndim == 0 or len(value) not in (1, *range(count, len(value) + 1)):
        raise DataError(
            f"{name} has shape {tuple(value.shape)} for {count} examples; accepted: one row for "
            "each, or one for all"
        )
    return value[:count] if len(value) >= count else value.expand(count, *value.shape[1:])


def _key(keys: list[str]) -> str:
    found = [key for key in _KEYS if key in keys]
    if len(found) != 1:
        raise DataError(
            f"holds the keys {' '.join(', '.join(keys).split()) or 'none'}; "
            f"accepted: exactly one of {', '.join(_KEYS)}"
        )
    return found[0]


def _unpacked(archive: Any, *keys: str) -> int:
    """Bytes of the members that are read, by the directory of the archive."""
    sizes = {each.filename.removesuffix(".npy"): each.file_size for each in archive.zip.infolist()}
    wanted = (*keys, *_BESIDE)
    return sum(size for name, size in sizes.items() if name in wanted or _is_condition(name))


def _told(levels: Any) -> int:
    """The number of levels that an archive holds."""
    whole = isinstance(levels, np.ndarray) and levels.size == 1 and levels.dtype.kind in "iu"
    if not whole or int(levels.item()) < 2:
        raise DataError("holds something else than an integer of at least 2 under levels")
    return int(levels.item())


def _examples(values: np.ndarray[Any, Any], levels: int | None) -> Tensor:
    x = _to_tensor(values)
    if levels is None and x.dtype != torch.uint8 and not x.is_floating_point():
        raise DataError(
            f"holds {values.dtype}; accepted: floating-point (continuous) or uint8 (8-bit), "
            "so convert it first, as with .astype('float64'), or give levels=... for integers"
        )
    return x


def _of_images(shape: tuple[int, ...]) -> Channels | None:
    """Where the channels of 8-bit arrays are, which are images; None leaves it to the shape."""
    last = len(shape) == 4 and shape[3] in _CHANNELS
    if last and shape[1] in _CHANNELS:
        raise DataError(
            f"8-bit images of shape {shape} are ambiguous: give channels='first' or "
            "channels='last', as in x.npy(channels='first')"
        )
    return "none" if len(shape) == 3 else None


def _labels(values: np.ndarray[Any, Any] | None) -> Tensor | None:
    if values is None:
        return None
    if not isinstance(values, np.ndarray):
        raise DataError("holds something else than an array under labels")
    if values.dtype.kind not in "iu":
        raise DataError(f"labels are {values.dtype}; accepted: integers")
    return _to_tensor(values)


def _to_tensor(values: np.ndarray[Any, Any]) -> Tensor:
    if not isinstance(values, np.ndarray):  # a member of an archive may be anything
        raise DataError("holds something else than arrays")
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        raise DataError(f"holds {values.dtype}; accepted: floating-point up to 64 bits, or uint8")
    # Only a foreign byte order makes a copy.
    return torch.from_numpy(np.asarray(values, dtype=values.dtype.newbyteorder("=")))
