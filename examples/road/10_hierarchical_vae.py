"""Finitely many noise levels are a hierarchical VAE, whose encoder has nothing to learn.

    python examples/road/10_hierarchical_vae.py

Layer i = 1 ... n is the data with more noise. The encoder q is the diffusion; the decoder p steps
back with the network's denoised mean in the place of the data. The bound on the code length,

    -log p(x0) <= KL(q(x_n | x0) | p(x_n)) - E log p(x0 | x_1)
                  + sum_i E KL(q(x_{i-1} | x_i, x0) | p(x_{i-1} | x_i)),

is a weighted sum of squared errors of the predicted noise, layer by layer: DDPM's loss up to the
weights, so denoising score matching trains it.
"""

import picture
import torch

from sde_score import nn, objectives
from sde_score.discrete import HierarchicalVAE
from sde_score.models import TARGETS, ScoreModel
from sde_score.sdes import VP

LAYERS, SHOWN, COUNTS = 20, (0, 8, 10, 12, 20), (5, 10, 20, 50, 100)

GRID = "log_snr(end=1e-3)"  # the first layer has a noise of 0.01
COLORS = (picture.INK, picture.LEARNED)

options = picture.arguments(__file__, __doc__, steps=2000, samples=2000)
target, sde = TARGETS.create("mixture"), VP()
truth = target.diffused(sde)
generator = torch.Generator().manual_seed(0)
torch.manual_seed(0)
backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
model = ScoreModel(backbone, sde, "noise", sigma_data=2.0)
denoising = objectives.create("denoising")
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
for _ in range(options.steps):
    x0 = target.sample(512, generator).float()
    optimizer.zero_grad()
    denoising(model, x0, generator=generator).mean().backward()
    optimizer.step()
    decay.step()

vae = HierarchicalVAE.from_sde(sde, LAYERS, grid=GRID)
x0 = target.sample(options.samples, generator)
up, down = [x0], [vae.decoder.prior(x0.shape, torch.float64).sample(generator)]
with torch.no_grad():
    for layer in range(1, LAYERS + 1):
        up.append(vae.encoder.step(up[-1], layer).sample(generator))
    for layer in range(LAYERS, 1, -1):
        down.append(vae.decoder.step(model, down[-1], layer).sample(generator))
    down.append(vae.decoder.data(model, down[-1]).sample(generator))

figure, grid = picture.sheet(
    "Finitely many noise levels are a hierarchical VAE", 8, (1,) * 5, (1, 1, 1.2)
)
for layer, *columns in zip(SHOWN, *grid[:2], strict=True):
    t = None if layer == 0 else vae.times[layer - 1]
    for axes, states, color in zip(columns, (up, down[::-1]), COLORS, strict=True):
        picture.shade(axes, lambda x, t=t: truth.log_prob(x, t).exp())
        picture.dots(axes, states[layer][3:700], color, size=3)
        for marker, point in zip("os^", states[layer], strict=False):
            axes.plot(*point, marker, color=picture.OTHER, markersize=8, markeredgecolor="white")
        axes.set(xlim=(-4, 4), ylim=(-4, 4), xticks=[], yticks=[], aspect="equal")
    columns[0].set_title("data" if layer == 0 else f"layer {layer}")
grid[0][0].set_ylabel("encoder →")
grid[1][0].set_ylabel("← decoder", color=picture.LEARNED)

terms, gap = picture.joined(grid[2][:3]), picture.joined(grid[2][3:])
code = -target.log_prob(x0).mean()
print(f"-E log p(x0) of the data: {code:.3f} nats")
for name, distribution, draw in (
    ("exact score", truth, picture.truth), ("network", model, picture.learned)
):  # fmt: skip
    bound = vae.elbo(distribution, x0)
    draw(terms, range(2, LAYERS + 1), bound.layers.mean(1), marker="o", markersize=4)
    parts = (bound.prior, bound.layers.sum(0), bound.reconstruction, bound.nats)
    print(name, *(f"{part.mean():.4f}" for part in parts), "(prior, layers, decoder, all)")
    bounds = [
        HierarchicalVAE.from_sde(sde, n, grid=GRID).elbo(distribution, x0).nats.mean()
        for n in COUNTS
    ]
    draw(gap, COUNTS, [b - code for b in bounds], marker="o", markersize=4, label=name)
    print(
        "  above it:",
        "  ".join(f"{n}: {b - code:.2f}" for n, b in zip(COUNTS, bounds, strict=True)),
    )
ends = f"prior {bound.prior.mean():.4f}, decoder {bound.reconstruction.mean():.2f}"
picture.say(terms, 0.42, 0.86, ends.replace("-", "−"), picture.LEARNED, inside=True)
picture.say(grid[0][0], 0.04, 0.04, "green: 3 points", picture.OTHER, inside=True)
picture.name(terms, "What each layer costs", "layer", "KL in nats", xticks=range(2, 21, 2))
picture.name(gap, "More layers: nearer to the truth", "layers n", "")
gap.set(**picture.LOGARITHMIC, ylabel="nats above −E log p")
gap.yaxis.tick_right()
gap.yaxis.set_label_position("right")
gap.legend()
picture.save(figure, options.out)
