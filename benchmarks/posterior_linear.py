"""Tables of linear-Gaussian problems, for `posterior.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import posterior_peers
import torch
from linear_gaussian import Linear, divergence, is_affine, moments, normal, problems
from results import Row
from torch import Tensor

from sde_score import samplers
from sde_score.models import Model
from sde_score.posterior import (
    SAMPLERS,
    Blur,
    Mask,
    Matrix,
    MeanPool,
    Measurement,
    Posterior,
)
from sde_score.sdes import EDM

MMPS = "mmps(tolerance=1e-8)"
SAMPLED = 2000
GUIDED = {
    "mmps, ODE": (MMPS, "ddim"),
    "mmps": (MMPS, "ancestral"),
    "tmpd": ("tmpd", "ancestral"),
    "pigdm": ("pigdm", "ancestral"),
    "pigdm-published": ("pigdm-published", "ancestral"),
    "sda .01": ("sda(0.01)", "ancestral"),
    "sda 1": ("sda(1)", "ancestral"),
    "c-dps": ("c-dps", "ancestral"),
    "lgd-mc": ("lgd-mc", "ancestral"),
    "dps .1": ("dps(0.1)", "ancestral"),
    "dps .3": ("dps(0.3)", "ancestral"),
    "dps 1": ("dps(1)", "ancestral"),
}
"""Rows of guided models: the method and the sampler."""

STEPPING = {
    **{name: name for name in SAMPLERS},
    "ddnm, published": "ddnm(published=True)",
    "diffpir, 7, .1": "diffpir(strength=7.0, zeta=0.1)",
    "diffpir, 1, 1": "diffpir(strength=1.0, zeta=1.0)",
    "daps": "daps(grid='karras(end=0.1)')",
    "daps, published": "daps(published=True, grid='karras(end=0.1)')",
}
"""Rows of posterior samplers, as text; those that give no grid take that of Karras et al."""

FIGURES: dict[tuple[str, float], dict[int, float]] = {
    ("mmps, ODE", 0.1): {20: 0.215, 100: 0.0088, 1000: 0.00015},
    ("mmps, ODE", 0.5): {20: 0.198, 100: 0.0080, 1000: 0.00011},
    ("mmps", 0.1): {20: 0.654, 100: 0.0365, 1000: 0.0004},
    ("mmps", 0.5): {20: 0.613, 100: 0.034, 1000: 0.0004},
    ("tmpd", 0.1): {20: 0.85, 100: 0.128, 1000: 0.076},
    ("tmpd", 0.5): {20: 0.64, 100: 0.047, 1000: 0.011},
    ("pigdm", 0.1): {20: 0.93, 100: 0.374, 1000: 0.356},
    ("pigdm", 0.5): {20: 0.63, 100: 0.070, 1000: 0.043},
    ("sda .01", 0.1): {20: 5.3, 100: 0.51, 1000: 0.36},
    ("sda .01", 0.5): {20: 0.72, 100: 0.085, 1000: 0.039},
    ("sda 1", 0.1): {20: 1.6, 100: 0.93, 1000: 0.86},
    ("sda 1", 0.5): {20: 0.68, 100: 0.12, 1000: 0.089},
    ("c-dps", 0.1): {20: 1050.0, 100: 0.57, 1000: 0.42},
    ("c-dps", 0.5): {20: 0.75, 100: 0.10, 1000: 0.054},
    ("dps .1", 0.1): {100: 4.2, 1000: 5.5},
    ("dps .3", 0.1): {100: 5.3, 1000: 6.8},
    ("dps 1", 0.1): {100: 34.0, 1000: 35.0},
    ("dps .1", 0.5): {100: 9.9, 1000: 9.6},
    ("dps .3", 0.5): {100: 8.0, 1000: 9.5},
    ("dps 1", 0.5): {100: 13.0, 1000: 15.0},
    ("pigdm-published", 0.1): {20: 0.87, 100: 1.24, 1000: 3.14},
    ("pigdm-published", 0.5): {20: 0.66, 100: 0.81, 1000: 4.14},
    ("ddrm", 0.1): {20: 1.28, 100: 1.32, 1000: 2.70},
    ("ddrm", 0.5): {20: 1.17, 100: 1.60, 1000: 3.63},
    ("diffpir, 7, .1", 0.1): {20: 2.2, 100: 2.8, 1000: 3.3},
    ("diffpir, 7, .1", 0.5): {20: 0.37, 100: 0.19, 1000: 0.42},
    ("diffpir, 1, 1", 0.1): {20: 1.6, 100: 0.91, 1000: 0.78},
    ("diffpir, 1, 1", 0.5): {20: 1.7, 100: 0.93, 1000: 0.79},
    ("daps", 0.1): {20: 4.4, 100: 1.23, 1000: 0.83},
    ("daps", 0.5): {20: 3.7, 100: 1.14, 1000: 0.88},
    ("daps, published", 0.1): {20: 4.7, 100: 1.45, 1000: 1.04},
    ("daps, published", 0.5): {20: 4.2, 100: 1.39, 1000: 1.11},
}
"""KL of the same problems by the formulas in NumPy. Ours of TMPD is a little smaller, as row sums
below zero count as zero; ours of published PiGDM adds to a state of unit variance, as its paper has
it, where NumPy adds to x."""

KERNEL = torch.tensor([0.25, 0.5, 0.25])
OPERATORS = {
    "mask": Mask(torch.tensor([[True, False, True, True, False, False, True, False]])),
    "blur": Blur((1, 8), KERNEL),
    "pool": MeanPool((1, 8), 2),
    "random": Matrix(normal(3, 8), (1, 8)),
    "low-rank": Matrix(normal(5, 2) @ normal(2, 8, seed=1), (1, 8)),
}


def measured(name: str, problem: Linear, steps: int) -> tuple[float, float]:
    """KL of the samples from the posterior, and the ratio of their traces."""
    shape = problem.seen.operator.event_shape
    if name in posterior_peers.STEPPING:
        rows = posterior_peers.samples_of(name, problem, steps, (SAMPLED, *shape))
        return _compared(*_estimated(rows), problem)
    sampler, model = prepared(name, problem.prior, problem.seen, steps)
    if is_affine(sampler, model, shape):
        mean, covariance = moments(sampler, model, shape)
    else:
        mean, covariance = _estimated(sampler(model, (SAMPLED, *shape), seed=0, progress=False))
    return _compared(mean, covariance, problem)


def prepared(name: str, prior: Model, seen: Measurement, steps: int) -> tuple[Any, Model]:
    """The sampler of a row, and the model that it is called with."""
    given: dict[str, Any] = {"steps": steps, "grid": "karras"}
    if name in posterior_peers.GUIDED:
        theirs = posterior_peers.model_of(name, prior, seen)
        return samplers.create("ancestral", **given), theirs
    if name in GUIDED:
        method, spec = GUIDED[name]
        sampler = samplers.create(spec, **given)
        return sampler, Posterior(prior, seen, method, sampler=sampler)
    spec = STEPPING.get(name, name)
    given = {"steps": steps} if "grid" in spec else given
    return SAMPLERS.create(spec, observation=seen, **given), prior


def _compared(mean: Tensor, covariance: Tensor, problem: Linear) -> tuple[float, float]:
    found = divergence(mean, covariance, problem.mean, problem.covariance)
    return found, float(covariance.trace() / problem.covariance.trace())


def _estimated(x: Tensor) -> tuple[Tensor, Tensor]:
    rows = x.double().flatten(1)
    return rows.mean(0), rows.T.cov()


def table(given: argparse.Namespace) -> Iterator[Row]:
    """Every method and sampler, at every noise and number of steps."""
    every = given.steps or ([20, 100] if given.quick else [20, 100, 1000])
    count = given.count or (3 if given.quick else 20)
    only = tuple(given.only or [""])
    names = [n for n in [*GUIDED, *STEPPING, *posterior_peers.NAMES] if n.startswith(only)]
    for name, std, steps in product(names, given.std or [0.1, 0.5], every):
        key = ("linear", name, std, steps, count)
        row: Row = {"method": name, "std": std, "steps": steps, "problems": count}
        row.update(given.journal.kept(key, partial(medians, *key[1:])))
        yield {**row, "KL, NumPy": FIGURES.get((name, std), {}).get(steps)}


def medians(name: str, std: float, steps: int, count: int) -> Row:
    """Medians over problems."""
    some = problems(std, EDM(0.01, 100.0) if "daps" in name else None, count=count)
    divergences, ratios = zip(*(measured(name, each, steps) for each in some), strict=True)
    return {"KL": median(divergences), "trace": median(ratios)}


def operators(given: argparse.Namespace) -> Iterator[Row]:
    """MMPS for each operator and noise; KL at each number of steps."""
    steps = given.steps or ([20, 40] if given.quick else [20, 100, 1000])
    for name, operator in OPERATORS.items():
        for std in given.std or [0.05, 0.3, 1.0]:
            for kind in ("mmps, ODE", "mmps"):
                row: Row = {"operator": name, "std": std, "method": kind}
                for n in steps:
                    some = problems(std, operator=operator, count=given.count or 2)
                    row[f"KL {n}"] = median(measured(kind, each, n)[0] for each in some)
                yield row


SOLVERS = [
    "ddim(grid='karras')",
    "heun(grid='karras')",
    "dpmpp-2m(grid='karras')",
    "dpmpp-2m(grid='karras(rho=9)')",
    "adams(grid='karras')",
    "adams",
]
"""Deterministic samplers on the guided model; then two with a grid that is searched for."""


def solvers(given: argparse.Namespace) -> Iterator[Row]:
    """KL of deterministic samplers on MMPS with few evaluations; grids are found on the posterior
    of the first problem, and measured on all."""
    std, count = (given.std or [0.1])[0], given.count or (3 if given.quick else 20)
    first = next(problems(std))
    for spec in [*SOLVERS, "dpmpp-2m, found", "adams, found"]:
        name, _, found = spec.partition(", ")
        row: Row = {"sampler": spec, "std": std}
        for nfe in given.steps or [10, 20]:
            sampler = samplers.create(name, nfe=nfe)
            if found:
                sampler = samplers.optimise_grid(
                    first.posterior, sampler, nfe, (8,), num=64, fresh=32, iterations=60,
                    progress=False,
                ).sampler  # fmt: skip
            some = [
                divergence(*moments(sampler, posterior_of(p), (8,)), p.mean, p.covariance)
                for p in problems(std, count=count)
            ]
            row[f"KL {nfe}"], row[f"worst {nfe}"] = median(some), max(some)
        yield row


def posterior_of(problem: Linear) -> Posterior:
    """The guided model of MMPS, exact for these data."""
    return Posterior(problem.prior, problem.seen, MMPS)
