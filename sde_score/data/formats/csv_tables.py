"""Tables in CSV files: which marks they are written with, and what their cells hold."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from sde_score._core.arguments import checked
from sde_score._core.checks import require_choice
from sde_score._core.errors import ArgumentError, DataError, damaged
from sde_score._core.progress import say
from sde_score.data.dataset import DataSet
from sde_score.data.limits import Limits, require_file, require_room
from sde_score.data.tables.build import dataset_of
from sde_score.data.tables.column import Cells
from sde_score.data.tables.kinds import DROP, kinds_of

_SPREAD = 20  # bytes that one character takes, as text and as numbers of Python
_LONGEST = 1 << 24  # characters of a line
_LOOKED_AT = 50  # lines that show the marks
_EMPTY = {"", "nan", "na", "n/a", "<na>", "null"}
_COMMA = re.compile(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*")


@checked
def table(
    path: Path,
    delimiter: str | None = None,
    header: bool | None = None,
    decimal: str | None = None,
    missing: str | None = None,
    kinds: str | None = None,
    label: str | None = None,
    max_bytes: int | None = None,
) -> DataSet:
    """One example per line: a table of numbers, texts and flags, see `data.from_table`.

    The first line may name the columns: it does if none of its cells is a number. Successive
    integers, such as 0, 1, 2 or years, may be either and are refused. A column whose cells are all
    numbers is one of numbers, a column without any is one of texts; one with both is refused.
    Cells that are empty, NaN, NA or null are missing. Empty lines are skipped. Files that end with
    `.gz` are unpacked.

    Args:
        path: a text file in UTF-8.
        delimiter: character between cells; by default a tab for `.tsv`, a semicolon where the lines
            show it, and a comma otherwise.
        header: whether the first line names the columns; None decides by its cells.
        decimal: point or comma, the mark of decimals; None decides by the cells where the delimiter
            is no comma.
        missing: another text of cells that are missing, such as `?`.
        kinds: of columns by name, such as `"age:integer,income:positive,rate:bounded(0, 1)"`; see
            `data.from_table`.
        label: column that is the label of each row; none if not given.
        max_bytes: limit of what a file that ends with `.gz` unpacks to; None for 100 MB, or 300
            times the file where that is more.

    Raises:
        DataError: naming line and column of what is not a number; or if lines differ in length or
            are longer than 16 million characters, there are no lines or the table does not fit
            into memory.
    """
    path = Path(path)
    given = kinds_of(kinds)
    _require_marks(delimiter, decimal)
    require_file(path)
    limits = Limits(path.stat().st_size, max_bytes)
    require_room(_SPREAD * limits.stored, "save the table as .npy, which is read from disk")
    with damaged("a CSV table"), _opened(path) as file:
        text = list(_lines(file, limits if path.suffix.lower() == ".gz" else None))
    lines, decimal = _read(path, text, delimiter, decimal)
    if lines and (_names_columns([cells for _, cells in lines]) if header is None else header):
        names = [cell.strip() for cell in lines.pop(0)[1]]
    else:
        names = []
    if not lines:
        raise DataError("holds no lines of numbers")
    titles = names or [str(i + 1) for i in range(len(lines[0][1]))]
    for number, cells in lines:
        if len(cells) != len(titles):
            expected = f"{len(titles)} are expected"
            raise DataError(f"line {number} has {len(cells)} cells where {expected}")
    places = [number for number, _ in lines]
    columns = list(zip(*(cells for _, cells in lines), strict=True))
    empty = _EMPTY | ({missing.strip().lower()} if missing else set())
    keys = names or [f"x{title}" for title in titles]
    texts = {name for name, (kind, _) in given.items() if kind in ("categorical", DROP)}
    parsed = [
        _cells(title, cells, places, decimal, empty, key in texts)
        for title, key, cells in zip(titles, keys, columns, strict=True)
    ]
    return dataset_of(keys, parsed, path.name, given, label, named=bool(names))


def _require_marks(delimiter: str | None, decimal: str | None) -> None:
    if delimiter is not None and len(delimiter) != 1:
        raise ValueError(f"delimiter={delimiter!r} must be one character")
    if decimal is not None:
        require_choice("decimal", decimal, (".", ","))
        if decimal == delimiter:
            raise ArgumentError(f"decimal={decimal!r} is the delimiter as well")


def _read(
    path: Path, text: Sequence[str], delimiter: str | None, decimal: str | None
) -> tuple[list[tuple[int, list[str]]], str]:
    """The cells of each line with its number, and the mark of decimals; unusual marks are said."""
    chosen = _delimiter(path, text) if delimiter is None else delimiter
    with damaged("a CSV table"):
        reader = csv.reader(text, delimiter=chosen, strict=True)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    mark = decimal or ("," if chosen != "," and _has_commas(lines) else ".")
    found = [f"cells are separated by {chosen!r}"] if delimiter is None and chosen == ";" else []
    found += ["decimals are written with a comma"] if decimal is None and mark == "," else []
    say([f"{path.name}: {', '.join(found)}"] if found else [])
    return lines, mark


def _opened(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(newline="", encoding="utf-8-sig")


def _lines(file: TextIO, limits: Limits | None) -> Iterator[str]:
    """The lines of a file, none of which may fill the memory."""
    total = 0
    for number, line in enumerate(iter(lambda: file.readline(_LONGEST + 1), ""), 1):
        if len(line) > _LONGEST:
            raise DataError(
                f"line {number} is longer than {_LONGEST} characters: save such rows as .npy"
            )
        total += len(line)
        if limits is not None:
            limits.require_unpacked(total)
        yield line


def _delimiter(path: Path, text: Sequence[str]) -> str:
    """A tab by the name of the file; a semicolon where every line has as many, and no comma but in
    decimals or one that stands in no line; else a comma."""
    if ".tsv" in [suffix.lower() for suffix in path.suffixes[-2:]]:
        return "\t"
    shown = list(islice((line for line in text if line.strip()), _LOOKED_AT))
    try:
        rows = list(csv.reader(shown, delimiter=";", strict=True))
    except csv.Error:
        return ","
    alike = len({len(cells) for cells in rows}) == 1 and len(rows[0]) > 1
    marks = all("," not in cell or _COMMA.fullmatch(cell) for cells in rows for cell in cells)
    return ";" if alike and marks else ","


def _has_commas(lines: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether decimals are written with a comma: some are, and none with a point."""
    cells = [cell for _, row in lines for cell in row]
    points = any("." in cell and _number(cell) is not None for cell in cells)
    return not points and any(_COMMA.fullmatch(cell) for cell in cells)


def _names_columns(lines: list[list[str]]) -> bool:
    """Whether the first line names the columns.

    Raises:
        DataError: if that is in doubt.
    """
    first = [_number(cell) for cell in lines[0]]
    if all(number is None for number in first):
        return not any(_COMMA.fullmatch(cell) for cell in lines[0])
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


def _cells(
    title: str,
    cells: Sequence[str],
    places: Sequence[int],
    decimal: str,
    empty: set[str],
    texts: bool,
) -> Cells:
    """The cells of a column: integers, numbers or texts.

    Raises:
        DataError: naming line and column of a cell that is none, or a text among numbers.
    """
    known = [cell.strip() for cell in cells]
    gone = np.array([cell.lower() in empty for cell in known], dtype=bool)
    marked = [cell.replace(",", ".") if decimal == "," else cell for cell in known]
    numbers = [None if lost else _number(cell) for cell, lost in zip(marked, gone, strict=True)]
    wrong = [
        index
        for index, (number, lost) in enumerate(zip(numbers, gone, strict=True))
        if not lost and (number is None or not math.isfinite(number))
    ]
    if not wrong:
        values = np.array([0.0 if number is None else number for number in numbers])
        whole = all(lost or _is_integer(cell) for cell, lost in zip(known, gone, strict=True))
        if whole and not gone.all() and np.abs(values).max() < 2.0**53:
            values = values.astype(np.int64)
        return Cells(values, gone)
    mixed = len(wrong) + int(gone.sum()) < len(known)
    for index in wrong:
        strange = numbers[index] is not None or not known[index].isprintable()
        if strange or _fix(known[index]) or (mixed and not texts):
            fix = _fix(cells[index])
            if not fix and mixed:
                fix = f": write a number, or nothing; kinds='{title}:categorical' takes texts"
            where = f"line {places[index]}, column {title}"
            raise DataError(f"{where}: {cells[index]!r} is not a finite number{fix}")
    return Cells(np.array([*known, None], dtype=object)[:-1], gone)


def _fix(cell: str) -> str:
    """What to do about a cell that is no number, where that is likely."""
    if _COMMA.fullmatch(cell):
        return ": write decimals with a point, or try delimiter=','"
    for mark in ";,\t| ":
        parts = cell.split(mark) if mark != " " else cell.split()
        if len(parts) > 1 and all(_number(part) is not None for part in parts):
            return f": try delimiter={mark!r}"
    return ""


def _number(cell: str) -> float | None:
    try:
        # Python reads 1_000 as a number, tables do not.
        return None if "_" in cell else float(cell)
    except ValueError:
        return None
