"""Data files of measurements, `results/NAME.csv`: a row for each configuration, with its figures.

Every row says what it was measured with (`PROVENANCE`), so that a file is read without anything
beside it: `pandas.read_csv(path)`. Figures are finite numbers of six digits; where there is
none, as of a sampler that diverged, the cell is empty.

    import results

    path = results.FOLDER / "mine.csv"
    journal = results.Journal.beside(path)  # what is measured is kept, and found again
    rows = [journal.kept((name, seed), lambda: measure(name, seed)) for name, seed in todo]
    results.write(path, rows, peers=("azula",))  # rows without a column `seed` get `seed=0`
    rows = results.read(path)  # numbers as numbers, text as text

Rows that another commit measured say so: `results.write(path, rows, commit="2c9f821")`. Name the
command that makes the file in `remake.py`, in `FILES` or, if it takes hours, in `LONG`.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from sde_score import evaluation
from sde_score._core.files import replace_file
from sde_score.evaluation.provenance import package_digest
from sde_score.report.tables import csv_text

T = TypeVar("T")
Row = dict[str, Any]
"""One line of a table; the key `f"{name} ±"` holds the standard error of `name`."""

HERE = Path(__file__).parent
FOLDER = HERE / "results"
PROVENANCE = ("seed", "commit", "date", "machine", "cores", "python", "torch", "peers")
"""Columns of every file, after its own."""


class Journal(evaluation.Journal):
    """What is measured, one line of JSON each, so that what was interrupted goes on.

    Args:
        path: the file.
    """

    @classmethod
    def beside(cls, path: Path) -> Journal:
        """The journal of a data file; its folder is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path.with_suffix(".jsonl"))

    def kept(self, key: Sequence[object], measure: Callable[[], T]) -> T:
        """The result under a key, which holds everything that it depends on but the code of the
        package; measured if absent."""
        name = " | ".join(map(str, (*key, package_digest()[:16])))
        if self.find(name, lambda kept: kept) is None:
            self.put(name, finite(measure()))
        found: T = self.find(name, lambda kept: kept)
        return found


def finite(value: Any) -> Any:
    """A figure, or rows of them, with None in place of what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def write(
    path: Path, rows: Iterable[Mapping[str, Any]], peers: Sequence[str] = (), **said: Any
) -> None:
    """Write a data file in one step.

    Args:
        path: the file; its folder is made.
        rows: figures and what they are of.
        peers: packages beside torch whose versions matter; those not installed are left out.
        said: columns of provenance that are known better than this process knows them.

    Raises:
        ValueError: if there are no rows.
    """
    made = {**provenance(peers), **said}
    rows = list(rows)
    own = dict.fromkeys(name for row in rows for name in row if name not in PROVENANCE)
    lines = [{**dict.fromkeys(own), **made, **row} for row in rows]
    if not lines:
        raise ValueError(f"rows of {path.name} are none: a data file needs at least one")
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = [{name: _cell(value) for name, value in finite(line).items()} for line in lines]
    replace_file(path, csv_text(shown).encode())


def read(path: Path) -> list[Row]:
    """Rows of a data file; cells that are numbers are numbers, empty ones None. Provenance is text,
    but for the number of cores."""
    text = set(PROVENANCE) - {"cores"}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: cell if name in text else _value(cell) for name, cell in line.items()}
            for line in csv.DictReader(file)
        ]


def provenance(peers: Sequence[str] = ()) -> Row:
    """What this process measures with: commit, day, processor and versions; no name of a host."""
    return {
        "seed": 0,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": ", ".join(f"{name} {found}" for name in peers if (found := _version(name))),
    }


def _commit() -> str:
    """The commit, with `+` where files that measure differ from it; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=HERE, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short=16", "HEAD")
        changed = git("status", "--porcelain", "--", "../sde_score", ".", ":!results")
    except OSError:  # no git
        return ""
    return commit + ("+" if commit and changed else "")


def _processor() -> str:
    """Model of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def _value(cell: str) -> str | int | float | None:
    if not cell:
        return None
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
