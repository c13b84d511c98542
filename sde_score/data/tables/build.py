"""Data sets over tables: columns by name, their kinds, and which of them is the label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sde_score._core.errors import DataError
from sde_score.data.dataset import DataSet
from sde_score.data.tables.coding import TableCoding
from sde_score.data.tables.column import Cells
from sde_score.data.tables.kinds import DROP, column_of
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

_KNOWN: ContextVar[tuple[TableCoding, dict[str, Cells]] | None] = ContextVar("known", default=None)


def dataset_of(
    names: Sequence[str],
    cells: Sequence[Cells],
    name: str,
    kinds: Mapping[str, tuple[str, dict[str, Any]]],
    label: str | None = None,
    *,
    named: bool = True,
) -> DataSet:
    """A data set over the columns of a table; each encoded column is standardized.

    Args:
        names: of the columns.
        cells: of each.
        name: of the data set.
        kinds: kind and arguments by column, see `kinds_of`.
        label: column that is the label of each row; None for none.
        named: whether the names are the table's own.

    Raises:
        DataError: for names that repeat or are no columns, a column that has no encoding, or
            nothing to learn.
    """
    table = dict(zip(names, cells, strict=True))
    if (known := _KNOWN.get()) is not None:
        return _as_known(*known, table, name)
    _require_names(names, kinds, label)
    given = {**kinds, **({label: _as_label(label, kinds)} if label is not None else {})}
    kept = [each for each in names if given.get(each, ("",))[0] != DROP]
    columns = tuple(column_of(each, table[each], given.get(each)) for each in kept)
    coding = TableCoding(columns, label or "")
    if not coding.names:
        raise DataError("holds nothing to learn: every column is constant or the label")
    x = coding.encode(table)
    own = coding.names if named or not coding.is_plain or len(columns) > x.shape[1] else ()
    scaling = coding.scaling(x)
    whole = not bool(x.isnan().any())
    found = from_tensor(x, scaling=scaling, name=name) if whole else DataSet(name, x, scaling)
    found = replace(found, column_names=tuple(own), coding=coding)
    return found if label is None else _labelled(found, table[label])


@contextmanager
def read_as(coding: TableCoding) -> Iterator[dict[str, Cells]]:
    """Read a table inside as rows of a known one: its columns, kinds, categories and roles.

    Columns that the table lacks are missing in every row, those that are not known are left out;
    the scaling is left to the caller. The dictionary that is yielded receives the cells by column.
    """
    cells: dict[str, Cells] = {}
    token = _KNOWN.set((coding, cells))
    try:
        yield cells
    finally:
        _KNOWN.reset(token)


def _as_known(
    coding: TableCoding, cells: dict[str, Cells], table: Mapping[str, Cells], name: str
) -> DataSet:
    rows = len(next(iter(table.values())).values)
    nothing = Cells(np.zeros(rows), np.ones(rows, dtype=bool))
    if not {column.name for column in coding.columns} & set(table):
        names = ", ".join(column.name for column in coding.columns)
        raise DataError(f"has the columns {', '.join(table)}, and none of {names}")
    cells |= {column.name: table.get(column.name, nothing) for column in coding.columns}
    found = DataSet(name, coding.encode(cells), Scaling(), column_names=coding.names, coding=coding)
    told = coding.condition(cells)
    if coding.label and isinstance(told, Tensor):
        return replace(found, labels=told)
    return replace(found, conditions=told)


def _labelled(dataset: DataSet, cells: Cells) -> DataSet:
    coding: Any = dataset.coding
    column = coding.column(coding.label)
    if cells.missing.any():
        row = int(cells.missing.argmax()) + 1
        raise DataError(f"label {column.name} of row {row} is missing: fill it in or drop the row")
    if column.kind == "constant":
        raise DataError(f"label {column.name} is {column.categories[0]} throughout: leave it out")
    count = len(column.categories)
    numbered = column.categories == tuple(map(str, range(count)))
    return replace(
        dataset,
        labels=torch.from_numpy(column.classes(cells)),
        num_classes=count,
        class_names=() if numbered else column.categories,
    )


def _as_label(label: str, kinds: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    kind = kinds.get(label, ("categorical", {}))
    if kind[0] != "categorical":
        raise DataError(f"label={label!r} is {kind[0]} in kinds; a label is categorical")
    return kind  # type: ignore[no-any-return]


def _require_names(names: Sequence[str], kinds: Mapping[str, Any], label: str | None) -> None:
    repeated = [each for each in names if names.count(each) > 1]
    if repeated:
        raise DataError(f"has several columns named {repeated[0]!r}: rename all but one")
    for what, each in [*(("kinds", k) for k in kinds), *([("label", label)] if label else [])]:
        if each not in names:
            raise DataError(f"{what} names the column {each!r}; there are {', '.join(names)}")
