"""Tables of runs: samples as the columns that the data came with."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from sde_score._core.conditions import Condition, mapped
from sde_score.data import DataError, TableCoding
from sde_score.scaling import condition_from_model
from sde_score.training.run import Run


def coding_of(run: Run) -> TableCoding | None:
    """How the columns of a run's table are encoded; None for a run on other data.

    Where an object changed the columns, which no file holds, it is that of the data at hand.
    """
    known = None if run.record is None else run.record.coding
    given = None if run._given is None else run._given.coding
    return given if known is not None and known.transformer and given is not None else known


def as_table(
    run: Run, samples: Tensor, condition: Condition = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Samples as columns by name, in the order and of the dtypes of the run's table.

    `pandas.DataFrame(as_table(run, samples))` is a data frame like the one that was trained on.

    Args:
        run: trained on a table.
        samples: in model range, shape `(n, columns)`.
        condition: that they were drawn with, in model range; its columns are put beside.

    Raises:
        DataError: for a run on data that are no table, samples that are not finite, or where the
            transformer of the data is not at hand.
    """
    coding = coding_of(run)
    if coding is None:
        raise DataError(f"{run.path} was not trained on a table with columns")
    told = mapped(condition, lambda value: value.cpu())
    raw = condition_from_model(told, run.data.condition_scaling) if run.condition_shape else told
    return coding.decode(run.scaling.from_model(samples.cpu().double()), raw)
