"""Deterministic samplers to choose from for a model: those with a name, and their neighbors.

A neighbor differs in one field: the prediction, the clock, the order, the corrector, the order of
the last step, the tableau or the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sde_score.models import Model
from sde_score.samplers.base import SAMPLERS, Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.composite.parallel import Parallel
from sde_score.samplers.fixed_step.auto import suited
from sde_score.samplers.fixed_step.exponential import PREDICTIONS
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.fixed_step.runge_kutta import PLACEMENTS, RungeKutta
from sde_score.samplers.published import FIRST_TIER
from sde_score.sdes.clocks import CLOCKS

STOCK = ("rectified(last=0.5)", "angle(last=0.5)", "karras", "log_snr", "polynomial", "uniform")
"""Grids that are tried with every sampler."""


def suits(sampler: Sampler) -> bool:
    """Whether a sampler goes from noise to data without a draw, by steps that a grid places, one
    after the other: what a sweep of parallel steps costs is more than it counts."""
    fixed = not (sampler.stochastic or sampler.adaptive or isinstance(sampler, Parallel))
    return fixed and sampler.denoise and sampler.descends and sampler.from_noise


def named() -> list[Sampler]:
    """All samplers by name that suit, those of users too, the first tier first; the steps are
    their defaults."""
    found = []
    for name in SAMPLERS.names():
        try:
            sampler = SAMPLERS.create(name)
        except ValueError:  # one that needs arguments
            continue
        if suits(sampler):
            found.append(sampler)
    return sorted(found, key=lambda sampler: sampler.name not in FIRST_TIER)


def affordable(samplers: Sequence[Sampler], nfe: int, model: Model) -> list[Sampler]:
    """Those that can be run within a budget, with the most steps for it, each once."""
    found: list[Sampler] = []
    for sampler in samplers:
        try:
            sampler = suited(sampler.within(nfe, model), model)
        except REFUSALS:
            continue
        if sampler not in found:
            found.append(sampler)
    return found


def on_stock_grids(samplers: Sequence[Sampler]) -> list[Sampler]:
    """Samplers on their own grids, and after these on the others."""
    pairs = ((each, grid) for grid in STOCK for each in samplers if each.grid != grid)
    return [*samplers, *(replace(each, grid=grid) for each, grid in pairs)]


def neighbors(sampler: Sampler, nfe: int, model: Model) -> list[Sampler]:
    """Samplers that differ in one field, within the same budget."""
    choices: dict[str, Sequence[Any]] = {"grid": STOCK}
    if isinstance(sampler, (Multistep, RungeKutta)):
        choices["prediction"] = tuple(PREDICTIONS)
    if isinstance(sampler, RungeKutta):
        choices |= {"coordinate": PLACEMENTS, "method": ("heun", "midpoint", "ralston", "heun-3")}
    if isinstance(sampler, Multistep):
        order, corrector = sampler.order, sampler.corrector
        choices |= {
            "coordinate": tuple(CLOCKS),
            "order": [n for n in (order - 1, order + 1) if 1 <= n <= 5],
            "corrector": sorted({0, 2, 3, corrector + 1}) if corrector < 5 else (0, 2, 3),
            "final_order": (1, 2, 3, 4),
            "taper": (True, False),
        }
    found: list[Sampler] = []
    for key, values in choices.items():
        for value in values:
            try:
                changed = replace(sampler, **{key: value})
            except ValueError:  # fields that do not go together
                continue
            if key == "method":  # what a step costs
                found += affordable([changed], nfe, model)
            else:
                found.append(changed)
    return [each for each in found if each != sampler]
