"""Grid files: noise ratios, the sampler they were found for, its coefficients, and the errors.

The file is JSON, a few lines that a person can read, and data alone: nothing in it is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sde_score._core.arguments import check_fields
from sde_score._core.checks import require_count
from sde_score._core.files import replace_file
from sde_score._core.records import Record

FORMAT = "sde_score.grid/1"
"""The entry `format` of a grid file."""

_LARGEST = 1 << 22  # bytes; the coefficients of 64 steps take 60 thousand


@dataclass(frozen=True)
class GridFile(Record):
    """The contents of a grid file.

    Args:
        ratios: noise ratios sigma / alpha of the times, strictly decreasing; zero noise is not
            among them.
        sampler: spec of the sampler that the grid was made for, its steps included.
        nfe: network evaluations of that sampler on it, counted.
        target: what was sampled, in words.
        errors: root-mean-square errors at the end point and such, by name.
        rows: coefficients of `Fitted`, if that is the sampler.

    Raises:
        ValueError: if the ratios do not fall, or something is of another kind.
    """

    ratios: tuple[float, ...]
    sampler: str = ""
    nfe: int = 0
    target: str = ""
    errors: Mapping[str, float] = field(default_factory=dict)
    rows: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.ratios or not all(ratio > 0 for ratio in self.ratios):
            raise ValueError("ratios must be positive finite numbers, at least one")
        if any(not late > early for late, early in pairwise(self.ratios)):
            raise ValueError("ratios must be strictly decreasing, from noise to data")
        if self.rows and len(self.rows) != len(self.ratios):
            raise ValueError(f"{len(self.rows)} rows for {len(self.ratios)} ratios")
        require_count(minimum=0, nfe=self.nfe)


def write_grid_file(path: str | Path, content: GridFile) -> None:
    """Write a grid; a kill at any moment leaves the old file or the new one.

    Raises:
        ValueError: if the name does not end with .json.
        OSError: if it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"path={str(path)!r} must end with .json")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **content.record()}, indent=2, allow_nan=False)
    replace_file(path, f"{text}\n".encode())


def read_grid_file(path: str | Path) -> GridFile:
    """Read a grid.

    Raises:
        ValueError: if the file is damaged or holds no grid, naming it.
        OSError: if it cannot be read.
    """
    path = Path(path)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"{path} is no grid file: it has more than {_LARGEST} bytes")
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        return GridFile.from_record(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no grid file, or a damaged one: {error}") from error
