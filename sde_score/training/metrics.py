"""`metrics.jsonl`: one JSON object a line, appended while training runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from sde_score._core.files import replace_file

_MEASURES = ("step", "loss", "grad_norm", "learning_rate", "examples_per_second", "seconds")


class Metrics:
    """A file of measurements that outlives kills and resumes.

    Each line has `step` (steps taken), `loss` and `grad_norm` (means since the line before; the
    norm is taken before clipping), `learning_rate` (of the last step), `examples_per_second` (over
    all processes) and `seconds` (of training, earlier sessions included); with `excess`, also
    `excess_loss` (of the last batch, above that of the best model for the training data); with
    fp16, `loss_scale` (of the next step) and `skipped_steps` (left out since the line before, as
    their gradients overflowed); with data that are read lazily, `data_seconds` (of waiting for
    examples in this process); and `skipped_examples` (over all processes), where some could not be
    read.
    A line without a loss notes what was done to the run: `init_from`, or `continue_with` with
    values before and after.

    Nothing stops for this file: a line that is damaged is left out, and one that cannot be written
    is lost, each with a warning that names the file.

    Args:
        path: of the file; need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, record: dict[str, Any]) -> None:
        """Append a line; it is in the file when this returns."""
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            warnings.warn(f"{self.path} cannot be written: {error.strerror or error}", stacklevel=2)

    def read(self) -> list[dict[str, Any]]:
        """All measurements; a last line that a kill cut short is left out."""
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
        found = [_record(line) for line in lines]
        damaged = [str(number) for number, record in enumerate(found, 1) if record is None]
        if damaged:
            warnings.warn(
                f"{self.path} is damaged: line {', '.join(damaged)} is no record of a step and is "
                "left out",
                stacklevel=3,
            )
        return [record for record in found if record is not None]

    def rewind(self, step: int) -> None:
        """Drop the records of steps after `step`, which a resumed run measures again."""
        if self.path.exists():
            kept = [json.dumps(r) + "\n" for r in self._all() if r["step"] <= step]
            replace_file(self.path, "".join(kept).encode())


def _record(line: str) -> dict[str, Any] | None:
    """The record in a line, None if there is none."""
    try:
        record = json.loads(line)
        for name in _MEASURES if "loss" in record else ("step",):
            if not isinstance(record[name], int | float):
                return None
            float(record[name])  # refuses integers beyond it
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    return dict(record)
