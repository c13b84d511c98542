"""Data sets by name or path: `load("digits")`, `load("ring(n=20000)")`, `load("photos/")`.

A new named data set is one function and one line in `NAMED`; a new file format is one function and
one line in `FORMATS`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sde_score._core.errors import DataError, naming
from sde_score._core.registry import Registry, parse_spec
from sde_score.data.dataset import DataSet
from sde_score.data.digits import digits
from sde_score.data.formats.csv_tables import table
from sde_score.data.formats.idx import mnist
from sde_score.data.formats.images import folder
from sde_score.data.formats.numpy_arrays import array
from sde_score.data.formats.parquet import parquet
from sde_score.data.targets import target
from sde_score.data.toys import checkerboard, gaussians, moons, ring, spirals

NAMED: Registry[DataSet] = Registry(
    "data set",
    {
        "digits": digits,
        "ring": ring,
        "gaussians": gaussians,
        "moons": moons,
        "checkerboard": checkerboard,
        "spirals": spirals,
        "target": target,
    },
)

FORMATS: Registry[DataSet] = Registry(
    "data format",
    {"mnist": mnist, "folder": folder, "parquet": parquet, "array": array, "csv": table},
)

_SUFFIXES = {
    ".npy": "array",
    ".npz": "array",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".gz": "mnist",
}
_MAGIC = {
    b"\x93NUMPY": "array",
    b"PK\x03\x04": "array",
    b"PAR1": "parquet",
    b"\x1f\x8b": "mnist",
    b"\0\0\x08": "mnist",
}


def available() -> list[str]:
    """The data sets that `load` knows by name."""
    return NAMED.names()


def load(spec: str) -> DataSet:
    """A data set by name or path.

    Accepted are

    - a name with optional arguments, such as `digits` or `moons(n=5000, seed=1)` (see `available`);
    - the path of a file or folder, recognized by its ending or content, such as `photos/` or
      `cifar.parquet`;
    - a format and a path, such as `mnist:data/` or `csv:table.txt` (see `FORMATS`);
    - either of these with arguments of the format, such as `table.csv(delimiter=';')`.

    A name comes before a path: write `./digits` for a folder of that name.

    Raises:
        DataError: if there is no such thing, or it is damaged, truncated, empty or not what was
            promised.
        ValueError: if an argument is not accepted.
    """
    if not isinstance(spec, str):
        raise TypeError(f"spec={spec!r} must be text: a name or a path")
    prefix, _, rest = spec.partition(":")
    form, place = (prefix, rest) if prefix in FORMATS and rest else (None, spec)
    arguments: dict[str, Any] = {}
    if not os.path.exists(place):
        place, arguments = parse_spec(place)
    if form is None and place in NAMED:
        return NAMED.create(place, **arguments)
    path = Path(place).expanduser()
    if not place or not os.path.exists(path):
        raise DataError(
            f"there is no file and no data set {place!r}; "
            f"accepted: a path, or one of {', '.join(available())}"
        )
    with naming(path):
        return FORMATS.create(form or _recognize(path), **{**arguments, "path": path})


def _recognize(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix.lower() in _SUFFIXES:
        return _SUFFIXES[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})") from error
    for magic, form in _MAGIC.items():
        if head.startswith(magic):
            return form
    raise DataError(
        f"is of no known format; accepted: a folder of images, {', '.join(_SUFFIXES)}, idx files, "
        f"or FORMAT:PATH with FORMAT one of {', '.join(FORMATS)}"
    )
