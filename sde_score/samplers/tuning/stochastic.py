r"""Samplers that draw noise on the way, ranked by the distance of their samples from fine ones.

There is no end point to hold a run against, so distributions are compared, by the energy distance

.. math:: 2\, E|X - Y| - E|X - X'| - E|Y - Y'|

without bias, between samples and those of the model's own flow, solved finely. All samplers draw
from the same seeds, by halving: the better ones by few samples meet all. Differences below the
*floor*, the standard deviation of the distance of sets that differ by chance alone, say nothing.

Reference: Szekely & Rizzo 2013, https://doi.org/10.1016/j.jspi.2013.03.018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import Condition, rows_of
from sde_score.models import Model
from sde_score.random import example_seeds, generator_from
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.tuning.candidates import affordable, on_stock_grids
from sde_score.samplers.tuning.optimise_grid import event_shape_of, fine_solution, frozen

_SPLITS = 32  # of the fine samples, for the floor
_KEPT = 6  # samplers that meet all samples


@dataclass(frozen=True)
class Ranked:
    """A sampler and the energy distance of its samples from fine ones; below the floor, and
    negative where it is below that by chance, it is 0 as far as one can tell."""

    sampler: Sampler
    distance: float


@dataclass(frozen=True)
class Ranking:
    """What was found.

    Args:
        entries: those that met all samples, the best first.
        floor: standard deviation of the distance of two sets of fine samples.
    """

    entries: tuple[Ranked, ...]
    floor: float

    @property
    def ties(self) -> tuple[Ranked, ...]:
        """Those that are not told apart from the best, itself first: within two floors of it."""
        least = self.entries[0].distance
        return tuple(each for each in self.entries if each.distance <= least + 2 * self.floor)


def rank_stochastic(
    model: Model,
    nfe: int,
    event_shape: Sequence[int] | None = None,
    *,
    candidates: Sequence[str | Sampler] | None = None,
    num: int = 512,
    seed: int = 0,
    reference: Sampler | None = None,
    condition: Condition = None,
) -> Ranking:
    """Rank samplers by the distribution of what they draw within a budget.

    Args:
        model: anything with the model protocol.
        nfe: evaluations per sample.
        event_shape: of one sample; None takes `model.event_shape`.
        candidates: samplers to compare; None for all stochastic ones by name, on several grids.
        num: samples of each, and twice as many fine ones; at least 8.
        seed: random seed; the same seed gives the same ranking.
        reference: the fine solution; None as for `optimise_grid`.
        condition: passed to the model; `2 * num` entries, of which each sampler gets the first.

    Raises:
        ValueError: for a budget below the cost of all, or arguments outside their range.
    """
    require_count(nfe=nfe)
    require_count(minimum=8, num=num)
    chosen = [SAMPLERS.resolve(each, "candidates") for each in candidates or ()]
    given = chosen or _named()
    with frozen(model):
        racing = affordable(given, nfe, model)
        if not racing:
            raise ValueError(f"nfe={nfe}: no sampler to choose from has steps for this budget")
        shape, fine = event_shape_of(model, event_shape), reference or fine_solution(model)

        def drawn(sampler: Sampler, first: int, count: int) -> Tensor:
            told = rows_of(condition, slice(first % (2 * num), first % (2 * num) + count))
            seeds = example_seeds(seed, count, first)
            x = sampler(model, (count, *shape), seed=seeds, condition=told, progress=False)
            return x.flatten(1).double().cpu()

        def distance(sampler: Sampler, count: int) -> float:
            try:
                found = energy_distance(drawn(sampler, 2 * num, count), truth)
            except REFUSALS:  # a grid or a number of steps that does not go
                return math.inf
            return found if math.isfinite(found) else math.inf

        truth = drawn(fine, 0, 2 * num)
        pool = racing if candidates is not None else on_stock_grids(racing)
        few = sorted(pool, key=lambda sampler: distance(sampler, num // 4))[:_KEPT]
        entries = [Ranked(each, distance(each, num)) for each in few]
        entries.sort(key=lambda each: each.distance)
    return Ranking(tuple(entries), _floor(truth, seed))


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased energy distance of two sets of vectors, `(n, D)` and `(m, D)`, two or more of each;
    0 on average where they are draws of one distribution."""
    between, within = torch.cdist(x, y).mean(), (_spread(x) + _spread(y))
    return (2 * between - within).item()


def _spread(x: Tensor) -> Tensor:
    """Mean distance of two different points of a set."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))


def _floor(truth: Tensor, seed: int) -> float:
    """Standard deviation of the distance of a third of the fine samples from the others, as of
    `num` from `2 num`, scaled to those numbers."""
    generator, part = generator_from(seed, len(truth)), len(truth) // 3
    found = []
    for _ in range(_SPLITS):
        order = torch.randperm(len(truth), generator=generator)
        found.append(energy_distance(truth[order[:part]], truth[order[part:]]))
    shrunk = part / (len(truth) // 2)  # the distance of chance falls with the number of samples
    return torch.tensor(found).square().mean().sqrt().item() * shrunk


def _named() -> list[Sampler]:
    """All stochastic samplers by name that go from noise to data by steps on a grid."""
    found = []
    for name in SAMPLERS.names():
        try:
            sampler = SAMPLERS.create(name)
        except ValueError:  # one that needs arguments
            continue
        goes = sampler.denoise and sampler.descends and sampler.from_noise
        if goes and sampler.stochastic and not sampler.adaptive:
            found.append(sampler)
    return found
