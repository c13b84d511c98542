"""`sde-score impute`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import replace_file
from sde_score.cli.options import RunCommand, pick_device, require_output, saved
from sde_score.cli.output import say, show_record
from sde_score.evaluation.imputation import impute
from sde_score.report.files import TABLES, table_bytes
from sde_score.training import load_run


@dataclass(frozen=True, kw_only=True)
class Impute(RunCommand):
    """Fill the missing cells of a table by a trained run.

    They are drawn from the posterior of its model given the other cells of the row. Known cells
    stay as they are; several draws show how sure the model is of the others.

    For example:
        sde-score impute runs/people --data holes.csv --out filled.csv
        sde-score impute runs/people --data holes.csv --draws 5 --out filled.parquet
    """

    data: str | None = None
    """Table with missing cells, with the columns of the run's; its own data if not given."""

    out: Path = Path("filled.csv")
    """File to write: .csv or .parquet; with several draws filled-1.csv, filled-2.csv, ..."""

    draws: int = 1
    """Independent draws of all missing cells."""

    method: str = "mmps"
    """Method of the posterior, a guided model: mmps, tmpd, pigdm, sda; see sde-score posterior."""

    sampler: str | None = None
    """Its sampler, such as "dpmpp-2m(steps=50)"; what suits the method if not given."""

    def run(self) -> None:
        """Draw, write, print a line."""
        require_count(draws=self.draws)
        require_output(self.out, TABLES)
        run = load_run(self.path, self.weights)
        run.model.to(pick_device(self.device))
        tables = impute(
            run,
            run.record.text_at_hand() if self.data is None and run.record else str(self.data),
            self.draws,
            method=self.method,
            sampler=self.sampler,
            seed=self.seed,
            batch_size=self.batch_size,
            progress=self.progress,
        )
        stem, several = self.out.stem, self.draws > 1
        places = [
            self.out.with_stem(f"{stem}-{i + 1}") if several else self.out
            for i in range(self.draws)
        ]
        for place, table in zip(places, tables, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            saved(place, partial(_write, table_bytes(table, place.suffix)))
        rows = len(next(iter(tables[0].values())))
        if self.json:
            show_record({"out": [*map(str, places)], "rows": rows, "seed": self.seed})
        else:
            say(f"{', '.join(map(str, places))}: {rows} rows, {self.method}")


def _write(content: bytes, path: Path) -> None:
    replace_file(path, content)
