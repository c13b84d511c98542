"""Files of which a data set is made: their names in little memory, and patterns of names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from sde_score._core.errors import DataError
from sde_score.data.limits import require_file

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_MOST = 100_000  # names that braces may stand for


class Names(Sequence[str]):
    """Names as one block of bytes: a million of them are no million objects.

    Args:
        names: in their order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        first = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._bytes[first : int(self._ends[index])])


def is_pattern(place: str) -> bool:
    """Whether a text stands for several files, such as `a-{000..127}.tar` or `shards/*.parquet`."""
    return any(sign in place for sign in "*?[{") and not os.path.exists(os.path.expanduser(place))


def any_of(pattern: str) -> bool:
    """Whether there is a file that a pattern stands for."""
    try:
        return any(glob.glob(text) for text in _without_braces(os.path.expanduser(pattern)))
    except DataError:
        return False


def expanded(pattern: str) -> list[Path]:
    """The files of a pattern, sorted by name; those that braces name must be there.

    Raises:
        DataError: if there are none, one is absent, or braces stand for too many.
    """
    found: set[str] = set()
    for text in _without_braces(os.path.expanduser(pattern)):
        if any(sign in text for sign in "*?["):
            found.update(glob.glob(text))
        elif os.path.exists(text):
            found.add(text)
        else:
            raise DataError(f"{text} is absent, one of the files of {pattern}")
    if not found:
        raise DataError(f"no file is named as {pattern} says")
    return [Path(name) for name in sorted(found)]


def _without_braces(pattern: str) -> Iterator[str]:
    parts = _BRACES.split(pattern)  # texts and, at odd places, what is between braces
    if parts[1:] and "{" in "".join(parts[::2]):
        raise DataError(f"{pattern} has braces within braces; accepted: {{000..127}} or {{a,b}}")
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST:
        raise DataError(f"{pattern} stands for {count} files; accepted: at most {_MOST}")
    return ("".join(each) for each in product(*choices))


def _choices(inside: str) -> Sequence[str]:
    ends = _RANGE.fullmatch(inside)
    if ends is None:
        return inside.split(",")
    first, last = (int(end) for end in ends.groups())
    width = len(ends.group(1))
    if last - first >= _MOST:
        raise DataError(f"{{{inside}}} stands for {last - first + 1} files; at most {_MOST}")
    return [f"{number:0{width}}" for number in range(first, last + 1)]


def shards_of(path: Path, suffix: str) -> list[Path]:
    """The files of a shard, of a folder of them or of a pattern, sorted by name.

    Args:
        path: file, folder or pattern.
        suffix: of files in a folder.

    Raises:
        DataError: if there are none, or one is no file.
    """
    if is_pattern(str(path)):
        files = expanded(str(path))
    elif path.is_dir():
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(suffix))
        files = [path / name for name in names if not name.startswith(".")]
    else:
        files = [path]
    if not files:
        raise DataError(f"holds no files that end in {suffix}")
    for file in files:
        require_file(file)
        if file.is_dir():
            raise DataError(f"{file.name} is a folder; accepted: files that end in {suffix}")
    return files


def shard_names(files: Sequence[Path]) -> list[str]:
    """Names of files, with as much of their path as tells them apart."""
    folder = os.path.commonpath([file.parent for file in files])
    return [os.path.relpath(file, folder) for file in files]
