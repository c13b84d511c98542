"""Kinds of the columns of a table: those that are given, and those that the cells show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sde_score._core.checks import class_of, shown
from sde_score._core.errors import ArgumentError, DataError
from sde_score._core.registry import parse_spec
from sde_score.data.tables.column import CODES, KINDS, Cells, Column

DROP = "drop"
"""In place of a kind: leave the column out."""

_EXAMPLE = "kinds='age:integer,income:positive,rate:bounded(0, 1),job:categorical,id:drop'"
_ARGUMENTS = {"bounded": ("low", "high"), "categorical": ("code",)}
_MOST, _SHARE = 20, 0.5  # categories, and of the rows, beyond which texts are rather names
_ONE_HOT = 32
_EXACT = 2**53

Kinds = str | Mapping[str, str] | None


def kinds_of(kinds: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Kind and arguments by column, of text such as `"age:integer,rate:bounded(0, 1)"`, or a
    dictionary from names to kinds.

    Raises:
        ValueError: for an unknown kind, a column twice, or text that cannot be read.
    """
    if kinds is None:
        return {}
    if isinstance(kinds, str):
        pairs = [part.rpartition(":")[::2] for part in _split(kinds)]
    elif isinstance(kinds, Mapping):
        pairs = list(kinds.items())
    else:
        raise ArgumentError(f"kinds={shown(kinds)} is {class_of(kinds)}; accepted: {_EXAMPLE}")
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, text in pairs:
        if not isinstance(name, str) or not isinstance(text, str) or not (name := name.strip()):
            raise ArgumentError(f"kinds={shown(kinds)} must name columns and kinds: {_EXAMPLE}")
        if name in found:
            raise ArgumentError(f"kinds names column {name!r} twice")
        found[name] = _kind(name, text)
    return found


def _kind(name: str, text: str) -> tuple[str, dict[str, Any]]:
    try:
        kind, arguments = parse_spec(text, lambda kind: _ARGUMENTS.get(kind, ()))
    except ValueError as error:
        raise ArgumentError(f"kinds of column {name!r}: {error}") from error
    accepted = _ARGUMENTS.get(kind, ())
    if kind not in (*KINDS, DROP) or set(arguments) - set(accepted):
        raise ArgumentError(
            f"kinds: {text.strip()!r} is no kind of column {name!r}; accepted: "
            f"{', '.join((*KINDS, DROP))}, as in {_EXAMPLE}"
        )
    if kind == "bounded" and set(arguments) != {"low", "high"}:
        raise ArgumentError(f"kinds: bounded needs both bounds: {name}:bounded(0, 1)")
    for key in ("low", "high"):
        if key in arguments and not isinstance(arguments[key], (int, float)):
            raise ArgumentError(f"kinds: {key}={arguments[key]!r} of column {name!r} is no number")
        if key in arguments:
            arguments[key] = float(arguments[key])
    if arguments.get("code", "bits") not in CODES:
        raise ArgumentError(f"kinds: {text.strip()!r}; accepted codes: {', '.join(CODES)}")
    return kind, arguments


def _split(text: str) -> list[str]:
    """Parts of a text between commas that stand outside of brackets."""
    parts = re.split(r",(?![^(]*\))", text)
    return [part for part in parts if part.strip()]


def column_of(name: str, cells: Cells, given: tuple[str, dict[str, Any]] | None) -> Column:
    """A column with the kind that is given, or that its cells show.

    Texts, flags, and integers that are all 0 or 1, are categorical; other integers integer; one
    value alone is constant; all else is numeric. Positive and bounded columns must be said.

    Raises:
        DataError: for a column without cells, or whose texts are hardly categories.
    """
    known = Cells(cells.values[~cells.missing], cells.missing[~cells.missing])
    if not len(known.values):
        raise DataError(f"column {name} is empty: leave it out (kinds='{name}:drop')")
    kind, arguments = given or (_shown_by(known), {})
    values = np.unique(known.values) if kind in ("categorical", "constant") else None
    texts = () if values is None else tuple(map(str, values.tolist()))
    if kind == "constant" and len(texts) > 1:
        raise DataError(f"column {name} is constant in kinds, and holds {texts[0]} and {texts[1]}")
    if kind == "categorical":
        if len(texts) == 1:
            kind, arguments = "constant", {}
        elif given is None and len(texts) > max(_MOST, _SHARE * len(known.values)):
            raise DataError(
                f"column {name} holds {len(texts)} different texts in {len(known.values)} rows, "
                f"as names do: leave it out (kinds='{name}:drop'), or give kinds="
                f"'{name}:categorical'"
            )
        else:
            arguments = {"code": "bits" if len(texts) > _ONE_HOT else "one-hot", **arguments}
    share = float(cells.missing.mean())
    return Column(name, kind, cells.dtype, categories=texts, missing=share, **arguments)


def _shown_by(known: Cells) -> str:
    values = known.values
    if (values == values[0]).all():
        return "constant"
    if known.dtype in ("str", "bool"):
        return "categorical"
    if values.dtype.kind in "iu":
        low, high = int(values.min()), int(values.max())
        if (low, high) == (0, 1):
            return "categorical"
        return "integer" if max(-low, high) <= _EXACT else "numeric"
    return "numeric"


def as_cells(name: str, values: Any, missing: Any = None) -> Cells:
    """The cells of a column that came as an array, a list, or anything with `to_numpy`.

    Texts, flags, integers and floating-point numbers are taken; NaN and None are missing.

    Raises:
        DataError: naming the column and what it holds.
    """
    if isinstance(values, np.ma.MaskedArray):
        values, missing = values.data, np.ma.getmaskarray(values)
    listed = isinstance(values, (list, tuple))  # NumPy would make texts of 1 and "x"
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    array = np.array(values, dtype=object) if listed else np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"column {name} has shape {array.shape}; accepted: one cell for each row")
    gone = np.zeros(len(array), bool) if missing is None else np.asarray(missing, dtype=bool)
    if array.dtype.kind in "OUST":
        return _of_objects(name, array.astype(object), gone)
    if array.dtype.kind == "f":
        array = array if array.dtype.itemsize >= 4 else array.astype(np.float32)
        array = array if array.dtype.itemsize <= 8 else array.astype(np.float64)
        gone = gone | np.isnan(array)
    elif array.dtype.kind not in "iub":
        raise DataError(
            f"column {name} is of {array.dtype}; accepted: numbers, texts and flags, so turn it "
            "into one of them, such as days since a date"
        )
    array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f":
        array = np.where(gone, array.dtype.type(0), array)
    return Cells(array, gone)


def _of_objects(name: str, array: Any, gone: Any) -> Cells:
    """Objects of one type each: texts, flags or numbers, and None or NaN for what is missing."""
    gone = gone | np.array([value is None or value != value for value in array], dtype=bool)
    known = [value.item() if isinstance(value, np.generic) else value for value in array[~gone]]
    types = {type(value) for value in known}
    if types <= {int, float} and len(types) == 2:
        types, known = {float}, list(map(float, known))
    if not types <= {str} and not types <= {bool} and not types <= {int} and not types <= {float}:
        names = ", ".join(sorted(kind.__name__ for kind in types))
        raise DataError(f"column {name} holds {names}; accepted: texts, flags or numbers alone")
    kind: Any = next(iter(types), str)
    dtype: Any = {str: object, int: np.int64}.get(kind, kind)
    try:
        values = np.full(len(array), "" if kind is str else 0, dtype=dtype)
        values[~gone] = known
    except OverflowError as error:
        raise DataError(f"column {name} holds integers beyond 64 bits") from error
    return Cells(values, gone)
