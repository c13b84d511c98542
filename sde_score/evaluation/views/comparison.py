"""Results of a comparison of views: a row for each view and budget, and bits per dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sde_score.evaluation.metrics.confidence import Interval
from sde_score.evaluation.views.views import VIEWS


@dataclass(frozen=True)
class ViewRow:
    """A view at one budget.

    Args:
        view: a name in `VIEWS`.
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

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> ViewRow:
        """Inverse of `asdict`.

        Raises:
            KeyError, TypeError: if the record is not one of a row.
        """
        return cls(**{**record, "distances": _intervals(record["distances"])})


@dataclass(frozen=True)
class Bits:
    """Bits per dimension of held-out data.

    Args:
        value: mean over the examples, with its standard error.
        examples: their number.
        seconds: for all examples.
    """

    value: Interval
    examples: int
    seconds: float

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Bits:
        """Inverse of `asdict`; raises as `ViewRow.from_record` does."""
        return cls(**{**record, "value": Interval(**record["value"])})


@dataclass(frozen=True)
class Comparison:
    """All that was measured of the views of one model.

    Args:
        names: of the distances.
        count: samples per row.
        size: samples in each measured subset.
        held_out: examples they are measured against.
        floors: what perfect samples would score, with the interval they would fall in.
        rows: in the order of `VIEWS`, then of their evaluations.
        bits: by likelihood.
        seed: random seed of the samples.
    """

    names: tuple[str, ...]
    count: int
    size: int
    held_out: int
    floors: tuple[Interval, ...]
    rows: tuple[ViewRow, ...] = ()
    bits: Mapping[str, Bits] = field(default_factory=dict)
    seed: int = 0

    def row(self, view: str, sampler: str) -> ViewRow | None:
        """The row of a view and its sampler, if it was measured."""
        return next((r for r in self.rows if (r.view, r.sampler) == (view, sampler)), None)

    def bits_of(self, row: ViewRow) -> Bits | None:
        """Bits per dimension in the view of a row, if its likelihood was measured."""
        return None if row.likelihood is None else self.bits.get(row.likelihood)

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Comparison:
        """Inverse of `record`.

        Raises:
            KeyError, TypeError: if the record is not one of a comparison.
        """
        return cls(
            names=tuple(record["names"]),
            count=record["count"],
            size=record["size"],
            held_out=record["held_out"],
            floors=_intervals(record["floors"]),
            rows=tuple(map(ViewRow.from_record, record["rows"])),
            bits={name: Bits.from_record(bits) for name, bits in record["bits"].items()},
            seed=record["seed"],
        )


def in_order(rows: Sequence[ViewRow]) -> tuple[ViewRow, ...]:
    """Rows in the order of `VIEWS`, then of their evaluations; rows of unknown views are left
    out."""
    order = {name: place for place, name in enumerate(VIEWS)}
    known = [row for row in rows if row.view in order]
    return tuple(sorted(known, key=lambda row: (order[row.view], row.nfe)))


def _intervals(records: Sequence[Mapping[str, float]]) -> tuple[Interval, ...]:
    return tuple(Interval(**record) for record in records)
