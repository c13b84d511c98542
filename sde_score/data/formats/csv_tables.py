"""Tables of numbers in CSV files."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch

from sde_score._core.arguments import checked
from sde_score._core.errors import DataError, damaged
from sde_score.data.dataset import DataSet
from sde_score.data.limits import require_file, require_room
from sde_score.data.tensors import from_tensor
from sde_score.scaling import Scaling

_SPREAD = 20  # bytes that one character takes, as text and as numbers of Python
_LONGEST = 1 << 24  # characters of a line


@checked
def table(path: Path, delimiter: str | None = None, header: bool | None = None) -> DataSet:
    """One example per line: continuous data, event `(columns,)`, each column standardized.

    The first line may name the columns: it does if none of its cells is a number. Successive
    integers, such as 0, 1, 2 or years, may be either and are refused. Every other cell is a finite
    number. Empty lines are skipped.

    Args:
        path: a text file in UTF-8.
        delimiter: character between cells; by default a tab for `.tsv` and a comma otherwise.
        header: whether the first line names the columns; None decides by its cells.

    Raises:
        DataError: naming line and column of what is not a number; or if lines differ in length or
            are longer than 16 million characters, a column is constant, there are no lines or the
            table does not fit into memory.
    """
    path = Path(path)
    if delimiter is None:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ValueError(f"delimiter={delimiter!r} must be one character")
    require_file(path)
    require_room(_SPREAD * path.stat().st_size, "save the table as .npy, which is read from disk")
    with damaged("a CSV table"), path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_lines(file), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    if lines and (_names_columns([cells for _, cells in lines]) if header is None else header):
        columns = names = [cell.strip() for cell in lines.pop(0)[1]]
    else:
        names, columns = [], [str(i + 1) for i in range(len(lines[0][1]) if lines else 0)]
    if not lines:
        raise DataError("holds no lines of numbers")
    x = torch.tensor([_row(number, cells, columns) for number, cells in lines], dtype=torch.float64)
    return named_table(x, names, path.name)


def named_table(x: torch.Tensor, names: Sequence[str], name: str) -> DataSet:
    """A data set over a table, each column standardized.

    Args:
        x: shape `(count, columns)`, floating-point.
        names: of the columns; empty for none.
        name: of the data set.

    Raises:
        DataError: naming a column that is constant, or if the table holds NaN or infinity.
    """
    columns = list(names) or [str(i + 1) for i in range(x.shape[1])]
    if len(columns) != x.shape[1]:
        raise DataError(f"has {x.shape[1]} columns and names {len(columns)}")
    for column, values in zip(columns, x.T, strict=True):
        if not bool(torch.isfinite(values).all()):
            raise DataError(f"column {column} holds NaN or infinity: remove the rows or fill it in")
    found = from_tensor(x, scaling=_scaling(x, columns), name=name)
    return replace(found, column_names=tuple(names))


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a file, none of which may fill the memory."""
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), ""), 1):
        if len(line) > _LONGEST:
            raise DataError(
                f"line {number} is longer than {_LONGEST} characters: save such rows as .npy"
            )
        yield line


def _names_columns(lines: list[list[str]]) -> bool:
    """Whether the first line names the columns.

    Raises:
        DataError: if that is in doubt.
    """
    first = [_number(cell) for cell in lines[0]]
    if all(number is None for number in first):
        return True
    start = first[0]
    rising = start is not None and first == [start + i for i in range(len(first))]
    if rising and len(first) > 1 and all(map(_is_integer, lines[0])):
        others = [cell for cells in lines[1:] for cell in cells]
        fractions = any(_number(cell) is not None and not _is_integer(cell) for cell in others)
        if fractions or (len(first) > 2 and start in (0, 1)):
            raise DataError(
                f"begins with the cells {', '.join(lines[0][:3])}, which may be numbers or names "
                "of columns: give header=True or header=False"
            )
    return False


def _is_integer(cell: str) -> bool:
    return cell.strip().lstrip("+-").isdecimal()


def _row(line: int, cells: list[str], header: list[str]) -> list[float]:
    if len(cells) != len(header):
        raise DataError(f"line {line} has {len(cells)} cells where {len(header)} are expected")
    values = []
    for name, cell in zip(header, cells, strict=True):
        value = _number(cell)
        if value is None or not math.isfinite(value):
            fix = _fix(cell)
            raise DataError(f"line {line}, column {name}: {cell!r} is not a finite number{fix}")
        values.append(value)
    return values


def _fix(cell: str) -> str:
    """What to do about a cell that is no number, where that is likely."""
    if re.fullmatch(r"\s*[-+]?\d*,\d+\s*", cell):
        return ": write decimals with a point, or try delimiter=','"
    parts = cell.split()
    found = [mark for mark in ";,\t|" if mark in cell]
    if not found and len(parts) > 1 and all(_number(part) is not None for part in parts):
        found = [" "]
    return f": try delimiter={found[0]!r}" if found else ""


def _number(cell: str) -> float | None:
    try:
        # Python reads 1_000 as a number, tables do not.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def _scaling(x: torch.Tensor, header: list[str]) -> Scaling:
    constant = [
        name for name, column in zip(header, x.T, strict=True) if column.min() == column.max()
    ]
    if constant:
        raise DataError(f"column {constant[0]} is constant: drop it")
    return Scaling.standardize(x, per_feature=True)
