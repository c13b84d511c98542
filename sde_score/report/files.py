"""Samples on disk: arrays and tables in the data's own terms, a picture, or a file for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.conditions import Condition
from sde_score._core.errors import require_extra
from sde_score._core.files import new_folder, replace_file, require_new_folder, require_writable
from sde_score.data import Scaling
from sde_score.report.look import Look, kind_of
from sde_score.report.pictures import png, png_of_pixels, save_examples
from sde_score.report.table_picture import table_figure

FORMATS = (".npz", ".npy", ".csv", ".parquet", ".png")
TABLES = (".csv", ".parquet")
"""Endings of tables."""
_DRAWN = 256
_LOST = 1e-4  # of the width of the data; float32 that loses more becomes float64


def require_samples_file(path: Path, event_shape: Sequence[int] | None = None) -> None:
    """Refuse a path to which `save_samples` cannot write, before anything is drawn.

    Args:
        path: as for `save_samples`.
        event_shape: of the samples, once it is known.

    Raises:
        ValueError: naming the path, what is wrong and what is accepted.
    """
    if path.suffix == "":
        require_new_folder(path)
    elif path.suffix not in FORMATS:
        accepted = f"accepted: a file ending with {', '.join(FORMATS)}, or a folder"
        raise ValueError(f"out={path} ends with {path.suffix}; {accepted}")
    else:
        require_writable(path, "out")
    if path.suffix == ".parquet":
        require_extra("pyarrow.parquet")
    if path.suffix in TABLES and event_shape is not None and len(event_shape) != 1:
        raise ValueError(
            f"out={path} takes tables, one sample a line, and samples of this run have the shape "
            f"{tuple(event_shape)}: take .npz, .npy, .png or a folder"
        )


def save_samples(
    x: Tensor,
    path: Path,
    look: Look | Scaling,
    condition: Condition = None,
    real: Mapping[str, Any] | None = None,
) -> None:
    """Write samples, in one step.

    `.npz` holds `samples`, for conditional samples `labels` and for discrete data `levels`; `.npy`
    the samples alone; `.csv` and `.parquet` a table with the columns, order and types of the data,
    those that are conditions or the label included, or behind them a column `label`; all in the
    data's own terms, so that `sde_score.data.load` reads them back. Of a table whose columns are
    encoded, `.npz` holds an array for each column. They are float32, or float64 where float32 has
    too few digits for the data. `.png` is a picture of the first 256, or of as many as fit, or of
    all columns of a table. A path without an ending is a new folder with a file for each sample:
    `.png` at its own size for gray and color images, otherwise `.npy`.

    Args:
        x: in model range, shape `(n, *event)`.
        path: ending with one of `FORMATS`, or a folder.
        look: of the data set, or its scaling alone.
        condition: labels of the samples, or vectors or images, which `.npz` holds as `condition`,
            or a dictionary, whose entries it holds as `condition_` and their names.
        real: columns of real rows by name, which the picture of a table shows beside.

    Raises:
        ValueError: for another ending, a folder that holds files, or samples that are no table.
        OSError: if it cannot be written.
    """
    look = Look(look) if isinstance(look, Scaling) else look
    require_samples_file(path, x.shape[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png" and look.coding is not None:
        table = look.coding.decode(look.scaling.from_model(x.cpu().double()))
        replace_file(path, png(table_figure(table, real), dpi=150))
    elif path.suffix == ".png":
        most = look.most(x.shape[1:]) if kind_of(x.shape[1:]) == "images" else len(x)
        shown = x[: min(_DRAWN, most)]
        save_examples(shown, path, max(1, round(len(shown) ** 0.5)), look)
    elif path.suffix == "":
        _write_folder(x, path, look)
    else:
        raw = _raw(x, look.scaling)
        write = {".csv": _csv, ".parquet": _parquet, ".npy": _npy, ".npz": _npz}[path.suffix]
        content = write(raw, look, condition)
        replace_file(path, content)


def _raw(x: Tensor, scaling: Scaling) -> Any:
    """Samples in the data's own terms, in float32 where it has the digits."""
    raw = scaling.from_model(x.cpu().double())
    if scaling.levels is None:
        width = torch.as_tensor(scaling.width, dtype=torch.float64)
        near = raw.float()
        raw = near if bool(((near - raw).abs() <= _LOST * width).all()) else raw
    return raw.numpy()


def _npy(raw: Any, look: Look, condition: Condition) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, raw, allow_pickle=False)
    return buffer.getvalue()


def _npz(raw: Any, look: Look, condition: Condition) -> bytes:
    buffer, arrays = io.BytesIO(), {"samples": raw}
    if look.coding is not None and not look.coding.is_plain:
        columns = table_of(raw, look, condition).items()
        arrays = {n: v.astype(str) if v.dtype == object else v for n, v in columns}
    elif isinstance(condition, Mapping):
        arrays |= {f"condition_{name}": value.cpu().numpy() for name, value in condition.items()}
    elif (labels := _labels(condition)) is not None:
        arrays["labels"] = labels
    elif condition is not None:
        arrays["condition"] = condition.cpu().numpy()
    if look.scaling.levels is not None:
        arrays["levels"] = np.array(look.scaling.levels)
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _labels(condition: Condition) -> Any:
    """Integers of a condition that is a label alone, else None."""
    alone = isinstance(condition, Tensor) and condition.ndim == 1
    return condition.cpu().numpy().astype(int) if alone else None  # type: ignore[union-attr]


def table_of(raw: Any, look: Look, condition: Condition = None) -> dict[str, Any]:
    """Samples as columns by name, of the types they came with.

    Args:
        raw: encoded where the look has a coding, shape `(n, columns)`.
        look: of the data.
        condition: raw; its columns are put where they were, labels without a name behind.
    """
    if look.coding is not None:
        found = look.coding.decode(torch.from_numpy(raw), condition)
    else:
        found = dict(zip(look.names(raw.shape[1]), raw.T, strict=True))
        names = look.condition_names
        if isinstance(condition, Tensor) and condition.ndim == 2 and names:
            found |= dict(zip(names, condition.cpu().numpy().T, strict=True))
    labels = _labels(condition)
    named = look.coding is not None and look.coding.label
    return found if labels is None or named else {**found, "label": labels}


def _csv(raw: Any, look: Look, condition: Condition) -> bytes:
    table = table_of(raw, look, condition)
    if raw.dtype == np.float32:  # no digits beyond those that were drawn
        table = {n: v.astype(raw.dtype) if v.dtype.kind == "f" else v for n, v in table.items()}
    return table_bytes(table, ".csv")


def _parquet(raw: Any, look: Look, condition: Condition) -> bytes:
    return table_bytes(table_of(raw, look, condition), ".parquet")


def table_bytes(table: Mapping[str, Any], suffix: str) -> bytes:
    """Columns by name as the content of a CSV or parquet file.

    Args:
        table: arrays, each of shape `(rows,)`.
        suffix: one of `TABLES`.
    """
    if suffix == ".parquet":
        buffer = io.BytesIO()
        arrow = require_extra("pyarrow").table(dict(table))
        require_extra("pyarrow.parquet").write_table(arrow, buffer)
        return buffer.getvalue()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    cells = ([str(cell) for cell in column] for column in table.values())
    writer.writerows(zip(*cells, strict=True))
    return text.getvalue().encode()


def _write_folder(x: Tensor, path: Path, look: Look) -> None:
    """A file for each sample, in a folder that appears when all are there."""
    digits = len(str(len(x) - 1))
    images = kind_of(x.shape[1:]) == "images" and x.ndim == 4 and x.shape[1] in (1, 3)
    parts = look.images(x) if images else None
    with new_folder(path) as folder:
        for index in range(len(x)):
            place = folder / f"{index:0{digits}d}"
            if parts is not None and parts.shape[1] == 1:
                content = png_of_pixels(parts[index, 0].permute(1, 2, 0))
                place.with_suffix(".png").write_bytes(content)
            else:
                raw = _raw(x[index : index + 1], look.scaling)[0]
                place.with_suffix(".npy").write_bytes(_npy(raw, look, None))
