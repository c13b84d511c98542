"""The probability flow from noise to the letters of the score, in six pictures.

    python examples/from_noise.py --out from_noise.png

The data are points of the text; smoothed a little they are a mixture of Gaussians, whose score is
known at every noise level. Noise flows along it with `adams`, and keeps its color on the way.
"""

import argparse

import numpy as np
import torch
from matplotlib import pyplot

from sde_score import EDM, GaussianMixture, create_sampler

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="from_noise.png", help="picture to write")
parser.add_argument("--count", type=int, default=5000, help="samples")
options = parser.parse_args()

canvas = pyplot.figure(figsize=(8, 3), dpi=100)
canvas.text(0.5, 0.5, r"$\nabla\,\log\,p(x)$", size=90, ha="center", va="center")
canvas.canvas.draw()
dark = np.argwhere(np.asarray(canvas.canvas.buffer_rgba())[::-1, :, 0] < 128)[:, ::-1]
rng = np.random.default_rng(0)
pixels = rng.choice(dark, 1200, replace=False) + rng.uniform(size=(1200, 2))
data = torch.from_numpy(2.6 * (pixels - pixels.mean(0)) / pixels.std(0)[0]).float()

model = GaussianMixture(data, 0.025**2, EDM(sigma_min=0.005, sigma_max=8))
start = 8 * torch.randn(options.count, 2, generator=torch.Generator().manual_seed(1))
path = create_sampler("adams", steps=24)(model, start, trajectory=True)
figure = pyplot.figure(figsize=(12, 4.6), layout="constrained")
for axes, wanted in zip(figure.subplots(2, 3).flat, (8, 1.2, 0.6, 0.3, 0.12, 0), strict=True):
    sigma, x = min(zip(path.times, path.states, strict=True), key=lambda s: abs(s[0] - wanted))
    x = x / (1 + sigma**2 / 3) ** 0.5  # as wide at every noise level
    axes.scatter(*x.T, s=2, c=torch.atan2(*start.T[[1, 0]]), cmap="hsv", linewidths=0)
    axes.set(xlim=(-5.2, 5.2), ylim=(-2.3, 2.3), aspect="equal", title=f"noise {sigma:.2g}")
    axes.set_axis_off()
figure.savefig(options.out, dpi=110)
near = (torch.cdist(path.states[-1], data).min(1).values < 0.1).float().mean()
print(f"{options.out}: {len(path.times) - 1} steps, {near:.1%} within 0.1 of the text")
