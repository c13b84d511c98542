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

from sde_score.models import TARGETS

options = picture.arguments(__file__, __doc__)
target = TARGETS.create("mixture")
figure, panels = picture.sheet(
    "An energy is easy to write down; its sum Z over everything is not", 9, heights=(1.1, 1)
)
surface, plane = picture.solid(panels[0, 0]), panels[0, 1]
softmax, terms = panels[1]

x1, x2, points = picture.lattice(count=161)
energy = target.energy(points).reshape(x1.shape)
surface.plot_surface(
    x1, x2, energy.clamp(max=14), cmap="Blues_r", vmax=16, rcount=60, ccount=60, linewidth=0.15
)
surface.set(zlim=(0, 14), xlabel="x₁", ylabel="x₂", zticks=[0, 5, 10], xlim=(-4, 4), ylim=(-4, 4))
surface.set_zlabel("E in nats", labelpad=0)
surface.view_init(38, -62)
surface.set_box_aspect((1, 1, 0.62), zoom=1.2)
surface.set_title("Energy E(x): a landscape, low where data are")

wide, count = 9.0, 400
cell = (2 * wide / (count - 1)) ** 2
z = float((-target.energy(picture.lattice(wide, count)[2])).exp().sum()) * cell
generator = torch.Generator().manual_seed(2)
choices = target.sample(10, generator)
picture.shade(plane, lambda x: (-target.energy(x)).exp() / z)
picture.plane(plane)
picture.dots(plane, choices, size=14, alpha=1)
for index, (a, b) in enumerate(choices.tolist()):
    picture.say(plane, a + 0.1, b + 0.08, str(index), fontweight="bold")
plane.set_title(f"Density exp(−E)/Z: Z = {z:.3f} from {count**2:,} cells".replace(",", " "))

weights = (-target.energy(choices)).exp()
softmax.bar(range(10), weights / weights.sum(), color=picture.TRUTH, alpha=0.55, width=0.7)
softmax.set(xlabel="class (the numbered points above)", ylabel="probability", xticks=range(10))
softmax.set_title("Ten classes: Z is a sum of 10 terms, the softmax")

sides = torch.linspace(1, 8, 200)
terms.plot(sides, sides**2 * math.log10(256), color=picture.INK, linewidth=2.5)
for side in (1, 2, 3, 8):
    digits = side**2 * math.log10(256)
    terms.plot(side, digits, "o", color=picture.INK, clip_on=False)
terms.axhspan(0, 17, color=picture.TRUTH, alpha=0.18, linewidth=0)
picture.say(terms, 3.6, 8.5, "a computer sums these in a year: 10¹⁷", picture.TRUTH, va="center")
picture.say(terms, 2.9, 24, "3 × 3 pixels: 10²²", ha="right", va="bottom")
picture.say(terms, 7.75, 154, "8 × 8 pixels: 10¹⁵⁴", ha="right", va="center")
picture.say(terms, 7.75, 136, "28 × 28 pixels: 10¹⁸⁸⁸", ha="right", va="center")
terms.set(xlim=(1, 8), ylim=(0, 160), yticks=[0, 50, 100, 150])
terms.set(yticklabels=["1", "10⁵⁰", "10¹⁰⁰", "10¹⁵⁰"], xlabel="side n of the image in pixels")
terms.set_ylabel("terms in Z")
terms.set_title("Images of n × n gray pixels: Z has 256ⁿˣⁿ terms")

print(f"Z on the plane: {z:.6f} by quadrature, {math.exp(target.log_z):.6f} in closed form")
picture.save(figure, options.out)
