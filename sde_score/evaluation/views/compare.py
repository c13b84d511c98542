"""One model in all its views: how far from held-out data each samples, at what cost, and how well
it codes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.evaluation.views.views import VIEWS
from sde_score.models import Model

NFES = (5, 10, 20, 50, 100)
"""Budgets that are compared by default."""


@dataclass(frozen=True)
class ViewRow:
    """A view at one budget.

    Args:
        view: a name in `VIEWS`.
        sampler: spec of the sampler.
        nfe: evaluations per sample, counted on the model.
        seconds: for all samples.
        distances: to the held-out data, in the order of `Comparison.names`.
        likelihood: what weighs data in this view, a key of `Comparison.bits`; None if nothing does.
    """

    view: str
    sampler: str
    nfe: int
    seconds: float
    distances: tuple[Interval, ...]
    likelihood: str | None = None


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


@dataclass(frozen=True)
class Comparison:
    """What was measured; each new row makes a new one.

    Args:
        names: of the distances.
        count: samples per row.
        size: samples in each measured subset.
        held_out: examples they are measured against.
        floors: what perfect samples would score, with the interval they would fall in.
        rows: in the order of `VIEWS`, then of their evaluations.
        bits: by likelihood.
    """

    names: tuple[str, ...]
    count: int
    size: int
    held_out: int
    floors: tuple[Interval, ...]
    rows: tuple[ViewRow, ...] = ()
    bits: Mapping[str, Bits] = field(default_factory=dict)

    def row(self, view: str, sampler: str) -> ViewRow | None:
        """The row of a view and its sampler, if it was measured."""
        return next((r for r in self.rows if (r.view, r.sampler) == (view, sampler)), None)

    def bits_of(self, row: ViewRow) -> Bits | None:
        """Bits per dimension in the view of a row, if its likelihood was measured."""
        return None if row.likelihood is None else self.bits.get(row.likelihood)

    def with_row(self, row: ViewRow) -> Comparison:
        """The same and one more row, in its place."""
        order = list(VIEWS)
        rows = sorted((*self.rows, row), key=lambda r: (order.index(r.view), r.nfe))
        return replace(self, rows=tuple(rows))

    def record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Comparison:
        """Inverse of `record`.

        Raises:
            KeyError, TypeError: if the record is not one of a comparison.
        """
        rows = [{**row, "distances": _intervals(row["distances"])} for row in record["rows"]]
        bits = {
            spec: Bits(Interval(**each["value"]), each["examples"], each["seconds"])
            for spec, each in record["bits"].items()
        }
        return cls(
            names=tuple(record["names"]),
            count=record["count"],
            size=record["size"],
            held_out=record["held_out"],
            floors=_intervals(record["floors"]),
            rows=tuple(ViewRow(**row) for row in rows if row["view"] in VIEWS),
            bits=bits,
        )


def _intervals(records: Sequence[Mapping[str, float]]) -> tuple[Interval, ...]:
    return tuple(Interval(**record) for record in records)


Weigh = Callable[[str], Bits]
"""Measures held-out data by a likelihood, given as a spec."""

Deliver = Callable[[Tensor], Tensor]
"""From samples in model range to what is compared with data, in model range."""


def compare_views(
    model: Model,
    ruler: DistanceEstimator,
    *,
    views: Sequence[str] = tuple(VIEWS),
    nfes: Sequence[int] = NFES,
    weigh: Weigh | None = None,
    deliver: Deliver = lambda samples: samples,
    dequantized: bool = False,
    condition: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 256,
    known: Comparison | None = None,
    keep: Callable[[Comparison], object] | None = None,
    progress: bool = True,
) -> Comparison:
    """Sample a model in each view at each budget, from the same seeds, and measure it.

    A budget that is too small for a view, or that buys the same sampler as a smaller one, adds no
    row. A view whose tolerance decides its cost has one row.

    Args:
        model: trained at all noise levels.
        ruler: holds the held-out data and says how many samples are drawn.
        views: names in `VIEWS`.
        nfes: budgets, network evaluations per sample.
        weigh: measures held-out data by a likelihood; None measures none.
        deliver: how samples become what is compared with data, such as rounding to levels.
        dequantized: whether the model was trained on levels spread over their bins; see
            `View.likelihood_at`.
        condition: passed to the model, one entry per sample.
        seed: names the samples.
        batch_size: samples that the model sees at once.
        known: measured before with the same arguments: its rows are not measured again.
        keep: called with all that is measured so far, after each new row.
        progress: show bars.

    Returns:
        A `Comparison`, which holds the rows of `known` too.

    Raises:
        ValueError: for an unknown view, no views, a budget below 1, or samples that diverge.
    """
    from tqdm.auto import tqdm

    plan = plan_rows(views, nfes)
    found = known or Comparison(
        ruler.names, ruler.count, ruler.size, len(ruler.held_out), ruler.floors
    )
    missing = [cell for cell in plan if found.row(cell.view, cell.sampler) is None]
    task = _Task(model, ruler, deliver, dequantized, condition, seed, batch_size)
    total = sum(cell.budget for cell in missing)
    with tqdm(total=total, unit="NFE", disable=not progress or not missing) as bar:
        for cell in missing:
            bar.set_description(cell.view)
            found = found.with_row(task.measure(cell, bar.update))
            if keep is not None:
                keep(found)
    asked = (found.row(cell.view, cell.sampler) for cell in plan)
    for likelihood in dict.fromkeys(row.likelihood for row in asked if row is not None):
        if weigh is not None and likelihood is not None and likelihood not in found.bits:
            found = replace(found, bits={**found.bits, likelihood: weigh(likelihood)})
            if keep is not None:
                keep(found)
    return found


class Cell(NamedTuple):
    """A row to be measured: a sampler of a view, and the budget it is for, 0 if for none."""

    view: str
    sampler: str
    budget: int


def plan_rows(views: Sequence[str], nfes: Sequence[int]) -> list[Cell]:
    """What `compare_views` measures.

    Raises:
        ValueError: for an unknown view, no views or budgets, or a budget below 1.
    """
    unknown = [name for name in views if name not in VIEWS]
    if unknown or not views:
        raise ValueError(f"views={list(views)!r} must be among {', '.join(VIEWS)}")
    if not nfes:
        raise ValueError("nfes is empty: give budgets of network evaluations, such as 10 20 50")
    for nfe in nfes:
        require_count(nfe=nfe)
    plan: dict[tuple[str, str], Cell] = {}
    for name in dict.fromkeys(views):
        view = VIEWS[name]
        for budget in [0] if view.adaptive else sorted(set(nfes)):
            spec = view.sampler_within(max(budget, 1))
            if spec is not None:
                plan.setdefault((name, spec), Cell(name, spec, budget))
    return list(plan.values())


@dataclass(frozen=True, eq=False)
class _Task:
    """What is the same for all rows."""

    model: Model
    ruler: DistanceEstimator
    deliver: Deliver
    dequantized: bool
    condition: Tensor | None
    seed: int
    batch_size: int

    def measure(self, cell: Cell, advance: Callable[[int], object]) -> ViewRow:
        """Sample and measure one row; `advance` moves a bar, by the budget in all."""
        start = time.perf_counter()
        samples, nfe = self._sample(cell, advance)
        seconds = time.perf_counter() - start
        bad = int((~samples.flatten(1).isfinite()).any(1).sum())
        if bad:
            raise ValueError(
                f"{cell.sampler} diverged: {bad} of {len(samples)} samples are not finite; leave "
                f"out the view {cell.view!r} or its smallest budgets"
            )
        return ViewRow(
            view=cell.view,
            sampler=cell.sampler,
            nfe=nfe,
            seconds=seconds,
            distances=self.ruler(self.deliver(samples)),
            likelihood=VIEWS[cell.view].likelihood_at(nfe, self.model.sde, self.dequantized),
        )

    def _sample(self, cell: Cell, advance: Callable[[int], object]) -> tuple[Tensor, int]:
        """Samples on the CPU, and the evaluations behind each."""
        count, before, shown = self.ruler.count, self.model.nfe, 0
        batches = -(-count // self.batch_size)

        def move(*_: object) -> None:
            nonlocal shown
            now = min(cell.budget, (self.model.nfe - before) // batches)
            advance(now - shown)
            shown = now

        samples = samplers.sample(
            samplers.create(cell.sampler),
            self.model,
            tuple(self.ruler.held_out.shape[1:]),
            count,
            seed=self.seed,
            condition=self.condition,
            batch_size=self.batch_size,
            progress=False,
            callback=move,
        )
        advance(cell.budget - shown)
        return samples.float(), round((self.model.nfe - before) / batches)
