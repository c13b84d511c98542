"""Simulation-based inference where the posterior is known: of one observation, and of ten.

python examples/known_posterior.py
"""

import argparse
from pathlib import Path

import torch

from sde_score import TrainConfig, sample, train
from sde_score.posterior import simulation

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=3000)
options.add_argument("--out", type=Path, default=Path("runs/linear"))
options = options.parse_args()

A = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))


def simulator(theta, generator):
    """y = A theta + noise, row by row."""
    return theta @ A.T + 0.5 * torch.randn(len(theta), 3, generator=generator)


pairs = simulation.pairs(prior, simulator, 20_000)
config = TrainConfig(conditional=True, backbone="mlp(width=128, depth=2)", steps=options.steps)
run = train(config, options.out, data=pairs)

ys = simulator(torch.tensor([[0.8, -0.4]]).repeat(10, 1), torch.Generator().manual_seed(0))
for count, correction in ((1, "jacobian"), (10, "jacobian"), (10, "fnpe")):
    seen = ys[:count]
    model = simulation.Compositional(run.model, run.condition_of(seen), correction)
    x = sample(model, "dpmpp-2m(steps=40)", run.event_shape, 1000, progress=False)
    theta = run.scaling.from_model(x)
    precision = torch.eye(2) + count * A.T @ A / 0.25
    gap = theta.mean(0) - torch.linalg.solve(precision, A.T @ seen.sum(0) / 0.25)
    ratio = precision @ torch.cov(theta.T)
    kl = (ratio.trace() + gap @ precision @ gap - 2 - torch.logdet(ratio)) / 2
    print(f"{count:2} observations, {correction:8}: KL to the exact posterior {float(kl):.3f}")
