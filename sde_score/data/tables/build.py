"""Data sets over tables: columns by name, their kinds, and which of them is the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from sde_score._core.errors import DataError
from sde_score.data.dataset import DataSet
from sde_score.data.tables.coding import TableCoding
from sde_score.data.tables.column import Cells
from sde_score.data.tables.kinds import DROP, column_of
from sde_score.data.tensors import from_tensor


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
