"""An energy and its density: cheap to shape, hard to normalize.

    python examples/road/01_energy.py

Any function E becomes a density, p(x) = exp(-E(x)) / Z, with Z the sum of exp(-E) over everything
that x could be. With ten classes this is the softmax and Z has ten terms; on the plane Z is an
integral that a fine grid still gets right; for images of n x n pixels with 256 gray values it has
256^(n n) terms, and nobody will ever sum them.
"""

import math

import picture
import torch
from matplotlib.colors import SymLogNorm

from sde_score.models import TARGETS

options = picture.arguments(__file__, __doc__)
target = TARGETS.create("mixture")
figure, panels = picture.sheet(
    "Dividing by Z makes an energy a density, but for images Z cannot be summed",
    9,
    heights=(1.15, 1),
)
(landscape, plane), (softmax, terms) = panels

x1, x2, points = picture.lattice(count=161)
energy = target.energy(points).reshape(x1.shape)
bounds = [-1, 0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 50]
landscape.contourf(x1, x2, energy, bounds, cmap="Blues_r", norm=SymLogNorm(3, vmin=-3, vmax=60))
lines = landscape.contour(x1, x2, energy, bounds, colors=picture.INK, linewidths=0.5)
landscape.clabel(lines, [0, 2, 4, 8, 15, 30], fontsize=10.5)
picture.plane(landscape)
landscape.set_title("Energy E(x) in nats: low where data are")

wide, side = 9.0, 400
cell = (2 * wide / (side - 1)) ** 2
z = float((-target.energy(picture.lattice(wide, side)[2])).exp().sum()) * cell
generator = torch.Generator().manual_seed(2)
choices = target.sample(10, generator)
picture.shade(plane, lambda x: (-target.energy(x)).exp() / z)
picture.plane(plane)
picture.dots(plane, choices, size=14, alpha=1)
for index, (a, b) in enumerate(choices.tolist()):
    picture.say(plane, a + 0.1, b + 0.08, str(index), fontweight="bold")
picture.say(plane, -3.8, -3.7, f"Z = {z:.3f} from {side} × {side} cells")
plane.set_title("Density exp(−E) / Z of the same landscape")

weights = (-target.energy(choices)).exp()
softmax.bar(
    range(10), (weights / weights.sum()).tolist(), color=picture.TRUTH, alpha=0.55, width=0.7
)
softmax.set(xlabel="class (the numbered points above)", ylabel="probability", xticks=range(10))
softmax.set_yticks([0, 0.05, 0.1, 0.15])
softmax.set_title("Ten classes: Z is a sum of 10 terms, the softmax")

sides = torch.linspace(1, 8, 200)
terms.plot(sides, sides**2 * math.log10(256), color=picture.INK, linewidth=2.5)
for side in (1, 2, 3, 8):
    digits = side**2 * math.log10(256)
    terms.plot(side, digits, "o", color=picture.INK, clip_on=False)
terms.axhspan(0, 17, color=picture.TRUTH, alpha=0.18, linewidth=0)
picture.say(
    terms, 7.8, 8, "10¹⁷: what one computer sums in a year", picture.TRUTH, ha="right", va="center"
)
picture.say(terms, 3.2, 22, "3 × 3 pixels: 10²²", va="center")
picture.say(terms, 7.7, 154, "8 × 8 pixels: 10¹⁵⁴", ha="right", va="center")
picture.say(terms, 6.9, 134, "28 × 28 pixels would be at 10¹⁸⁸⁸", ha="right", va="center")
terms.set(xlim=(1, 8.3), ylim=(0, 165), yticks=[0, 50, 100, 150])
terms.set(yticklabels=["1", "10⁵⁰", "10¹⁰⁰", "10¹⁵⁰"], xlabel="side n of the image in pixels")
terms.set_ylabel("terms in Z")
terms.set_title("Images of n × n gray pixels: Z has 256ⁿˣⁿ terms")

print(f"Z on the plane: {z:.6f} by quadrature, {math.exp(target.log_z):.6f} in closed form")
picture.save(figure, options.out)
