"""Train a score on real digits, sample it, and ask how probable unseen digits are.

    python examples/quickstart.py --steps 1000

Reads: `TrainConfig` and `train` make a run; any sampler draws from its model; the probability-flow
ODE gives its likelihood.
"""

import argparse
from pathlib import Path

import torch

from sde_score import likelihood, report, samplers
from sde_score.training import TrainConfig, train

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1000, help="training steps")
parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="run directory")
options = parser.parse_args()

config = TrainConfig(data="digits", sde="vp", steps=options.steps, batch_size=64)
run = train(config, options.out)

sampler = samplers.create("heun", steps=18)
x = sampler(run.model, (64, *run.event_shape), seed=0)
report.save_examples(x, options.out / "samples.png")
print(f"samples: {options.out / 'samples.png'}, {run.model.nfe} network evaluations")

unseen = run.dataset("held_out")
found = likelihood.bits_per_dim(run.model, unseen.raw(torch.arange(32)), run.scaling, by="flow")
print(f"unseen digits: {found.mean:.2f} ± {found.standard_error:.2f} bits/dim")
