"""Tables of figures with their errors, for several training seeds: printed, and kept in files.

A row of the files is one training; the printed rows are means over the seeds. Their error is the
larger of two: that of the figures themselves, and the one estimated from their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import results
import torch
from results import Row


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Means of the rows that differ in the seed alone, and their errors."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        label = tuple(v for k, v in row.items() if isinstance(v, str) or k == "ladder")
        groups.setdefault(label, []).append(row)
    return [_merged(group) for group in groups.values()]


def _merged(group: list[Row]) -> Row:
    merged, root = {}, len(group) ** 0.5
    for name, first in group[0].items():
        values = [row[name] for row in group]
        if isinstance(first, str) or name == "ladder":
            merged[name] = first
        elif name.endswith(" ±"):
            within = statistics.fmean(v**2 for v in values) ** 0.5 / root
            several = [row[name.removesuffix(" ±")] for row in group]
            between = statistics.stdev(several) / root if len(group) > 1 else 0.0
            merged[name] = max(within, between)
        elif name != "seed":
            merged[name] = statistics.fmean(values)
    return merged


@dataclass(frozen=True)
class Report:
    """Tables to print and to keep.

    Args:
        options: the flags, kept with the tables.
        tables: rows by title, one for each seed.
    """

    options: argparse.Namespace
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, title: str, rows: list[Row]) -> None:
        """Print a table and write all there are so far."""
        self.tables[title] = rows
        print(f"\n{title}\n{_text(over_seeds(rows))}", flush=True)
        self.write()

    def write(self) -> None:
        """One `.csv` for each table, and `results.json` with everything."""
        folder = self.options.out
        for title, rows in self.tables.items():
            results.write(folder / f"{title.split(',')[0].replace(' ', '_')}.csv", rows)
        kept = {"options": vars(self.options), "tables": self.tables, "torch": torch.__version__}
        (folder / "results.json").write_text(json.dumps(kept, indent=1, default=str))


def _text(rows: Sequence[Row]) -> str:
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if not n.endswith(" ±")]
    cells = [names] + [[_cell(row, name) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(row: Row, name: str) -> str:
    value, error = row.get(name, ""), row.get(f"{name} ±")
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if error is None else f"{value:.4f} ± {error:.4f}"
