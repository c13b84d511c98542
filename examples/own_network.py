"""Your own network, SDE and objective in the trainer.

python examples/own_network.py
"""

import argparse
from pathlib import Path

import torch

from sde_score import EDM, TrainConfig, create_sampler, load_run, objectives, train

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=1000)
options.add_argument("--out", type=Path, default=Path("runs/own"))
options = options.parse_args()


class Network(torch.nn.Module):
    """Convolutions, with the noise level as one more channel."""

    def __init__(self, width=32):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, width, 3, padding=1), torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, padding=1), torch.nn.SiLU(),
            torch.nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, x, noise_level, condition=None):
        level = noise_level[:, None, None, None].expand_as(x)
        return self.layers(torch.cat([x, level], 1))


objective = objectives.create("denoising", weighting="edm", time_sampler="log_normal")
config = TrainConfig(data="digits", sde=EDM(0.01, 20.0), prediction="edm", steps=options.steps)
run = train(config, options.out, model=Network(), objective=objective)

again = load_run(options.out, backbone=Network())  # an object is named when the run is reopened
x = create_sampler("heun", nfe=19)(again.model, (16, *again.event_shape), seed=0)
print(f"step {again.step}: samples of shape {tuple(x.shape)} from {again.model.nfe} evaluations")
