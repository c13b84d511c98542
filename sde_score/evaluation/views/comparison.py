"""Results of a comparison of views: a row for each view and budget, and bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sde_score._core.records import Record
from sde_score.evaluation.metrics.confidence import Interval
from sde_score.evaluation.views.views import VIEWS
from sde_score.likelihood import BitsPerDim


@dataclass(frozen=True)
class ViewRow(Record):
    """A view at one budget.

    Args:
        view: a name in `VIEWS`, or the text of a sampler.
        sampler: as text.
        nfe: evaluations per sample, counted on the model.
        seconds: for all samples.
        distances: to the held-out data, in the order of `Comparison.names`.
        likelihood: the likelihood of this view, a key of `Comparison.bits`; None if it has none.
    """

    view: str
    sampler: str
    nfe: int
    seconds: float
    distances: tuple[Interval, ...]
    likelihood: str | None = None


@dataclass(frozen=True)
class Bits(Record):
    """Bits per dimension of held-out data.

    Args:
        value: mean over the examples, with its standard error.
        examples: their number.
        seconds: for all examples.
        values: of each example.
        errors: standard error of each value over its own draws; empty where it is not known.
    """

    value: Interval
    examples: int
    seconds: float
    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()

    @classmethod
    def of(cls, found: BitsPerDim, seconds: float) -> Bits:
        """From the values of all examples."""
        errors: list[float] = [] if found.value_errors is None else found.value_errors.tolist()
        known = all(map(math.isfinite, errors))
        value = Interval(found.mean, found.standard_error)
        values = tuple(found.values.tolist())
        return cls(value, len(values), seconds, values, tuple(errors) if known else ())


@dataclass(frozen=True)
class Comparison(Record):
    """All that was measured of the views of one model.

    Args:
        names: of the distances.
        count: samples per row.
        size: samples in each measured subset.
        held_out: examples they are measured against.
        floors: what perfect samples would score, with the interval they would fall in.
        rows: in the order of `VIEWS`, samplers behind them, then of their evaluations.
        bits: by likelihood.
        seed: random seed of the samples.
        guidance: of the model, as text; empty for none.
        data: other data than the run's own, in words; empty for its held-out data.
        floor_by: what gave the floors, in words; empty for the run's training data.
    """

    names: tuple[str, ...]
    count: int
    size: int
    held_out: int
    floors: tuple[Interval, ...]
    rows: tuple[ViewRow, ...] = ()
    bits: Mapping[str, Bits] = field(default_factory=dict)
    seed: int = 0
    guidance: str = ""
    data: str = ""
    floor_by: str = ""

    def row(self, view: str, sampler: str) -> ViewRow | None:
        """The row of a view and its sampler, if it was measured."""
        return next((r for r in self.rows if (r.view, r.sampler) == (view, sampler)), None)

    def bits_of(self, row: ViewRow) -> Bits | None:
        """Bits per dimension in the view of a row, if its likelihood was measured."""
        return None if row.likelihood is None else self.bits.get(row.likelihood)


def in_order(rows: Sequence[ViewRow]) -> tuple[ViewRow, ...]:
    """Rows in the order of `VIEWS`, samplers behind them, then of their evaluations."""
    names = dict.fromkeys([*VIEWS, *(row.view for row in rows)])
    order = {name: place for place, name in enumerate(names)}
    return tuple(sorted(rows, key=lambda row: (order[row.view], row.nfe)))
