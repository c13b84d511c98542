"""Table of composed models in one dimension, for `posterior.py`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

from posterior_mixture import chosen
from results import Row

from sde_score import guidance, samplers
from sde_score.models import GaussianMixture
from sde_score.posterior.smc import SMC, Corrected
from sde_score.sdes import VP

Part = tuple[float, float]

CASES: dict[str, tuple[list[Part], list[float]]] = {
    "cfg(3)": ([(1.0, 0.25), (0.0, 1.0)], [3.0, -2.0]),
    "product": ([(1.0, 0.25), (-1.0, 1.0)], [1.0, 1.0]),
    "cfg(3), equal": ([(1.0, 0.25), (0.75, 0.25)], [3.0, -2.0]),
    "negation": ([(1.0, 0.25), (0.0, 1.0)], [1.0, -0.5]),
    "tempering": ([(1.0, 0.25)], [2.0]),
}
"""Means and variances of the parts, and their powers. Under guidance of equal spreads the sum of
the scores is right as well."""


def exact(parts: list[Part], powers: list[float]) -> tuple[float, float, float]:
    """Mean and deviation of the product of powers, and log of its integral."""
    both = list(zip(parts, powers, strict=True))
    precision = sum(power / v for (_, v), power in both)
    mean = sum(power * m / v for (m, v), power in both) / precision
    logs = sum(-0.5 * power * (math.log(2 * math.pi * v) + m**2 / v) for (m, v), power in both)
    log_z = logs + 0.5 * (math.log(2 * math.pi / precision) + precision * mean**2)
    return mean, precision**-0.5, log_z


def composed(name: str) -> guidance.Product | guidance.Guided:
    """The model of a case, of the sum of its scores."""
    parts, powers = CASES[name]
    models = [GaussianMixture([[m]], v, VP()) for m, v in parts]
    if name.startswith("cfg"):
        return guidance.Guided(models[0], "cfg(3)", against=models[1])
    return guidance.Product(models, powers)


def table(given: argparse.Namespace) -> Iterator[Row]:
    """Mean, deviation and log Z: exact, of samples by the sum of the scores, and of weighted
    particles. By NumPy in 400 steps: 1.310, .259 and 1.220, .309 for cfg(3); .438, .378 and .593,
    .437 for the product."""
    num, islands = (25, 4) if given.quick else (1250, 16)
    for name in chosen(list(CASES), given):
        mean, sd, log_z = exact(*CASES[name])
        for steps in given.steps or ([10] if given.quick else [50, 400]):
            model = composed(name)
            sampler = samplers.create("euler-maruyama", steps=steps)
            plain = sampler(model, (num * islands, 1), seed=0, progress=False)
            driver = SMC(steps=steps, grid="karras", particles=num, islands=islands)
            found = driver(Corrected(model, (1,)), seed=0, progress=False)
            yield {
                "model": name, "steps": steps,
                "mean": mean, "sum": float(plain.mean()), "weighted": float(found.mean()),
                "sd": sd, "sum sd": float(plain.std()),
                "weighted sd": float(found.covariance()) ** 0.5,
                "log Z": log_z, "weighted log Z": found.log_evidence, "±": found.standard_error,
            }  # fmt: skip
