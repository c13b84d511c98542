"""Which samplers, on which grids, at which budgets: what a benchmark is to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import Tensor

from sde_score import samplers
from sde_score._core.checks import require_count
from sde_score._core.registry import format_spec, parse_spec
from sde_score.evaluation.benchmarks.targets import BenchmarkTarget
from sde_score.models import GaussianMixture
from sde_score.samplers import MCMC, SAMPLERS, Sampler
from sde_score.sdes import SDE

BENCHMARK_BUDGETS = (5, 8, 10, 15, 20, 30, 50, 100)
"""Budgets that are measured by default."""

FAILURES = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError)
"""What a sampler may raise where a budget or a model does not suit it."""

_MOST_STEPS = 4  # per evaluation

Draw = Callable[[BenchmarkTarget, Tensor, Sequence[int], Tensor | None], Tensor]
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
    """

    sampler: str
    grid: str
    spec: str
    stochastic: bool
    draw: Draw | None
    budget: int | None = None
    source: str = ""
    reason: str = ""


def available() -> list[str]:
    """Samplers that are measured where none are named: all that go from noise to data."""
    return [name for name in samplers.available() if SAMPLERS[name] is not MCMC]


def plan(
    sde: SDE,
    specs: Sequence[str],
    grids: Sequence[str] = (),
    nfes: Sequence[int] = BENCHMARK_BUDGETS,
) -> list[Entry]:
    """What is to be measured: every sampler on every grid at every budget.

    A sampler whose spec has a grid keeps it, one whose spec has steps is taken as it is, and one
    whose tolerance decides its cost has one entry. Budgets that buy the same steps are one. A
    combination that cannot be is an entry with a reason.

    Args:
        sde: that the samplers will see.
        specs: such as `"heun"` or `"ddim(eta=0.5, grid='karras')"`.
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
        samplers.create(spec)
        name, given = parse_spec(spec)
        own = "grid" in given or not grids
        for choice in [{}] if own else [{"grid": grid} for grid in grids]:
            arguments = {**given, **choice}
            for entry in _budgeted(sde, name, arguments, sorted(set(nfes))):
                entries.setdefault(entry.spec, entry)
    return list(entries.values())


def _budgeted(sde: SDE, name: str, given: dict[str, Any], nfes: Sequence[int]) -> list[Entry]:
    try:
        sampler = samplers.create(format_spec(name, given))
    except ValueError as error:
        return [_entry(name, given, None, None, str(error))]
    if "steps" in given or "adaptive" in sampler.evaluations:
        return [_entry(name, given, sampler, None)]
    found = []
    for budget in nfes:
        steps, reason = steps_within(sde, format_spec(name, given), budget)
        arguments = given if steps is None else {**given, "steps": steps}
        if steps is None:
            failed = _entry(name, {**given, "budget": budget}, sampler, budget, reason)
            found.append(replace(failed, draw=None))
            continue
        chosen = samplers.create(format_spec(name, arguments))
        found.append(_entry(name, arguments, chosen, budget))
    return found


def _entry(
    name: str, given: Mapping[str, Any], sampler: Sampler | None, budget: int | None,
    reason: str = "",
) -> Entry:  # fmt: skip
    own = {k: v for k, v in given.items() if k not in ("steps", "grid", "budget")}
    return Entry(
        sampler=format_spec(name, own),
        grid=str(given.get("grid", "") if sampler is None else sampler.grid),
        spec=format_spec(name, given),
        stochastic=sampler is not None and sampler.stochastic,
        draw=None if sampler is None else _drawn_by(sampler),
        budget=budget,
        reason=reason,
    )


def _drawn_by(sampler: Sampler) -> Draw:
    def draw(
        target: BenchmarkTarget, start: Tensor, seeds: Sequence[int], condition: Tensor | None
    ) -> Tensor:
        # The sampler draws the same start itself; if it were given, the first noise on the way
        # would be the noise of the start once more.
        shape = tuple(start.shape)
        return sampler(target.model, shape, seed=seeds, condition=condition, progress=False)

    return draw


@lru_cache(maxsize=4096)
def steps_within(sde: SDE, spec: str, budget: int) -> tuple[int | None, str]:
    """The steps at which a sampler makes `budget` evaluations, or the most below that.

    Found by counting: the sampler draws one number from a Gaussian at various steps.

    Args:
        sde: that the sampler will see.
        spec: of the sampler, without steps.
        budget: evaluations per sample.

    Returns:
        The steps and an empty text, or None and the reason why no number of steps fits.
    """
    low, high, steps = 1, _MOST_STEPS * budget, budget
    best, reason = None, ""
    while low <= high:
        found, reason = _count(sde, spec, steps)
        if found == budget:
            return steps, ""
        if found is not None and found > budget:
            high = steps - 1
        else:  # a sampler that refuses asks for more steps, as a rule
            low, best = steps + 1, best if found is None else steps
        steps = (low + high) // 2
    # A grid of given times fits one number of steps, which halving does not find.
    return (_any_steps(sde, spec, budget) if best is None else best), reason


def _any_steps(sde: SDE, spec: str, budget: int) -> int | None:
    counts = ((steps, _count(sde, spec, steps)[0]) for steps in range(budget, 0, -1))
    return next((s for s, found in counts if found is not None and found <= budget), None)


def _count(sde: SDE, spec: str, steps: int) -> tuple[int | None, str]:
    """Evaluations, or None if the sampler refuses, and what to say if they are too many."""
    model = GaussianMixture([[0.3]], 0.5, sde)
    try:
        samplers.create(spec, steps=steps)(model, (1, 1), seed=0, progress=False)
    except FAILURES as error:
        return None, f"{steps} steps: {error}"
    return model.nfe, f"{steps} steps make {model.nfe} evaluations"
