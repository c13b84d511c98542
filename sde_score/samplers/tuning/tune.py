r"""The sampler that suits a model and a number of evaluations, found by a race.

Deterministic samplers run from the same few starts, and their ends are held against the model's own
flow, solved finely. By successive halving the better ones meet more starts, then their neighbors,
which differ in one field, as long as one is better. The grids of the best, of different kinds, are
searched by `optimise_grid`'s search; starts that no grid has seen choose, and fresh ones, which
have decided nothing, tell the errors.

The loss is the geometric mean of two errors over the starts,

.. math:: \sqrt{rms \cdot median} .

Few starts near a boundary between modes decide the root mean square, the others the median.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sde_score._core.checks import require_count, require_positive
from sde_score._core.conditions import Condition
from sde_score.models import Model
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.fixed_step.runge_kutta import RungeKutta
from sde_score.samplers.grids import GridFile, NoiseRatios, write_grid_file
from sde_score.samplers.tuning.candidates import affordable, named, neighbors, on_stock_grids, suits
from sde_score.samplers.tuning.optimise_grid import (
    event_shape_of,
    fine_solution,
    frozen,
    search_grid,
)
from sde_score.samplers.tuning.search import EndErrors, Parts, Search, Starts

_ROUNDS = 4  # of neighbors, at most
_PARENTS = 4  # whose neighbors are tried
_FINALISTS = 3  # whose grids are searched


@dataclass(frozen=True)
class Entry:
    """A sampler in the race.

    Args:
        sampler: with the steps that the budget allows.
        starts: how many it was measured on.
        errors: on them.
    """

    sampler: Sampler
    starts: int
    errors: EndErrors

    @property
    def text(self) -> str:
        """The sampler in words, without the numbers of a grid that was found."""
        found = isinstance(self.sampler.grid, NoiseRatios)
        return f"{self.sampler.text('grid')}, its grid found" if found else str(self.sampler)


@dataclass(frozen=True)
class Tuned:
    """The sampler that was found, with the evidence.

    Args:
        sampler: with its steps and its grid.
        spec: the sampler in words, steps included and the grid not.
        nfe: its evaluations, counted.
        target: what was sampled, in words.
        errors: on fresh starts.
        race: all that were measured, the best first; the last few on the starts that choose.
        complete: whether the race was run to its end. One that was stopped by its time found the
            best so far, and another machine may find another.
    """

    sampler: Sampler
    spec: str
    nfe: int
    target: str
    errors: EndErrors
    race: tuple[Entry, ...]
    complete: bool
    ratios: tuple[float, ...]

    def file(self) -> GridFile:
        """What its file holds."""
        errors = {"fresh_rms": self.errors.rms, "fresh_median": self.errors.median}
        return GridFile(self.ratios, self.spec, self.nfe, self.target, errors)

    def save(self, path: str | Path) -> None:
        """Write it; the name of the file is then that of a sampler: `--sampler tuned.json`, or
        `samplers.create("tuned.json")`.

        Raises:
            ValueError: if the name does not end with .json.
            OSError: if it cannot be written.
        """
        write_grid_file(path, self.file())


def tune(
    model: Model,
    nfe: int,
    event_shape: Sequence[int] | None = None,
    *,
    candidates: Sequence[str | Sampler] | None = None,
    num: int = 64,
    fresh: int = 256,
    seed: int = 0,
    iterations: int = 60,
    seconds: float | None = None,
    reference: Sampler | None = None,
    condition: Condition = None,
    batch_size: int = 512,
    target: str = "",
    progress: bool = True,
) -> Tuned:
    """Find the deterministic sampler with the least error at the end, for a model and a budget.

    A model is frozen meanwhile. One seed finds one sampler, unless the time runs out.

    Args:
        model: anything with the model protocol.
        nfe: evaluations per sample that it may use.
        event_shape: of one sample; None takes `model.event_shape`.
        candidates: samplers that race, without their neighbors; None for all with a name.
        num: starts to race from and to fit grids to. Half as many more choose.
        fresh: further starts, for the errors that are reported.
        seed: random seed of the starts.
        iterations: of the search for each grid; see `optimise_grid`.
        seconds: time, the fine solution included, half of it for the race and half for the grids,
            after which the best so far is taken; None takes as long as it needs.
        reference: the fine solution; None as for `optimise_grid`.
        condition: passed to the model; one entry per start, `num + num // 2 + fresh` in all.
        batch_size: starts that the model sees at once.
        target: what is sampled, in words, for the file.
        progress: show a bar once it takes over two seconds.

    Raises:
        ValueError: for candidates that are stochastic or adaptive, a budget below the cost of all,
            or arguments outside their range.
    """
    require_count(nfe=nfe, fresh=fresh, iterations=iterations, batch_size=batch_size)
    require_count(minimum=4, num=num)
    if seconds is not None:
        require_positive(seconds=seconds)
    began = time.monotonic()
    given = named() if candidates is None else _suitable(candidates)
    fine = reference or fine_solution(model)
    with frozen(model):
        racing = affordable(given, nfe, model)
        if not racing:
            raise ValueError(f"nfe={nfe} is too small: no sampler to choose from costs so little")
        shape = event_shape_of(model, event_shape)
        parts = Parts(model, fine, shape, seed, condition, batch_size, progress)
        few, more, held, new = parts.take(num // 4, num - num // 4, num // 2, fresh)
        limits = (math.inf, math.inf) if seconds is None else (began + seconds / 2, began + seconds)
        race = _Race(model, few, few + more, held, *limits, progress)
        best = race.halved(on_stock_grids(racing), _PARENTS)
        if candidates is None:
            best = race.climbed(best, nfe)
        finals = race.with_found_grids(best, nfe, iterations, seed)
        winner = min(finals, key=_loss).sampler
        spec, spent = winner.text("grid"), winner.count_nfe(model)
        ratios = tuple(model.sde.noise_ratio(winner.times(model.sde)).tolist())
        grid = NoiseRatios(ratios=ratios, made_for=f"{spec}, {spent} NFE")
        winner = replace(winner, grid=grid)
        errors = race.errors(winner, new)
    table = tuple(sorted(race.table.values(), key=_loss))
    return Tuned(winner, spec, spent, target, errors, table, race.complete, ratios)


def _loss(entry: Entry) -> float:
    return entry.errors.balanced


def _suitable(candidates: Sequence[str | Sampler]) -> list[Sampler]:
    """The candidates as objects, all of which can race."""
    made = [SAMPLERS.resolve(each, name="candidates") for each in candidates]
    for sampler in made:
        if not suits(sampler):
            raise ValueError(
                f"candidates has {sampler}, which draws noise, chooses its own steps or keeps the "
                "last noise: only deterministic samplers on a grid are raced, such as adams"
            )
    return made


@dataclass(eq=False)
class _Race:
    """Samplers measured from the same starts until the clock `time.monotonic` is `halfway`, and
    their grids searched until it is `until`."""

    model: Model
    few: Starts
    fit: Starts
    held: Starts
    halfway: float
    until: float
    progress: bool

    def __post_init__(self) -> None:
        self.table: dict[str, Entry] = {}
        self.complete = True

    def errors(self, sampler: Sampler, starts: Starts) -> EndErrors:
        """Errors of a sampler; infinite where it fails."""
        try:
            search = Search(self.model, sampler, starts, starts, False)
            return EndErrors.of(search.errors(sampler.times(self.model.sde), starts))
        except REFUSALS:  # a grid or a number of steps that does not go
            return EndErrors(math.inf, math.inf, math.inf)

    def _over(self, limit: float) -> bool:
        """Whether to stop; what was measured so far counts."""
        over = time.monotonic() > limit
        self.complete &= not over
        return over

    def _measured(self, samplers: Sequence[Sampler], starts: Starts) -> list[Entry]:
        found: list[Entry] = []
        for sampler in samplers:
            if self.table and self._over(self.halfway):
                break
            found.append(Entry(sampler, len(starts), self.errors(sampler, starts)))
            self.table[repr(sampler)] = found[-1]
        return sorted(found, key=_loss)

    def halved(self, samplers: Sequence[Sampler], most: int) -> list[Entry]:
        """The best by all starts among the best by few, the best first."""
        first = self._measured(samplers, self.few)[: 3 * most]
        some = [entry.sampler for entry in first]
        return (self._measured(some, self.fit) or first)[:most]

    def climbed(self, best: list[Entry], nfe: int) -> list[Entry]:
        """The best after their neighbors have raced as well, round after round."""
        for _ in range(_ROUNDS):
            near = [n for e in best[:_PARENTS] for n in neighbors(e.sampler, nfe, self.model)]
            new = [*{repr(n): n for n in near if repr(n) not in self.table}.values()]
            ahead = sorted([*best, *self.halved(new, _PARENTS)], key=_loss)[: 2 * _PARENTS]
            if not new or self._over(self.halfway) or ahead[0] is best[0]:
                return ahead
            best = ahead
        return best

    def with_found_grids(
        self, best: list[Entry], nfe: int, iterations: int, seed: int
    ) -> list[Entry]:
        """The best of each kind, on its grid and on one found for it, by the starts held out."""
        kinds = {_kind(entry.sampler): entry.sampler for entry in reversed(best)}
        firsts = [each.sampler for each in best if kinds[_kind(each.sampler)] is each.sampler]
        finals = list(firsts[:_FINALISTS])
        for left, sampler in zip(range(len(finals), 0, -1), firsts, strict=False):
            if self._over(self.until):
                break
            now = time.monotonic()
            limit = now + (self.until - now) / left
            search = Search(self.model, sampler, self.fit, self.held, self.progress, limit)
            *_, grid = search_grid(search, nfe, "auto", iterations, 0.1, seed)
            self._over(limit)
            finals.append(replace(sampler, grid=grid))
        held = [Entry(each, len(self.held), self.errors(each, self.held)) for each in finals]
        self.table |= {repr(each.sampler): each for each in held}
        return held


def _kind(sampler: Sampler) -> tuple[object, ...]:
    """What finalists differ in: the class and what is extrapolated in which clock."""
    if isinstance(sampler, (Multistep, RungeKutta)):
        return (type(sampler), sampler.prediction, sampler.coordinate)
    return (type(sampler),)
