"""Explicit and implicit score matching reach the same minimum.

    python examples/road/04_explicit_implicit.py

Explicit score matching compares with the true score, which nobody has. Integration by parts (the
density vanishes at infinity) removes it:

    E |s - grad log p|^2 / 2  =  E [ |s|^2 / 2 + tr grad s ]  +  I / 2,

with I = E |grad log p|^2, the Fisher information, which no network can change. So the implicit loss
on the right, which asks for data alone, has the same gradient and the same minimum.
"""

import picture
import torch

from sde_score import nn, objectives
from sde_score.models import TARGETS, Marginal, ScoreModel
from sde_score.sdes import VE

options = picture.arguments(__file__, __doc__, steps=500)
target = TARGETS.create("mixture")
explicit = objectives.create("explicit", target=target)
implicit = objectives.create("implicit")
cells = picture.lattice(limit=5.5, count=45)[2]
mass = target.log_prob(cells).exp() * (11 / 44) ** 2
half_fisher = float(mass @ (target.score(cells).detach() ** 2).sum(1)) / 2


def train(objective):
    """Fit a score; returns the model and, every 10 steps, both losses summed over the plane."""
    torch.manual_seed(0)
    backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
    model = ScoreModel(backbone, VE(0.01, 10), "scaled_score", sigma_data=2.0)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    losses = {}
    for step in range(options.steps + 1):
        if step % 10 == 0 or step == options.steps:
            both = [loss(model, cells.float()).detach().double() for loss in (explicit, implicit)]
            losses[step] = [float(mass @ loss) for loss in both]
        optimizer.zero_grad()
        objective(model, target.sample(256, generator).float()).mean().backward()
        optimizer.step()
        decay.step()
    return Marginal(model), losses


by_truth, explicit_curve = train(explicit)
by_data, implicit_curve = train(implicit)

headline = "Implicit score matching finds the true score without being shown it"
figure, (curves, line, field) = picture.sheet(headline, widths=(1.25, 1, 1))
for floor in (0, -half_fisher):
    picture.truth(curves, [0, options.steps], [floor, floor])
picture.other(curves, list(explicit_curve), [losses[0] for losses in explicit_curve.values()])
picture.learned(curves, list(implicit_curve), [losses[1] for losses in implicit_curve.values()])
arrow = {"arrowstyle": "<->", "color": picture.INK, "linewidth": 1.5}
middle = 0.8 * options.steps
curves.annotate("", (middle, 0), (middle, -half_fisher), arrowprops=arrow)
constant = f"½ Fisher information:\n{half_fisher:.3f} for any network"
picture.say(curves, 0.96 * middle, -1.85, constant, ha="right")
picture.say(curves, 0.1 * options.steps, 0.9, "explicit: needs the true score", picture.OTHER)
picture.say(curves, 0.1 * options.steps, -0.6, "implicit: needs data alone", picture.LEARNED)
curves.set(xlabel="optimizer steps", ylabel="loss in nats", xlim=(0, options.steps))
curves.set_title("Losses differ by a constant")

x = torch.stack([torch.linspace(-3.4, 3, 301), torch.linspace(-2.4, 0.4, 301)], 1)
with torch.no_grad():
    picture.truth(line, x[:, 0], target.score(x)[:, 0])
    picture.other(line, x[:, 0], by_truth.score(x)[:, 0], dashes=(4, 2))
    picture.learned(line, x[:, 0], by_data.score(x)[:, 0])
line.set(xlabel="x₁ along the line a–b", ylabel="first entry of the score")
line.set_title("Both learn the true score (broad)")

picture.shade(field, lambda x: target.log_prob(x).exp())
picture.arrows(field, target.score, count=12, broad=True)
picture.arrows(field, lambda x: by_data.score(x.float()), picture.LEARNED, count=12)
field.plot(*x.T, color=picture.INK, linewidth=1.5)
picture.say(field, -3.85, -2.4, "a", fontweight="bold")
picture.say(field, 3.2, 0.35, "b", fontweight="bold")
picture.plane(field)
field.set_title("Implicit (thin) over the truth")
at_end = explicit_curve[options.steps], implicit_curve[options.steps]
print(f"half the Fisher information: {half_fisher:.4f} nats")
print(f"explicit less implicit loss of one network: {at_end[0][0] - at_end[0][1]:.4f} nats")
print(f"distance from the true score: {at_end[0][0]:.3f} and, implicit, {at_end[1][0]:.3f} nats")
picture.save(figure, options.out)
