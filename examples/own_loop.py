"""Your tensor, your loop, your module: a score model in plain PyTorch.

python examples/own_loop.py
"""

import argparse

import torch

from sde_score import VP, DenoisingScoreMatching, ScoreModel, create_sampler

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=2000)
steps = options.parse_args().steps


class Network(torch.nn.Module):
    """Called with the noisy batch and log(sigma / alpha) / 4, shape `(batch,)`."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 128), torch.nn.SiLU(),
            torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 2),
        )  # fmt: skip

    def forward(self, x, noise_level, condition=None):
        return self.layers(torch.cat([x, noise_level[:, None]], 1))


angle = 2 * torch.pi * torch.rand(4000)
data = 1.4 * torch.stack([angle.cos(), angle.sin()], 1)  # a circle

model, loss = ScoreModel(Network(), VP(), prediction="velocity"), DenoisingScoreMatching()
adam = torch.optim.Adam(model.parameters(), 2e-3)
for _ in range(steps):
    adam.zero_grad()
    loss(model, data[torch.randint(len(data), (256,))]).mean().backward()
    adam.step()

radius = create_sampler("dpmpp-2m", nfe=20)(model, (500, 2), seed=0).norm(dim=1)
print(f"radius {radius.mean():.3f} ± {radius.std():.3f}, the data's is 1.4")
