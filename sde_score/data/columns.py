"""Columns of a table that are conditions: what the network is told beside the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sde_score._core.conditions import require_condition_shape
from sde_score._core.errors import DataError
from sde_score.data.dataset import DataSet
from sde_score.data.tables.coding import BESIDE, TableCoding, entry_name, with_roles
from sde_score.data.tables.kinds import as_cells
from sde_score.scaling import Scaling


def column_names(names: Sequence[str], count: int) -> list[str]:
    """Names of the columns of a table: its own, or x1, x2, ... where it has none.

    Args:
        names: its own, or empty.
        count: number of columns.
    """
    return list(names) or [f"x{index + 1}" for index in range(count)]


def split_names(columns: str | Sequence[str]) -> list[str]:
    """Names of columns, of text such as `"a, b"` or a sequence."""
    names = columns.split(",") if isinstance(columns, str) else columns
    return [str(name).strip() for name in names]


def with_condition_columns(dataset: DataSet, columns: str | Sequence[str]) -> DataSet:
    """The same table with some of its columns as condition, and the rest as examples.

    Columns of numbers are a vector, encoded and scaled as they were; with categorical ones it is a
    dictionary of their classes by name, and of the vector under `numbers`.

    Args:
        dataset: a table, event `(columns,)`, without labels and conditions.
        columns: names, as text such as `"a,b"` or a sequence; of a table without names they are
            x1, x2, ...

    Raises:
        DataError: if it is no table, has conditions already, or has no such columns or no others.
    """
    wanted, shown = split_names(columns), ",".join(split_names(columns))
    if len(dataset.event_shape) != 1:
        raise DataError(
            f"condition_columns={shown!r} needs a table, and {dataset.name} has examples of shape "
            f"{dataset.event_shape}"
        )
    if dataset.labels is not None or dataset.conditions is not None:
        raise DataError(
            f"condition_columns={shown!r}: {dataset.name} has labels or conditions already; leave "
            "one of them out"
        )
    coding = dataset.coding
    if coding is not None and coding.transformer:
        raise DataError(
            f"condition_columns={shown!r}: the columns are changed together by "
            f"{coding.transformer}; leave the transformer out"
        )
    names = column_names(dataset.column_names, dataset.event_shape[0])
    if coding is not None:
        names = list(coding.learned)
    wrong = [name for name in wanted if names.count(name) != 1 or wanted.count(name) != 1]
    if wrong or len(wanted) == len(names):
        reason = f"{wrong[0]!r} is not one of them, once" if wrong else "no column is left over"
        raise DataError(
            f"condition_columns={shown!r}: {reason}; {dataset.name} has the columns "
            f"{', '.join(names)}"
        )
    groups = coding.groups if coding is not None else tuple(range(len(names)))
    own = column_names(dataset.column_names, len(groups))
    rest = [index for index, group in enumerate(groups) if names[group] not in wanted]
    whole = dataset._source if isinstance(dataset._source, Tensor) else dataset.raw()
    kept = replace(
        dataset,
        rows=dataset.rows if isinstance(dataset._source, Tensor) else None,
        _source=whole[:, rest],
        scaling=_of_columns(dataset.scaling, rest),
        column_names=tuple(own[index] for index in rest),
        coding=None if coding is None else with_roles(coding, conditions=wanted),
    )
    return _told(dataset, kept, {name: _places(groups, names.index(name)) for name in wanted})


def _told(dataset: DataSet, kept: DataSet, places: Mapping[str, list[int]]) -> DataSet:
    """The table that is kept, with the encoded columns at these places as its condition."""
    coding = dataset.coding
    source = dataset._source if isinstance(dataset._source, Tensor) else dataset.raw()
    classes = [
        name for name in places if coding is not None and coding.column(name).kind == "categorical"
    ]
    numbers = [index for name in places if name not in classes for index in places[name]]
    gone = [name for name in places if bool(source[:, places[name]].isnan().any())]
    if gone:
        raise DataError(
            f"condition_columns: column {gone[0]} has missing cells: fill them in, or leave these "
            "rows or the column out"
        )
    vector, scaling = source[:, numbers], _of_columns(dataset.scaling, numbers)
    names = tuple(name for name in places if name not in classes)
    kept = replace(kept, condition_names=names)
    if coding is None or not classes:
        shape = (len(numbers),)
        return replace(kept, conditions=vector, condition_scaling=scaling, condition_shape=shape)
    conditions: dict[str, Tensor] = {
        entry_name(name): torch.from_numpy(
            coding.column(name).nearest(source[:, places[name]].numpy())
        )
        for name in classes
    }
    shapes: dict[str, int | tuple[int, ...]] = {
        entry_name(name): len(coding.column(name).categories) for name in classes
    }
    if numbers:
        conditions[BESIDE], shapes[BESIDE] = vector, (len(numbers),)
    return replace(
        kept,
        conditions=conditions,
        condition_shape=require_condition_shape(shapes),
        condition_scaling={BESIDE: scaling} if numbers else {},
    )


def _places(groups: Sequence[int], group: int) -> list[int]:
    return [index for index, each in enumerate(groups) if each == group]


def vectors_of(
    values: Mapping[str, Any], names: Sequence[str], coding: TableCoding | None = None
) -> Any:
    """Raw conditions of values by the names of their columns: float64 vectors, shape
    `(n, len(names))`, or a dictionary with classes.

    Args:
        values: for each name a number or a category, or n of them.
        names: of all columns.
        coding: of the columns; None for numbers as they are.

    Raises:
        ValueError: for other names, or values that are no numbers.
    """
    if set(values) != set(names):
        raise ValueError(
            f"condition names {', '.join(map(str, values)) or 'nothing'}; accepted: a value for "
            f"each of {', '.join(names)}"
        )
    if coding is not None:
        listed = {name: _listed(name, values[name], coding) for name in names}
        count = max(len(given) for given in listed.values())
        if any(len(given) not in (1, count) for given in listed.values()):
            raise ValueError(
                f"condition={values}: accepted are a value for each, or as many for all"
            )
        rows = {name: given * (count // len(given)) for name, given in listed.items()}
        return coding.condition({name: as_cells(name, given) for name, given in rows.items()})
    try:
        numbers = [float(v) if isinstance(v := values[name], str) else v for name in names]
        found = [torch.as_tensor(each, dtype=torch.float64).reshape(-1) for each in numbers]
        count = max(map(len, found))
        return torch.stack([each.expand(count) for each in found], 1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"condition={values}: accepted are a number for each name, or as many for all"
        ) from error


def _listed(name: str, given: Any, coding: TableCoding) -> list[Any]:
    """Values of a column as a list; text of numbers as numbers."""
    given = given.tolist() if hasattr(given, "tolist") else given
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    if coding.column(name).kind == "categorical":
        return [str(value) for value in listed]
    try:
        return [float(value) for value in listed]
    except (TypeError, ValueError) as error:
        raise ValueError(f"condition: {name}={given} is no number, as in {name}=1.2") from error


def _of_columns(scaling: Scaling, chosen: Sequence[int]) -> Scaling:
    if not isinstance(scaling.center, tuple) or not isinstance(scaling.width, tuple):
        return scaling
    return replace(
        scaling,
        center=tuple(scaling.center[index] for index in chosen),
        width=tuple(scaling.width[index] for index in chosen),
    )
