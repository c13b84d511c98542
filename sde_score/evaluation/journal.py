"""Results on disk as they are found, so that interrupted measurements continue."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sde_score._core.files import replace_file
from sde_score._core.processes import place, shared

T = TypeVar("T")


class Journal:
    """Results by key, one line of JSON each, written when they are found.

    Processes of a group share a journal: all make it, find and put together, and the first of them
    reads and writes the file. A last line that a kill cut off is dropped, and its result is
    measured again.

    Args:
        path: the file; its folder must exist. None keeps results in memory only.

    Raises:
        ValueError: if the file holds anything else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        # One process reads, so that all know the same results, whatever it writes meanwhile.
        self._found: dict[str, Any] = shared([path], _read)[0]

    def __len__(self) -> int:
        return len(self._found)

    def find(self, key: str, decode: Callable[[Any], T]) -> T | None:
        """The result under a key; None if there is none, or if it is one of another version.

        Args:
            key: of the result.
            decode: from plain values to the result; `KeyError`, `TypeError`, `ValueError` and
                `AttributeError` mean that they are those of another version.
        """
        try:
            return decode(self._found[key])
        except (KeyError, TypeError, ValueError, AttributeError):
            return None

    def under(self, prefix: str, decode: Callable[[Any], T]) -> dict[str, T]:
        """All results whose keys start with `prefix`, by the rest of the key; see `find`."""
        keys = [key for key in self._found if key.startswith(prefix)]
        found = {key.removeprefix(prefix): self.find(key, decode) for key in keys}
        return {key: result for key, result in found.items() if result is not None}

    def put(self, key: str, result: Any) -> None:
        """Keep a result of plain values; it is on the disk when the call returns."""
        self._found[key] = result
        if self.path is None or place()[0] != 0:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, result], allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path | None) -> dict[str, Any]:
    """The results in a file, without a last line that was cut off."""
    found: dict[str, Any] = {}
    if path is None or not path.exists():
        return found
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        for line in whole.splitlines():
            key, result = json.loads(line)
            found[str(key)] = result
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is not a journal of results: move it away") from error
    if whole != content:
        replace_file(path, whole)
    return found
