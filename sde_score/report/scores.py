"""One value per example as a file: `.csv`, `.json`, `.npy` or `.parquet`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sde_score._core.errors import require_extra
from sde_score._core.files import replace_file, require_writable

SCORE_ENDINGS = (".csv", ".json", ".npy", ".parquet")


def require_scores_file(path: Path, name: str = "out") -> None:
    """Refuse a path to which `write_scores` cannot write, before anything is computed.

    Args:
        path: of the file.
        name: of the argument it came in.

    Raises:
        ValueError: for another ending, or a path that cannot be written.
        DataError: for `.parquet` without the extra `[data]`.
    """
    if path.suffix not in SCORE_ENDINGS:
        raise ValueError(f"{name}={path} must end with {', '.join(SCORE_ENDINGS)}")
    require_writable(path, name)
    if path.suffix == ".parquet":
        require_extra("pyarrow.parquet")


def write_scores(columns: Mapping[str, Sequence[Any]], path: Path) -> None:
    """Write a table of scores, in one step.

    `.csv` has a line of names and one for each example, empty where there is no number; `.json` one
    object of columns; `.npy` a structured array; `.parquet` takes the extra `[data]`.

    Args:
        columns: of one length, by name.
        path: ending with one of `SCORE_ENDINGS`.

    Raises:
        ValueError: for another ending.
        OSError: if it cannot be written; what was there before stays.
    """
    require_scores_file(path, "path")
    content = _WRITERS[path.suffix](columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _csv(columns: Mapping[str, Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(["" if _plain(value) is None else value for value in row])
    return text.getvalue().encode()


def _json(columns: Mapping[str, Sequence[Any]]) -> bytes:
    plain = {name: [_plain(value) for value in values] for name, values in columns.items()}
    return json.dumps(plain).encode()


def _npy(columns: Mapping[str, Sequence[Any]]) -> bytes:
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    count = len(next(iter(arrays.values())))
    table = np.empty(count, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    buffer = io.BytesIO()
    np.save(buffer, table, allow_pickle=False)
    return buffer.getvalue()


def _parquet(columns: Mapping[str, Sequence[Any]]) -> bytes:
    pyarrow, parquet = require_extra("pyarrow"), require_extra("pyarrow.parquet")
    buffer = io.BytesIO()
    plain = {name: [_plain(value) for value in values] for name, values in columns.items()}
    parquet.write_table(pyarrow.table(plain), buffer)
    return buffer.getvalue()


_WRITERS = {".csv": _csv, ".json": _json, ".npy": _npy, ".parquet": _parquet}
