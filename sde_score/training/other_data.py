"""Other data than a run's own, as its model sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sde_score import data as data_sets
from sde_score._core.conditions import described
from sde_score._core.errors import naming
from sde_score.data import DataError, DataSet
from sde_score.training.data_record import DataRecord
from sde_score.training.state import DataFacts


class MeasuredParts(NamedTuple):
    """The real examples of a measurement.

    Args:
        floor: examples that give the noise floor.
        reference: examples that samples are measured against.
        data: what the reference is, in words; empty for the run's own held-out data.
        floor_by: what gives the floor, in words; empty for the run's own training data.
    """

    floor: DataSet
    reference: DataSet
    data: str = ""
    floor_by: str = ""


@dataclass(frozen=True)
class Fit:
    """What other data must be like to be measured by a run.

    Args:
        path: of the run, for messages.
        facts: of its own data.
        record: of its own data; None where it has none.
        conditional: whether its model takes a condition.
    """

    path: Path
    facts: DataFacts
    record: DataRecord | None
    conditional: bool

    def __call__(self, found: DataSet) -> DataSet:
        """The data in the run's scaling, with its classes.

        Raises:
            DataError: naming all that does not fit.
        """
        found = self._as_table(found)
        wrong = [*self._examples(found), *(self._conditions(found) if self.conditional else ())]
        if wrong:
            raise DataError(
                f"{found.name} does not fit the network in {self.path}: {'; '.join(wrong)}"
            )
        scalings = {
            "scaling": self.facts.scaling,
            "condition_scaling": self.facts.condition_scaling,
        }
        found = replace(found, **scalings)  # type: ignore[arg-type]
        return self._with_classes(found) if self.conditional else found

    def _as_table(self, found: DataSet) -> DataSet:
        """A table with the columns that the run's own has, encoded as these are."""
        if self.record is None:
            return found
        mine, theirs = self.record.coding, found.coding
        told = self.record.condition_names if mine is None else mine.conditions
        if told and found.conditions is None:
            found = data_sets.with_condition_columns(found, told)
            theirs = found.coding
        if mine is None or theirs is None or not mine.difference(theirs):
            return found
        other = {c.name for c in mine.examples} != {c.name for c in theirs.examples}
        if other or told or mine.transformer or theirs.transformer:
            raise DataError(
                f"{found.name} does not fit the network in {self.path}: {mine.difference(theirs)}"
            )
        cells = theirs.cells(found.raw())
        with naming(Path(found.name)):
            x = mine.encode(cells).to(found.raw().dtype)
        fields = {"rows": None, "labels": found.labels_at(torch.arange(len(found)))}
        names = mine.names if self.record.column_names else ()
        return replace(found, _source=x, column_names=names, coding=mine, **fields)  # type: ignore[arg-type]

    def _examples(self, found: DataSet) -> list[str]:
        wrong, levels = [], self.facts.scaling.levels
        if found.event_shape != self.facts.event_shape:
            wrong.append(
                f"examples have the shape {found.event_shape}, not {self.facts.event_shape}"
            )
        if found.scaling.levels != levels:
            hint = "" if levels is None else f", as read with levels={levels}"
            wrong.append(f"they have levels={found.scaling.levels}, not {levels}{hint}")
        columns = () if self.record is None else self.record.column_names
        if columns and found.column_names and columns != found.column_names:
            there, known = ", ".join(found.column_names), ", ".join(columns)
            wrong.append(f"columns are named {there}, not {known}")
        return wrong

    def _conditions(self, found: DataSet) -> list[str]:
        wrong, names = [], self._class_names
        if names and found.class_names:
            strange = [name for name in found.class_names if name not in names]
            if strange:
                wrong.append(f"classes {', '.join(strange)} are none of {', '.join(names)}")
        elif self.facts.num_classes and found.num_classes not in (0, self.facts.num_classes):
            wrong.append(f"they have {found.num_classes} classes, not {self.facts.num_classes}")
        told = self.facts.condition_shape
        if told and found.condition_shape not in ((), told):
            there = described(found.condition_shape)
            wrong.append(f"their conditions are {there}, not {described(told)}")
        return wrong

    @property
    def _class_names(self) -> tuple[str, ...]:
        return () if self.record is None else self.record.class_names

    def _with_classes(self, found: DataSet) -> DataSet:
        """Labels numbered as the run numbers its classes, by their names where both have some."""
        labels, names = found.labels, self._class_names
        if labels is None or not self.facts.num_classes:
            return found
        if names and found.class_names:
            labels = torch.tensor([names.index(name) for name in found.class_names])[labels]
        return replace(found, labels=labels, num_classes=self.facts.num_classes, class_names=names)
