"""Results on disk as they are found, so that work that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sde_score._core.files import replace_file


class Journal:
    """Results by key, one line of JSON each, written when they are found.

    A last line that a kill cut off is dropped, and what it held is measured again.

    Args:
        path: the file; its folder must exist. None keeps nothing.

    Raises:
        ValueError: if the file holds anything else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._found: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            for line in whole.splitlines():
                key, result = json.loads(line)
                self._found[key] = result
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a journal of results: move it away") from error
        if whole != content:
            replace_file(path, whole)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    def put(self, key: str, result: Any) -> None:
        """Keep a result, of plain values, for good."""
        self._found[key] = result
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, result], allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
