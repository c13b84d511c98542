"""Table of calibration, for `posterior.py`: ranks of truths among draws of their posteriors."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from posterior_mixture import PARTICLES, chosen
from results import Row
from torch import Tensor

from sde_score import samplers
from sde_score.evaluation import sbc
from sde_score.models import GaussianMixture
from sde_score.posterior import SAMPLERS, Matrix, Measurement, Posterior
from sde_score.posterior.smc import SMC
from sde_score.sdes import EDM

SDE = EDM(sigma_min=0.002, sigma_max=80.0)
COVARIANCE = torch.tensor([[1.0, 0.8], [0.8, 1.5]], dtype=torch.float64)
PRIORS = {
    "normal": GaussianMixture([[0.0, 0.0]], COVARIANCE[None], SDE),
    "mixture": GaussianMixture(
        [[-2.0, -1.0], [0.0, 2.0], [2.0, 0.0]],
        torch.stack([0.1 * COVARIANCE, 0.2 * COVARIANCE, 0.3 * torch.eye(2, dtype=torch.float64)]),
        SDE,
        [0.5, 0.2, 0.3],
    ),
}
A, STD = torch.tensor([[1.0, 0.0]], dtype=torch.float64), 0.3
"""What is measured of two numbers, the first, and its noise."""

EXACT = {
    "normal": ["mmps", "pnp-dm", *PARTICLES],
    "mixture": ["pnp-dm", *PARTICLES],
}
"""Methods whose ranks must be uniform."""

ALL = ["mmps", "pnp-dm", *PARTICLES, "pigdm", "c-dps", "ddrm", "dps"]
DRAWS = 19


def drawn(name: str, prior: GaussianMixture, seen: Measurement, steps: int, seed: int) -> Tensor:
    """Draws of a posterior."""
    if name in PARTICLES:
        driver = SMC(steps=steps, grid="karras", particles=128, islands=1)
        return driver(PARTICLES[name](prior, seen), seed=seed, progress=False).resampled(
            DRAWS, seed
        )
    sampler: Any
    if name == "pnp-dm":
        spec = "pnp-dm(rho_min=0.3, decay=0.85, prior='dpmpp-2m-sde(steps=10)')"
        sampler, model = SAMPLERS.create(spec, observation=seen, steps=steps), prior
    elif name in SAMPLERS:
        sampler, model = SAMPLERS.create(name, observation=seen, steps=steps), prior
    else:
        spec = "adams" if name == "mmps" else "ancestral(grid='karras')"
        sampler = samplers.create(spec, steps=steps)
        model = Posterior(prior, seen, name, sampler=sampler)
    found: Tensor = sampler(model, (DRAWS, 2), seed=seed, progress=False)
    return found


def ranked(name: str, prior: GaussianMixture, count: int, steps: int) -> Tensor:
    """p values of the ranks of both numbers, over as many truths and what was seen of them."""
    generator = torch.Generator().manual_seed(1)
    truths = prior.sample(count, generator=generator)
    noise = STD * torch.randn(count, 1, generator=generator, dtype=torch.float64)
    y = truths @ A.T + noise
    found = [drawn(name, prior, Measurement(Matrix(A), y[i], STD), steps, i) for i in range(count)]
    return sbc(truths, torch.stack(found).to(truths)).p_values()


def table(given: argparse.Namespace) -> Iterator[Row]:
    """p values of uniform ranks; below .01 a method is not the posterior."""
    count = given.count or (12 if given.quick else 200)
    for kind, prior in PRIORS.items():
        for name in chosen(ALL, given):
            steps = (given.steps or [5 if given.quick else 30])[0]
            p = ranked(name, prior, count, steps)
            yield {
                "data": kind, "method": name, "steps": steps, "truths": count,
                "exact": name in EXACT[kind], "p 1": float(p[0]), "p 2": float(p[1]),
                "uniform": bool((p > 0.01).all()),
            }  # fmt: skip
