"""Denoising: a regression whose target is noisy and whose answer is the score.

    python examples/road/06_denoising.py

Add noise to a data point, x = x0 + sigma eps. The direction back, -eps / sigma, is known, and it is
a different one for every x0 that could have led to x. Its mean over all of these is

    E[-eps / sigma | x] = grad log p_sigma(x),

the score of the data blurred by sigma. So a network that predicts the noise by least squares learns
the score, with neither a partition function nor a second derivative.
"""

from itertools import pairwise

import picture
import torch

from sde_score import nn, objectives
from sde_score.models import TARGETS, ScoreModel
from sde_score.sdes import VE

SIGMA, HEIGHT, SLAB = 0.5, -0.9, 0.1

options = picture.arguments(__file__, __doc__, steps=1500)
target, sde = TARGETS.create("mixture"), VE(0.01, 10)
t = sde.time_of_log_snr(torch.tensor(SIGMA, dtype=torch.float64).pow(-2).log())
blurred = target.diffused(sde)
generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)
backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
model = ScoreModel(backbone, sde, "noise", sigma_data=2.0)
denoising = objectives.create("denoising")
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
for _ in range(options.steps):
    x0 = target.sample(512, generator).float()
    noise = torch.randn(x0.shape, generator=generator)
    optimizer.zero_grad()
    denoising.at(model, x0, t.expand(512), noise).mean().backward()
    optimizer.step()
    decay.step()

x0 = target.sample(60_000, generator)
noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
x = x0 + SIGMA * noise
back = -noise / SIGMA

figure, (pairs, scatter, field) = picture.sheet(
    "Predict the noise, and the average answer is the score", widths=(1, 1.3, 1)
)
picture.shade(pairs, lambda x: target.log_prob(x).exp())
few, move = slice(0, 70), (x0 - x)[:70]
pairs.quiver(
    *x[few].T, *move.T, angles="xy", scale_units="xy", scale=1, color=picture.FAINT, width=0.005
)
picture.dots(pairs, x0[few], picture.TRUTH, size=12, alpha=0.9)
picture.dots(pairs, x[few], picture.INK, size=12, alpha=0.9)
picture.plane(pairs)
picture.say(pairs, -3.8, 3.4, "dark: with noise\nblue: before", va="center", fontsize=11.5)
pairs.axhspan(HEIGHT - SLAB, HEIGHT + SLAB, color=picture.OTHER, alpha=0.25)
pairs.set_title("The way back is known")

inside = (x[:, 1] - HEIGHT).abs() < SLAB
at, seen = x[inside, 0], back[inside, 0]
line = torch.stack([torch.linspace(-3.6, 3.6, 200), torch.full((200,), HEIGHT)], 1)
with torch.no_grad():
    scatter.scatter(at, seen, s=3, color=picture.FAINT, alpha=0.5, linewidths=0)
    picture.truth(scatter, line[:, 0], blurred.score(line, t)[:, 0])
    picture.learned(scatter, line[:, 0], model.score(line, t)[:, 0])
edges = torch.linspace(-3.3, 3.1, 17, dtype=torch.float64)
bins = [(at >= a) & (at < b) for a, b in pairwise(edges)]
means = [(at[b].mean(), seen[b].mean()) for b in bins if int(b.sum()) > 60]
scatter.plot(*zip(*means, strict=True), "o", color=picture.INK, markersize=5, zorder=5)
scatter.set(xlabel="x₁ of the noisy point, within the green band", ylim=(-6.5, 6.5))
scatter.set(ylabel="first entry of −ε / σ", xlim=(-3.7, 3.7))
picture.say(scatter, -3.5, -4.2, "grey: single targets\ndots: their mean at each x₁", va="center")
picture.say(scatter, -0.75, 5.5, "broad: score of the blurred data", picture.TRUTH)
picture.say(scatter, -0.75, 4.7, "thin: what the network learned", picture.LEARNED)
scatter.set_title("Targets scatter, their mean is the score")

picture.shade(field, lambda x: blurred.log_prob(x, t).exp())
picture.arrows(field, lambda x: blurred.score(x, t), count=12, broad=True)
picture.arrows(field, lambda x: model.score(x.float(), t), picture.LEARNED, count=12)
picture.plane(field)
field.set_title("Learned (thin) over the truth")
with torch.no_grad():
    error = (model.score(x[:5000].float(), t) - blurred.score(x[:5000], t)).square().sum(1).mean()
print(f"mean square of the targets {back.square().sum(1).mean():.2f}, of the error {error:.3f}")
picture.save(figure, options.out)
