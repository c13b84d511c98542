"""The plan of a benchmark: samplers on grids at budgets of network evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition
from sde_score._core.registry import parse_spec
from sde_score.evaluation.benchmarks.targets import BenchmarkTarget
from sde_score.evaluation.provenance import provenance
from sde_score.models import Model
from sde_score.samplers import SAMPLERS, Sampler
from sde_score.sdes import SDE

BENCHMARK_BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100)
"""Budgets that are measured by default."""

FAILURES = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError)
"""Errors of a sampler that a budget or a model does not suit."""

Draw = Callable[[BenchmarkTarget, Tensor, Sequence[int], Condition], Tensor]
"""Samples from starts, their seeds and conditions. The start of seed i is its first draw times
`prior_std`; evaluations are counted on the target's model."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A sampler with a grid at a budget.

    Args:
        sampler: what it is called, with its arguments but for steps and grid.
        grid: at which times.
        spec: all of it, which names its results.
        stochastic: whether noise is drawn on the way; such a sampler has no error of the solver.
        draw: takes starts to samples; None if there is a reason why not.
        budget: evaluations that it is for; None where steps are given or a tolerance decides.
        source: whose it is; empty for this package.
        reason: why it cannot run.
        made_of: what decides its figures, such as the sampler; None takes the code of `draw`.
    """

    sampler: str
    grid: str
    spec: str
    stochastic: bool
    draw: Draw | None
    budget: int | None = None
    source: str = ""
    reason: str = ""
    made_of: object = None

    @property
    def digest(self) -> str:
        """Of what runs, defaults and code included: figures of another one are not its own."""
        return provenance(getattr(self.draw, "__code__", None), self.made_of)


def available() -> list[str]:
    """Samplers that are measured where none are named: all that go from noise to data."""
    return [name for name in samplers.available() if _from_noise(name)]


def _from_noise(name: str) -> bool:
    try:
        return samplers.create(name).from_noise
    except ValueError:  # a sampler of someone's that needs arguments
        return False


def plan(
    model: Model | SDE,
    specs: Sequence[str | Sampler],
    grids: Sequence[str] = (),
    nfes: Sequence[int] = BENCHMARK_BUDGETS,
) -> list[Entry]:
    """Entries to measure: every sampler on every grid at every budget.

    A sampler whose text has a grid keeps it, one whose text has steps or that is an object is taken
    as it is, and one whose tolerance decides its cost has one entry. Budgets that buy the same
    steps are one. A combination that cannot be is an entry with a reason.

    Args:
        model: that the samplers will see, on which budgets are counted, or its diffusion.
        specs: such as `"heun"` or `"ddim(eta=0.5, grid='karras')"`, or samplers.
        grids: such as `"karras"`; none for each sampler's own.
        nfes: budgets of network evaluations.

    Raises:
        ValueError: for an unknown sampler, grid or argument, no samplers or budgets, or a budget
            below 1.
    """
    if not specs:
        raise ValueError(f"samplers is empty: name some of {', '.join(samplers.available())}")
    if not nfes:
        raise ValueError("nfe is empty: give budgets of network evaluations, such as 10 20 50")
    for nfe in nfes:
        require_count(nfe=nfe)
    for grid in grids:
        samplers.create("ddim", grid=grid)
    entries: dict[str, Entry] = {}
    for spec in dict.fromkeys(specs):
        given = parse_spec(spec)[1] if isinstance(spec, str) else {"steps": None, "grid": None}
        sampler = SAMPLERS.resolve(spec, model=model)
        fixed = sampler.adaptive or "steps" in given or "nfe" in given
        budgets = [None] if fixed else sorted(set(nfes))
        for choice in [None] if "grid" in given or not grids else grids:
            for entry in _entries(model, sampler, choice, budgets):
                entries.setdefault(entry.spec, entry)
    return list(entries.values())


def _entries(
    model: Model | SDE, sampler: Sampler, grid: str | None, budgets: Sequence[int | None]
) -> Iterator[Entry]:
    """One sampler on one grid, at every budget."""
    try:
        sampler = sampler if grid is None else replace(sampler, grid=grid)
    except ValueError as error:
        yield _entry(sampler, None, str(error), str(grid))
        return
    for budget in budgets:
        try:
            chosen = sampler if budget is None else sampler.within(budget, model)
        except ValueError as error:
            yield _entry(sampler, budget, str(error))
        else:
            yield _entry(chosen, budget)


def _entry(sampler: Sampler, budget: int | None, reason: str = "", grid: str = "") -> Entry:
    # The sampler draws the same start itself; if it were given, the first noise on the way would be
    # the noise of the start once more.
    def draw(
        target: BenchmarkTarget, start: Tensor, seeds: Sequence[int], condition: Condition
    ) -> Tensor:
        shape = tuple(start.shape)
        return sampler(target.model, shape, seed=seeds, condition=condition, progress=False)

    grid = grid or str(sampler.grid)
    failed = f"{sampler.text('steps', 'grid')} on {grid} within {budget}"
    return Entry(
        sampler=sampler.text("steps", "grid"),
        grid=grid,
        spec=failed if reason else sampler.text(),
        stochastic=sampler.stochastic,
        draw=None if reason else draw,
        budget=budget,
        reason=reason,
        made_of=sampler,
    )
