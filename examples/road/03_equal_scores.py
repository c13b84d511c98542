"""Equal scores, equal densities: what the score leaves out is one constant.

    python examples/road/03_equal_scores.py

The score of p = exp(-E) / Z is grad log p = -grad E: Z is a constant and its gradient is 0, so that
energies which differ by a constant have one score. Nothing else is lost. Summed along a line, the
score gives the density back,

    log p(x) - log p(a) = integral over u from 0 to 1 of score(a + u (x - a)) . (x - a),

up to log p(a), which is found at the end, from the densities summing to one.
"""

import picture
import torch

from sde_score.models import TARGETS, EnergyFunction, Marginal

options = picture.arguments(__file__, __doc__)
target = TARGETS.create("mixture")
a, b = torch.tensor([[-3.4, -2.4]]).double(), torch.tensor([[3.0, 0.4]]).double()
along = torch.linspace(0, 1, 301).double()[:, None]
line = a + along * (b - a)
length = (along * (b - a).norm())[:, 0]


@torch.no_grad()
def log_ratio(x, nodes):
    """log p(x) - log p(a) from scores alone, by the midpoint rule; shape `(batch,)`."""
    parts = (torch.arange(nodes).double() + 0.5) / nodes
    return sum((target.score(a + u * (x - a)) * (x - a)).sum(1) for u in parts) / nodes


higher = Marginal(EnergyFunction(lambda x, t: target.energy(x) + 3))
with torch.no_grad():
    energies = {picture.TRUTH: target.energy(line), picture.OTHER: higher.energy(line)}
    difference = (target.score(line) - higher.score(line)).abs().max()
    slope = -target.score(line) @ (b - a)[0] / (b - a).norm()

headline = "Energies that differ by a constant have the same score and the same density"
figure, (field, slices, density) = picture.sheet(headline, widths=(1, 1, 1))
picture.shade(field, lambda x: target.log_prob(x).exp())
picture.arrows(field, target.score, count=13)
field.plot(*line.T, color=picture.INK, linewidth=2.5, zorder=4)
picture.say(field, -3.75, -2.2, "a", fontweight="bold")
picture.say(field, 3.2, 0.3, "b", fontweight="bold")
picture.plane(field)
field.set_title("The score, over the density")

for color, energy in energies.items():
    slices.plot(length, energy, color=color, linewidth=2)
    for i in range(12, 300, 39):
        near = torch.tensor([-0.22, 0.22])
        slices.plot(length[i] + near, energy[i] + near * slope[i], color=picture.INK, linewidth=2)
slices.set(xlabel="distance from a, towards b", ylabel="energy in nats", ylim=(-0.5, 11.5))
slices.set_title("Energies along the line a–b")
picture.say(slices, 2, 3.9, "E + 3", picture.OTHER, fontweight="bold", ha="center")
picture.say(slices, 2, 0.9, "E", picture.TRUTH, fontweight="bold", ha="center")
picture.say(slices, 0.04, 0.86, "equal slopes (dark):\nminus the score along a–b", inside=True)

wide, side = 6.0, 101
cells = picture.lattice(wide, side)[2]
log_z = log_ratio(cells, 120).logsumexp(0) + 2 * torch.tensor(2 * wide / (side - 1)).log()
found, exact = (log_ratio(line, 400) - log_z).exp(), target.log_prob(line).exp()
picture.truth(density, length, exact)
picture.learned(density, length, found)
density.set(xlabel="distance from a, towards b", ylabel="density p", ylim=(0, 0.21))
density.set_yticks([0, 0.05, 0.1, 0.15, 0.2])
density.set_title("Density along the line a–b")
picture.say(density, 0.04, 0.92, "broad: the truth", picture.TRUTH, inside=True)
picture.say(density, 0.04, 0.84, "thin: the score, summed up", picture.LEARNED, inside=True)
print(f"largest difference of the scores of E and E + 3: {difference:.1e}")
print(f"largest error of the density from summed scores: {(found - exact).abs().max():.1e}")
picture.save(figure, options.out)
