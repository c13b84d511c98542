r"""The sampler that suits a model and a number of evaluations, found by a race and a fit.

Deterministic samplers run from the same few starts, and their ends are held against the model's own
flow, solved finely. By successive halving the better ones meet more starts, then their neighbors,
which differ in one field, as long as one is better. The coefficients and the times of the best, of
different kinds, are fitted to the model (`fit`), and those of the best of these to the end; starts
that no fit has seen choose, and fresh ones, which have decided nothing, tell the errors.

The loss is the geometric mean of two errors over the starts,

.. math:: \sqrt{rms \cdot median} .

Few starts near a boundary between modes decide the root mean square, the others the median.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from sde_score._core.checks import require_count, require_positive
from sde_score._core.conditions import Condition
from sde_score.models import Model
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.fixed_step.auto import suited
from sde_score.samplers.fixed_step.fitted import Fitted, linear_form
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.fixed_step.runge_kutta import RungeKutta
from sde_score.samplers.grids import GridFile, NoiseRatios, write_grid_file
from sde_score.samplers.tuning.candidates import affordable, named, neighbors, on_stock_grids, suits
from sde_score.samplers.tuning.fit import count_coefficients, fit_coefficients
from sde_score.samplers.tuning.optimise_grid import (
    event_shape_of,
    fine_solution,
    frozen,
    parameters_of,
)
from sde_score.samplers.tuning.search import EndErrors, Parts, Search, Starts

_ROUNDS = 4  # of neighbors, at most
_PARENTS = 4  # whose neighbors are tried
_FINALISTS = 3  # whose coefficients are fitted, at first briefly
_SHARES = (0.25, 0.5)  # of the time, at which the race is over, and the brief fits
_BRIEF = 12  # iterations of a brief fit
_RACING = 64  # starts that all must meet, at most; a fit meets all
_STARTS = 512  # to fit to, at most
_MOST = 64  # steps whose coefficients are fitted


@dataclass(frozen=True)
class Entry:
    """A sampler in the race.

    Args:
        sampler: with the steps that the budget allows.
        starts: how many it was measured on.
        errors: on them.
        begun: where the fit of its coefficients began, in words; empty if they follow a rule.
    """

    sampler: Sampler
    starts: int
    errors: EndErrors
    begun: str = ""

    @property
    def text(self) -> str:
        """The sampler in words."""
        return f"{self.sampler}{f', begun at {self.begun}' if self.begun else ''}"


@dataclass(frozen=True)
class Tuned:
    """The sampler that was found, with the evidence.

    Args:
        sampler: with its steps and its grid.
        begun: where the fit of its coefficients began, in words; empty if they follow a rule.
        nfe: its evaluations, counted.
        target: what was sampled, in words.
        errors: on fresh starts.
        race: all that were measured, the best first; the last few on the starts that choose.
        complete: whether the race was run to its end. One that was stopped by its time found the
            best so far, and another machine may find another.
    """

    sampler: Sampler
    begun: str
    nfe: int
    target: str
    errors: EndErrors
    race: tuple[Entry, ...]
    complete: bool
    ratios: tuple[float, ...]

    @property
    def spec(self) -> str:
        """The sampler in words, without the numbers of its grid and its coefficients."""
        if isinstance(self.sampler, Fitted):
            return f"fitted(steps={self.sampler.steps})"
        return self.sampler.text("grid")

    def file(self) -> GridFile:
        """What its file holds."""
        errors = {"fresh_rms": self.errors.rms, "fresh_median": self.errors.median}
        rows = self.sampler.rows if isinstance(self.sampler, Fitted) else ()
        return GridFile(self.ratios, self.spec, self.nfe, self.target, errors, rows)

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
    num: int | None = None,
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
        num: starts to fit to, of which at most 64 are raced from; None for `starts_to_fit`. Half as
            many more choose.
        fresh: further starts, for the errors that are reported.
        seed: random seed of the starts.
        iterations: of the fit of the coefficients, at most.
        seconds: time, the fine solution included, a quarter of it for the race and the rest for the
            fits, after which the best so far is taken; None takes as long as it needs.
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
    shape = event_shape_of(model, event_shape)
    num = starts_to_fit(model, nfe, shape) if num is None else num
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
        parts = Parts(model, fine, shape, seed, condition, batch_size, progress)
        all_meet = min(num, _RACING)
        counts = (all_meet // 4, all_meet - all_meet // 4, num - all_meet, num // 2, fresh)
        few, more, rest, held, new = parts.take(*counts)
        raced, tried, until = (began + (seconds or math.inf) * share for share in (*_SHARES, 1.0))
        race = _Race(model, few, few + more, few + more + rest, held, raced, tried, until, progress)
        best = race.halved(on_stock_grids(racing), _PARENTS)
        if candidates is None:
            best = race.climbed(best, nfe)
        return race.told(min(race.with_fits(best, iterations, seed), key=_loss), new, target)


def starts_to_fit(model: Model, nfe: int, event_shape: Sequence[int]) -> int:
    """Starts that make a fit of the coefficients general: 512 of a model without parameters, whose
    flow costs little; of a network some numbers for every coefficient, from 64 starts on.

    Args:
        model: that is tuned for.
        nfe: evaluations of the sampler.
        event_shape: of one sample; each of its first 16 entries counts as a number.
    """
    if not parameters_of(model):
        return _STARTS
    wanted = 8 * count_coefficients(nfe) // max(1, min(prod(event_shape), 16))
    return max(64, min(wanted, _STARTS))


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
    """Samplers measured from the same starts until the clock `time.monotonic` is at the first of
    three limits, and coefficients fitted, briefly until the second, and until the last."""

    model: Model
    few: Starts
    racing: Starts
    fit: Starts
    held: Starts
    raced: float
    tried: float
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
            if self.table and self._over(self.raced):
                break
            found.append(Entry(sampler, len(starts), self.errors(sampler, starts)))
            self.table[repr(sampler)] = found[-1]
        return sorted(found, key=_loss)

    def halved(self, samplers: Sequence[Sampler], most: int) -> list[Entry]:
        """The best by all starts among the best by few, the best first."""
        first = self._measured(samplers, self.few)[: 3 * most]
        some = [entry.sampler for entry in first]
        return (self._measured(some, self.racing) or first)[:most]

    def climbed(self, best: list[Entry], nfe: int) -> list[Entry]:
        """The best after their neighbors have raced as well, round after round."""
        for _ in range(_ROUNDS):
            near = [n for e in best[:_PARENTS] for n in neighbors(e.sampler, nfe, self.model)]
            new = [*{repr(n): n for n in near if repr(n) not in self.table}.values()]
            ahead = sorted([*best, *self.halved(new, _PARENTS)], key=_loss)[: 2 * _PARENTS]
            if not new or self._over(self.raced) or ahead[0] is best[0]:
                return ahead
            best = ahead
        return best

    def with_fits(self, best: list[Entry], iterations: int, seed: int) -> list[Entry]:
        """The best of each kind as they are and with coefficients of their own, by the starts held
        out: those of all briefly, those of the best of them to the end."""
        kinds = {_kind(entry.sampler): entry.sampler for entry in reversed(best)}
        firsts = [each.sampler for each in best if kinds[_kind(each.sampler)] is each.sampler]
        firsts = firsts[:_FINALISTS]
        finals = [self._on_held(each, "") for each in firsts]
        brief: list[Entry] = []
        for left, sampler in zip(range(len(firsts), 0, -1), firsts, strict=True):
            now = time.monotonic()
            limit = now + (self.tried - now) / left
            settings = {"iterations": min(_BRIEF, iterations), "shares": (0.0,), "seed": seed}
            brief += self._fitted(sampler, str(sampler), limit, **settings)
        if brief:
            start = min(brief, key=_loss)
            settings = {"iterations": iterations, "shares": (0.0, 0.5), "seed": seed}
            brief += self._fitted(start.sampler, start.begun, self.until, **settings)
        return finals + brief

    def _fitted(self, sampler: Sampler, begun: str, limit: float, **settings: Any) -> list[Entry]:
        """A sampler with fitted coefficients; none where time is over, it cannot be fitted, or the
        model keeps no gradient."""
        plain = suited(sampler, self.model)
        form = linear_form(plain, self.model.sde) if sampler.steps <= _MOST else None
        if form is None or self._over(limit):
            return []
        try:
            found = fit_coefficients(
                self.model, form, self.fit, self.held, until=limit, progress=self.progress,
                **settings,
            )  # fmt: skip
        except RuntimeError as error:
            if "grad" in str(error):
                return []
            raise
        self._over(limit)
        return [self._on_held(found, begun)]

    def told(self, best: Entry, new: Starts, target: str) -> Tuned:
        """What was found, with its errors on new starts."""
        sde, sampler, spent = self.model.sde, best.sampler, best.sampler.count_nfe(self.model)
        ratios = tuple(sde.noise_ratio(sampler.times(sde)).tolist())
        if not isinstance(sampler, Fitted):
            made_for = f"{sampler.text('grid')}, {spent} NFE"
            sampler = replace(sampler, grid=NoiseRatios(ratios=ratios, made_for=made_for))
        errors, table = self.errors(sampler, new), tuple(sorted(self.table.values(), key=_loss))
        return Tuned(sampler, best.begun, spent, target, errors, table, self.complete, ratios)

    def _on_held(self, sampler: Sampler, begun: str) -> Entry:
        entry = Entry(sampler, len(self.held), self.errors(sampler, self.held), begun)
        self.table[repr(sampler)] = entry
        return entry


def _kind(sampler: Sampler) -> tuple[object, ...]:
    """What finalists differ in: the class and what is extrapolated in which clock."""
    if isinstance(sampler, (Multistep, RungeKutta)):
        return (type(sampler), sampler.prediction, sampler.coordinate)
    return (type(sampler),)
