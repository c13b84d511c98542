"""The probability flow from noise to the letters of the score, in six pictures.

    python examples/from_noise.py --out from_noise.png

The data are points of the text; smoothed a little they are a mixture of Gaussians, whose score is
known at every noise level. Noise flows along it with `adams`, and keeps its color on the way.
"""

import argparse
import colorsys

import matplotlib
import numpy as np
import torch

from sde_score import create_sampler
from sde_score.models import GaussianMixture
from sde_score.sdes import EDM

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="from_noise.png", help="picture to write")
parser.add_argument("--count", type=int, default=5000, help="samples")
options = parser.parse_args()
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

canvas = pyplot.figure(figsize=(8, 3), dpi=100)
canvas.text(0.5, 0.5, r"$\nabla\,\log\,p(x)$", size=90, ha="center", va="center")
canvas.canvas.draw()
dark = np.asarray(canvas.canvas.buffer_rgba())[::-1, :, 0] < 128
pixels = np.argwhere(dark)[:, ::-1] + np.random.default_rng(0).uniform(size=(dark.sum(), 2))
pixels = np.random.default_rng(1).choice(pixels, 1200, replace=False)
data = torch.from_numpy(2.6 * (pixels - pixels.mean(0)) / pixels.std(0)[0]).float()

model = GaussianMixture(data, 0.025**2, EDM(sigma_min=0.005, sigma_max=8))
sampler = create_sampler("adams", steps=24)
start = 8 * torch.randn(options.count, 2, generator=torch.Generator().manual_seed(1))
path = sampler(model, start, trajectory=True)
turn = (torch.atan2(start[:, 1], start[:, 0]) / (2 * torch.pi)) % 1
colors = [colorsys.hls_to_rgb(t, 0.55, 0.75) for t in turn.tolist()]

figure, panels = pyplot.subplots(2, 3, figsize=(12, 4.6), layout="constrained")
for axes, wanted in zip(panels.flat, (8, 1.2, 0.6, 0.3, 0.12, 0), strict=True):
    k = int((torch.as_tensor(path.times) - wanted).abs().argmin())
    sigma = float(path.times[k])
    x = path.states[k] / (1 + sigma**2 / 3) ** 0.5  # as wide at every noise level
    axes.scatter(x[:, 0], x[:, 1], s=2, c=colors, linewidths=0)
    axes.set(xlim=(-5.2, 5.2), ylim=(-2.3, 2.3), aspect="equal")
    axes.set_axis_off()
    axes.set_title(rf"$\sigma = {sigma:.2g}$", fontsize=12, y=-0.08)
figure.savefig(options.out, dpi=110)
end = path.states[-1]
near = (torch.cdist(end, data).min(1).values < 0.1).double().mean()
print(
    f"{options.out}: {len(path.times) - 1} steps, {near:.1%} of the samples within 0.1 of the text"
)
