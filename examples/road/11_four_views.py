"""One network, one start, four ways down: what was trained once is read in every view.

    python examples/road/11_four_views.py

The network knows the score of digits at every noise, and that is all that a view asks for:

    NCSN     x <- x + r sigma^2 score + sqrt(2 r) sigma z       annealed Langevin, level by level
    DDPM     x <- (x + std^2 score) / scale + c z               ancestral, layer by layer
    SDE      dx = (f x - g^2 score) dt + g dw                   back in time
    ODE      dx = (f x - g^2 score / 2) dt                      back in time, without noise

With enough steps all draw from one distribution. Two of the views, layers and SDE, even turn the
same seed into the same digit, since layers are steps of the SDE.
"""

import itertools

import digits
import picture
import torch

from sde_score import samplers
from sde_score.evaluation import distances

BUDGETS, SHOWN, DISTANCE = (10, 20, 40, 80, 160), 18, "sliced-wasserstein2"
VIEWS = {
    "NCSN": "annealed-langevin(steps={0}, steps_each=1, step_ratio=None)",
    "DDPM": "ancestral(steps={0})",
    "SDE": "euler-maruyama(steps={0})",
    "ODE": "heun(steps={1})",
}
COLORS = ("#7a3e9d", picture.OTHER, picture.INK, picture.LEARNED)

options = picture.arguments(__file__, __doc__, steps=1200, samples=240)
train, held_out = digits.load()
model = digits.train(train, options.steps)
start = torch.randn(options.samples, *train.event_shape, generator=torch.Generator().manual_seed(0))

figure, grid = picture.sheet("One network in every view", 8, (1.25, 1, 0.7), (1, 0.98))
strip, (cost, pairs, pixels) = picture.joined(grid[0]), grid[1]
drawn = []
for (name, spec), color in zip(VIEWS.items(), COLORS, strict=True):
    far = []
    for budget in BUDGETS:
        sampler = samplers.create(spec.format(budget, budget // 2))
        samples = sampler(model, start, seed=0, progress=False)
        found = distances(samples, held_out.tensor(), [DISTANCE], train=train.tensor())[DISTANCE]
        far.append(found.distance.value)
    drawn.append(samples)
    cost.plot(BUDGETS, far, color=color, marker="o", markersize=4, label=name)
    print(f"{name:5}", *(f" {n}: {d:.3f}" for n, d in zip(BUDGETS, far, strict=True)))
print(f"data against data: {found.floor.value:.3f} ± {found.floor.margin:.3f}")
cost.axhspan(found.floor.low, found.floor.high, color=picture.TRUTH, alpha=0.25, linewidth=0)
picture.say(cost, 10, 0.069, "data to data", picture.TRUTH)
cost.legend()
picture.name(cost, "Distance to the data", "evaluations per sample", "sliced Wasserstein-2")
cost.set(**picture.LOGARITHMIC, xticks=BUDGETS, yticks=(0.05, 0.1, 0.2, 0.5))
cost.minorticks_off()
for axis in (cost.xaxis, cost.yaxis):
    axis.set_major_formatter("{x:g}")

images = torch.cat([start[None] / 2, torch.stack(drawn)])[:, :SHOWN]
digits.rows(strip, images, ["start", *VIEWS], (picture.INK, *COLORS))
strip.set_title("In each column the same start and the same seed, after 160 evaluations")
x = torch.stack(drawn).flatten(2)
same = (x[:, None] - x[None]).norm(dim=-1).mean(2)
any_two = torch.stack([torch.stack([torch.cdist(a, b).mean() for b in x]) for a in x])
share = (same / any_two).numpy()
pairs.imshow(share, cmap=picture.ERROR_SHADES, vmin=0, vmax=1)
for row, column in itertools.product(range(4), repeat=2):
    number = share[row, column]
    shade = "white" if number > 0.8 else picture.INK
    pairs.text(column, row, f"{number:.2f}", ha="center", va="center", color=shade)
print("same seed / any two:", *(f"{number:.3f}" for number in share.flatten()))
pairs.set(xticks=range(4), xticklabels=VIEWS, yticks=range(4), yticklabels=VIEWS)
pairs.tick_params(length=0)
pairs.spines[:].set_visible(False)
pairs.set_title("Same seed: distance / any two")
data = torch.cat([train.tensor(), held_out.tensor()])
moments = torch.stack([torch.stack([x.mean(0), 2 * x.std(0) - 1]) for x in (data, *drawn)])
digits.rows(pixels, moments, ["data", *VIEWS], (picture.TRUTH, *COLORS))
pixels.set_title("Mean, spread")
picture.save(figure, options.out)
