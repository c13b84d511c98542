"""Imputation: missing cells of a table drawn from a run's model given the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sde_score import samplers
from sde_score._core.checks import require_count, require_positive
from sde_score._core.conditions import Condition, absent, mapped, rows_of, tensors_of
from sde_score._core.errors import DataError
from sde_score._core.progress import progress_bar
from sde_score.data import DataSet, Source, TableCoding, load
from sde_score.data.tables.build import read_as
from sde_score.data.tables.column import Cells
from sde_score.posterior import METHODS, Posterior
from sde_score.posterior.row_masks import RowMeasurement
from sde_score.random import example_seeds, mix
from sde_score.scaling import condition_to_model
from sde_score.training import Run, coding_of

Table = dict[str, np.ndarray[Any, Any]]


def impute(
    run: Run,
    table: Source,
    draws: int = 1,
    *,
    method: str = "mmps",
    sampler: str | None = None,
    std: float = 0.01,
    seed: int = 0,
    batch_size: int = 256,
    progress: bool = True,
) -> list[Table]:
    """A table with its missing cells drawn from the model's posterior given the others.

    Known cells stay. Several draws show how sure the model is (multiple imputation).

    Args:
        run: trained on a table, with or without missing cells.
        table: with the columns of the run's table: text, a path, a data frame. Columns that it
            lacks are missing in every row, columns that the run does not know are left out.
        draws: independent draws of all missing cells.
        method: a guided model for linear measurements, see `posterior.METHODS`.
        sampler: its sampler; what suits the method if not given.
        std: deviation of the noise that is granted to known cells meanwhile, in model range.
        seed: random seed; row i of draw d depends on (seed, d, i) alone.
        batch_size: rows that the network sees at once.
        progress: show a bar.

    Returns:
        columns by name for each draw, in the order and of the dtypes of the run's table.

    Raises:
        DataError: for a run on other data than a table, or cells that the run's columns cannot
            hold.
        ValueError: for an unknown method, or one that is no guided model.

    Reference: Rozet et al. 2024, https://arxiv.org/abs/2405.13712, whose learning by expectation
    and maximization alternates this with training.
    """
    require_count(draws=draws, batch_size=batch_size)
    require_positive(std=std)
    coding = coding_of(run)
    if coding is None:
        raise DataError(f"{run.path} was not trained on a table with columns")
    rule = METHODS.create(method)
    chosen = samplers.SAMPLERS.resolve(sampler or rule.sampler, name="sampler")
    found, cells = _read(table, coding)
    told, raw = _told(run, found), found.raw()
    x = run.scaling.to_model(raw)
    tables = []
    for draw in range(draws):
        seeds = example_seeds(mix(seed, draw), len(x))
        filled = raw.clone()
        parts = torch.split(x.isnan().any(1).nonzero().flatten(), batch_size)
        for rows in progress_bar(parts, name=f"draw {draw + 1}", unit="batch", shown=progress):
            seen = RowMeasurement(x[rows].to(run.device), std)
            posterior = Posterior(run.model, seen, rule, sampler=chosen)
            values = chosen(
                posterior,
                (len(rows), *run.event_shape),
                seed=[seeds[row] for row in rows.tolist()],
                condition=rows_of(told, rows.to(run.device)),
                progress=False,
            )
            drawn = run.scaling.from_model(values.cpu().double())
            filled[rows] = torch.where(raw[rows].isnan(), drawn, raw[rows])
        tables.append(_with_known(coding.decode(filled, found.conditions_or_labels), cells))
    return tables


def _read(table: Source, coding: TableCoding) -> tuple[DataSet, Mapping[str, Cells]]:
    """A table as rows of the run's, and its cells by column."""
    with read_as(coding) as cells:
        found = load(table)
    if found.coding is None or (changed := coding.difference(found.coding)):
        reason = changed if found.coding else "it is no table"
        raise DataError(f"{found.name} does not fit the run: {reason}")
    return found, cells


def _with_known(table: Table, cells: Mapping[str, Cells]) -> Table:
    """The table with its floating-point cells to the last digit, which logarithms lose."""
    for name, known in cells.items():
        if name in table and table[name].dtype.kind == "f":
            kept = known.values.astype(table[name].dtype)
            table[name] = np.where(known.missing, table[name], kept)
    return table


def _told(run: Run, found: DataSet) -> Condition:
    """What the model is told of each row.

    Raises:
        DataError: naming a row in which some of it is missing.
    """
    given = found.conditions_or_labels
    gone = [absent(value) for value in tensors_of(given)]
    if gone and bool((lost := torch.stack(gone).any(0)).any()):
        raise DataError(
            f"row {int(lost.int().argmax()) + 1} lacks the label, or a cell that the model is "
            "told: only the cells that it learned can be missing"
        )
    if not (run.num_classes or run.condition_shape):
        return None
    told = condition_to_model(given, run.data.condition_scaling) if run.condition_shape else given
    return mapped(told, lambda value: value.to(run.device))
