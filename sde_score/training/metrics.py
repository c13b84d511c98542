"""`metrics.jsonl`: one JSON object a line, appended while training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sde_score._core.files import replace_file
from sde_score.training.errors import CheckpointError


class Metrics:
    """A file of measurements that outlives kills and resumes.

    Each line has `step` (steps taken), `loss` and `grad_norm` (means since the line before; the
    norm is taken before clipping), `learning_rate` (of the last step), `examples_per_second` (over
    all processes) and `seconds` (of training, earlier sessions included). A line without a loss
    notes what was done to the run: `init_from`, or `continue_with` with values before and after.

    Args:
        path: of the file; need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; it is in the file when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All measurements; a last line that a kill cut short is left out.

        Raises:
            CheckpointError: naming the file and the line that is damaged.
        """
        return [record for record in self._all() if "loss" in record]

    def notes(self) -> list[dict[str, Any]]:
        """All records of what was done to the run, such as a change of its learning rate."""
        return [record for record in self._all() if "loss" not in record]

    def note(self, record: dict[str, Any]) -> None:
        """Append a record of what was done to the run, unless it is there already."""
        if record not in self.notes():
            self.write(record)

    def _all(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        return [self._record(number, line) for number, line in enumerate(lines, 1)]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
            _ = record["step"] + 0
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{self.path} is damaged: line {number} is no record of a step; remove it"
            ) from error
        return dict(record)

    def rewind(self, step: int) -> None:
        """Drop the records of steps after `step`, which a resumed run measures again."""
        if self.path.exists():
            kept = [json.dumps(r) + "\n" for r in self._all() if r["step"] <= step]
            replace_file(self.path, "".join(kept).encode())
