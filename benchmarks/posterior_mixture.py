"""Tables of mixtures and of evidence, for `posterior.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import chain
from math import nan
from statistics import mean, median, stdev

import posterior_peers
import torch
from linear_gaussian import problems
from mixture import Mixture, mixtures, sliced
from posterior_linear import prepared
from results import Row
from torch import Tensor

from sde_score import samplers
from sde_score.models import Model
from sde_score.posterior import Measurement
from sde_score.posterior.smc import SMC, FeynmanKac, NoisedObservation, Particles, Twisted

Problem = tuple[Model, Measurement]

PARTICLES: dict[str, Callable[[Model, Measurement], FeynmanKac]] = {
    "twisted": Twisted,
    "mcg-diff": NoisedObservation,
    "fps": lambda prior, seen: NoisedObservation(prior, seen, "drawn"),
}
"""Rows of weighted particles, and what they are."""

GUIDED = ["mmps", "tmpd", "pigdm", "pigdm, wide", "c-dps", "dps 1"]
OTHERS = ["ddrm", "ddnm", "diffpir, 7, .1", "daps", "pnp-dm"]
PEERS = posterior_peers.NAMES
WIDE = 10.0
"""Deviation of the data that PiGDM takes in the row that is called so; otherwise it is 1, that of a
component."""


def drawn(name: str, problem: Mixture, steps: int, count: int) -> Tensor:
    """Samples of a row."""
    prior, shape, given = problem.prior, (count, *problem.prior.event_shape), {"steps": steps}
    if name in PARTICLES:
        return particles(name, (prior, problem.seen), steps, count, 1).resampled(count)
    if name in posterior_peers.STEPPING:
        return posterior_peers.samples_of(name, problem, steps, shape)
    if name == "exact denoiser":
        sampler, model = samplers.create("ddim", grid="karras", **given), problem.posterior
        return sampler(model, shape, seed=0, progress=False)
    name, wide, _ = name.partition(", wide")
    if name == "pnp-dm":  # down to the same noise in any number of steps
        name = f"pnp-dm(rho_max=30.0, decay={0.01 ** (1 / max(1, steps - 1))}, grid='native')"
    prior.sigma_data = WIDE if wide else 1.0
    sampler, model = prepared(name, prior, problem.seen, steps)
    return sampler(model, shape, seed=0, progress=False)


def particles(name: str, problem: Problem, steps: int, count: int, islands: int) -> Particles:
    """Weighted particles of a row."""
    driver = SMC(steps=steps, grid="karras", particles=count, islands=islands)
    return driver(PARTICLES[name](*problem), seed=0, progress=False)


def table(given: argparse.Namespace) -> Iterator[Row]:
    """Distance of samples to exact ones, and its floor, that of two exact sets; means over problems
    with their 1.96 standard errors."""
    count, num = given.count or (2 if given.quick else 10), 100 if given.quick else 1000
    for name in chosen(["exact denoiser", *PARTICLES, *GUIDED, *OTHERS, *PEERS], given):
        for measured in (1, 2, 4):
            some = list(mixtures(measured, count))
            row: Row = {"method": name, "entries": measured}
            for steps in given.steps or ([5, 10] if given.quick else [20, 100]):
                found = [measure(each, drawn(name, each, steps, num)) for each in some]
                row.update(summary(found, f" {steps}"))
            row.update(summary([measure(each, each.exact(num, 1)) for each in some], ", floor"))
            row["goal"] = 1.5 * row["W1, floor"] + 0.05
            yield row


def measure(problem: Mixture, x: Tensor) -> tuple[float, float]:
    """Sliced distance to exact draws, and the distance of the weights of modes."""
    return sliced(x, problem.exact(len(x), 2)), problem.mode_distance(x)


def summary(found: list[tuple[float, float]], of: str) -> Row:
    """Means over problems."""
    distances, modes = zip(*found, strict=True)
    error = 1.96 * stdev(distances) / len(found) ** 0.5 if len(found) > 1 else nan
    return {f"W1{of}": mean(distances), f"±{of}": error, f"modes{of}": mean(modes)}


def evidence(given: argparse.Namespace) -> Iterator[Row]:
    """log p(y) by particles against its closed form, in units of its standard error: z."""
    count = given.count or (6 if given.quick else 50)
    num, islands = (50, 4) if given.quick else (64, 40)
    for name in chosen(list(PARTICLES), given):
        for steps in given.steps or ([10] if given.quick else [200]):
            z, errors = [], []
            for problem, exact in known(count):
                found = particles(name, problem, steps, num, islands)
                errors.append(found.standard_error)
                z.append((found.log_evidence - exact) / errors[-1])
            yield {
                "method": name, "steps": steps, "problems": len(z),
                "within 3": sum(abs(each) < 3 for each in z), "mean z": mean(z), "sd z": stdev(z),
                "largest |z|": max(map(abs, z)), "standard error": median(errors),
            }  # fmt: skip


def known(count: int) -> Iterator[tuple[Problem, float]]:
    """Problems and their log p(y): three of five are mixtures, seen by 1, 2 or 4 numbers, the rest
    normal distributed, with noises of .1 and .5."""
    share = max(1, count // 5)
    for each in chain.from_iterable(mixtures(measured, share) for measured in (1, 2, 4)):
        yield (each.prior, each.seen), each.log_evidence
    for linear in chain.from_iterable(problems(std, count=share) for std in (0.1, 0.5)):
        a, root = linear.seen.operator.matrix, linear.seen.noise_root
        spread = a @ linear.data @ a.T + root @ root.T
        y = linear.seen.y
        exact = torch.distributions.MultivariateNormal(torch.zeros_like(y), spread).log_prob(y)
        yield (linear.prior, linear.seen), float(exact)


def chosen(names: list[str], given: argparse.Namespace) -> list[str]:
    """Those whose name begins as `--only` says."""
    only = tuple(given.only or [""])
    return [name for name in names if name.startswith(only)]
