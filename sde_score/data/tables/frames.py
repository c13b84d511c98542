"""Tables in memory: data frames, Arrow tables, dictionaries of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sde_score._core.checks import class_of
from sde_score._core.errors import ArgumentError, DataError, damaged, require_extra
from sde_score.data.dataset import DataSet
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.column import Cells
from sde_score.data.tables.kinds import Kinds, as_cells, kinds_of
from sde_score.data.tables.transformer import Transformer, with_transformer


def is_frame(source: object) -> bool:
    """Whether an object is a data frame or an Arrow table, of any library."""
    if isinstance(source, type):
        return False
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__dataframe__")


def from_table(
    table: Any,
    kinds: Kinds = None,
    label: str | None = None,
    *,
    transformer: Transformer | None = None,
    name: str = "table",
) -> DataSet:
    """A data set over a table in memory, of columns of any kind.

    A column of texts or flags, or of integers that are all 0 or 1, is taken as categorical, one of
    other integers as integer, one of a single value as constant, which is kept aside and written
    back; all else is numeric. What is missing, NaN or None, is learned by masks.

    ============ ============================================================================
    kind         encoding
    ============ ============================================================================
    numeric      the number, standardized
    integer      the number, standardized; samples are rounded
    positive     its logarithm; cells are above 0
    bounded      `bounded(low, high)`: the logit of its share; cells lie between the bounds
    categorical  one-hot; binary digits beyond 32 categories, or as `categorical(code='bits')`
    constant     none
    drop         the column is left out
    ============ ============================================================================

    Args:
        table: a pandas or polars `DataFrame`, an Arrow table or anything with its C stream, or a
            dictionary from names to arrays.
        kinds: of columns where the automatic ones are not meant, as text such as
            `"age:integer,income:positive,rate:bounded(0, 1),job:categorical"` or a dictionary.
        label: column that is the label of each row.
        transformer: changes the encoded columns, all numeric, once more: has `transform` and
            `inverse_transform` of arrays `(rows, columns)`, and `fit` where it is not fitted yet,
            as scikit-learn's have. Its log-determinant enters likelihoods: by its own
            `log_abs_det(x)`, shape `(rows,)`, or by differences.
        name: of the data set, in reports.

    Raises:
        TypeError: for what is no table.
        DataError: for a column of other kinds, or one that has no such encoding.
    """
    given = kinds_of(kinds)
    columns = columns_of(table)
    found = dataset_of(list(columns), list(columns.values()), name, given, label)
    return found if transformer is None else with_transformer(found, transformer)


def columns_of(table: Any) -> dict[str, Cells]:
    """Cells of each column of a table in memory, by name.

    Raises:
        TypeError: for what is no table.
        DataError: for a column that holds something else than numbers, texts and flags.
    """
    if isinstance(table, Mapping):
        found = {str(name): as_cells(str(name), values) for name, values in table.items()}
    elif not isinstance(table, type) and hasattr(table, "columns") and is_frame(table):
        names = getattr(table, "column_names", None) or list(table.columns)
        found = {str(name): _of_frame(str(name), table[name]) for name in names}
    elif is_frame(table):
        with damaged("an Arrow table"):
            arrow = require_extra("pyarrow").table(table)
        found = columns_of_arrow(arrow)
    else:
        raise ArgumentError(
            f"table is {class_of(table)}; accepted: a data frame, an Arrow table, or a dictionary "
            "from names to arrays"
        )
    lengths = {len(cells.values) for cells in found.values()}
    if len(lengths) != 1 or not lengths.pop():
        raise DataError("table holds no rows, or columns of different length")
    return found


def _of_frame(name: str, series: Any) -> Cells:
    """A column of a data frame; the categories of a categorical one are texts or numbers."""
    if hasattr(series, "to_pylist"):
        return _of_arrow(name, series)
    missing = series.isna() if hasattr(series, "isna") else series.is_null()
    gone = np.asarray(missing.to_numpy(), dtype=bool)
    values = np.asarray(series.to_numpy())
    nullable = gone.any() and values.dtype == object
    whole = str(series.dtype).lower()
    if nullable and whole.startswith(("int", "uint", "float", "boolean")):
        kind = bool if whole == "boolean" else np.dtype(whole)
        filled = np.zeros(len(values), dtype=kind)
        filled[~gone] = values[~gone].astype(kind)
        values = filled
    return as_cells(name, values, gone)


def columns_of_arrow(table: Any) -> dict[str, Cells]:
    """Cells of each column of an Arrow table."""
    names = [str(name) for name in table.column_names]
    return {name: _of_arrow(name, table.column(index)) for index, name in enumerate(names)}


def _of_arrow(name: str, column: Any) -> Cells:
    """Cells of an Arrow column: numbers keep their type, also where some are missing."""
    kinds = require_extra("pyarrow.types")
    with damaged("an Arrow table"):
        if kinds.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        missing = np.asarray(column.is_null().to_numpy(), dtype=bool)
        number = kinds.is_integer(column.type) or kinds.is_floating(column.type)
        if number or kinds.is_boolean(column.type):
            values = np.asarray(column.fill_null(False if not number else 0).to_numpy())
        elif kinds.is_decimal(column.type):
            column = column.cast(require_extra("pyarrow").float64())
            values = np.asarray(column.fill_null(0.0).to_numpy())
        else:
            values = np.array([*column.to_pylist(), None], dtype=object)[:-1]
    return as_cells(name, values, missing)


def named_arrays(arrays: Mapping[str, Any]) -> dict[str, Cells] | None:
    """Columns of an archive of named arrays, where each is one-dimensional and as long; else None.

    Args:
        arrays: by name.
    """
    shapes = {getattr(array, "shape", None) for array in arrays.values()}
    if len(shapes) != 1 or len(next(iter(shapes)) or ()) != 1:
        return None
    return {name: as_cells(name, array) for name, array in arrays.items()}
