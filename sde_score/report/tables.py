"""Tables of text and CSV, with estimates and their intervals as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sde_score.evaluation import Interval


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        header: names of the columns.
        rows: one cell per column.
        caption: a sentence above the table.
        kinds: of rows, by their number: `beyond` the noise floor, or the `floor` itself, which
            stays last where the table is sorted.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    kinds: Mapping[int, Literal["beyond", "floor"]] = field(default_factory=dict)


def figure_text(found: Interval) -> str:
    """An estimate with its 95% interval, rounded to the digits that it fixes: `0.121 ± 0.010`."""
    digits = 1 - math.floor(math.log10(found.margin)) if found.margin > 0 else 3
    digits = max(0, digits)
    return f"{found.value:.{digits}f} ± {found.margin:.{digits}f}"


def estimate_columns(name: str, found: Interval | None, floor: Interval) -> dict[str, Any]:
    """Columns of CSV for an estimate: value, standard error and the ends of its noise floor."""
    return {
        name: "" if found is None else found.value,
        f"{name} standard error": "" if found is None else found.standard_error,
        f"{name} floor low": floor.low,
        f"{name} floor high": floor.high,
    }


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines of CSV under the names of all their columns."""
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def kinds_of_rows(
    found: Sequence[Sequence[Interval]], floors: Sequence[Interval]
) -> dict[int, Literal["beyond", "floor"]]:
    """Kinds of the rows of a table whose last one is the noise floor: a row is beyond it where some
    distance is larger than those of as many real examples."""
    kinds: dict[int, Literal["beyond", "floor"]] = {len(found): "floor"}
    for index, distances in enumerate(found):
        if any(each.value > floor.high for each, floor in zip(distances, floors, strict=True)):
            kinds[index] = "beyond"
    return kinds
