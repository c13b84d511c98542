"""Tables of text and CSV, with estimates and their intervals as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sde_score.evaluation import Interval


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        header: names of the columns.
        rows: one cell per column.
        caption: a sentence above the table.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


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
