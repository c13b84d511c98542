"""One network for all classes: labels go in with the data, and come out with the samples.

python examples/class_conditional.py
"""

import argparse
from pathlib import Path

import torch

from sde_score import TrainConfig, create_sampler, train

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--out", type=Path, default=Path("runs/classes"))
options = options.parse_args()

config = TrainConfig(
    data="gaussians", backbone="mlp(width=128, depth=2)", conditional=True, steps=options.steps
)
run = train(config, options.out)

labels = torch.arange(8).repeat_interleave(50)
x = create_sampler("dpmpp-2m", nfe=20)(run.model, (400, 2), seed=0, condition=labels)
for label, points in enumerate(run.scaling.from_model(x).reshape(8, 50, 2)):
    center = points.mean(0)
    turn = torch.atan2(center[1], center[0]) / (2 * torch.pi) * 8
    print(f"class {label}: center at {float(turn) % 8:.2f} eighths of the circle")

# A tenth of the examples was shown without a label, so that there are samples of all classes too.
x = create_sampler("dpmpp-2m", nfe=20)(run.model, (400, 2), seed=0)
print(f"no class: mean radius {float(run.scaling.from_model(x).norm(dim=1).mean()):.2f}")
