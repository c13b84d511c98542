"""Guidance: away from what the model says of everything, towards what it says of one class.

    python examples/road/16_guidance.py

A model that knows the data with and without a class is sent along

    score(x, t) + weight (score(x, t | class) - score(x, t)),

with weights above 1. At each time that is the score of p_t(x)^(1 - weight) p_t(x | class)^weight,
but these densities are no diffusion of the one at t = 0. For a class N(0, s^2) within data N(0, 1)
samples have the standard deviation s^weight, those of the density (weight / s^2 + 1 - weight)^-1/2.
"""

import picture
import torch

from sde_score import samplers
from sde_score.guidance import Guided
from sde_score.models import GaussianMixture

LIMIT, S = 3.0, 0.5
MEANS = torch.tensor([[1.3, 0.0], [-0.65, 1.126], [-0.65, -1.126]], dtype=torch.float64)

options = picture.arguments(__file__, __doc__, samples=1500)
everything = GaussianMixture(MEANS, 0.35, "vp")
one = GaussianMixture(MEANS[:1], 0.35, "vp")
sampler = samplers.create("adams", steps=40)


def draw(weight, model=one, against=everything, start=(options.samples, 2)):
    """Where the ODE under guidance goes, from random or given starts."""
    guided = Guided(model, f"cfg({weight})", against=against)
    return sampler(guided, start, seed=0, progress=False).detach()


def tilted(x, weight):
    """The density p(x)^(1 - weight) p(x | class)^weight, up to a constant."""
    return ((1 - weight) * everything.log_prob(x) + weight * one.log_prob(x)).exp()


figure, panels = picture.sheet(
    "Guidance sharpens a class, and overshoots the density that it seems to sample",
    widths=(1, 1, 1, 1.25), height=4.2,
)  # fmt: skip
for axes, weight in zip(panels, (1, 2, 4), strict=False):
    picture.shade(axes, lambda x, w=weight: tilted(x, w), limit=LIMIT)
    picture.contours(axes, lambda x: everything.log_prob(x).exp(), [0.03], picture.FAINT, LIMIT)
    picture.dots(axes, draw(weight), picture.LEARNED, size=4)
    picture.plane(axes, LIMIT)
    axes.set_title(f"weight {weight}")
picture.say(panels[0], 0.04, 0.05, "grey: all three classes", picture.FAINT, inside=True)
picture.say(panels[1], 0.04, 0.05, "blue: the density", picture.TRUTH, inside=True)
picture.say(panels[2], 0.04, 0.05, "orange: samples", picture.LEARNED, inside=True)

spread, weights = panels[3], torch.linspace(1, 5, 9)
narrow, wide = (GaussianMixture([[0.0]], v, "vp") for v in (S**2, 1.0))
ones = torch.ones(1, 1, dtype=torch.float64)  # all is linear: one standard deviation remains one
found = [float(draw(float(w), narrow, wide, ones)) for w in weights]
curve = torch.linspace(1, 5, 101)
picture.truth(spread, curve, (curve / S**2 + 1 - curve) ** -0.5)
picture.other(spread, curve, S**curve, linewidth=1.2)
picture.learned(spread, weights, found, marker="o", linewidth=0)
picture.say(spread, 2.6, 0.38, "of the density", picture.TRUTH)
picture.say(spread, 1.05, 0.06, "of samples", picture.LEARNED)
picture.say(spread, 2.35, 0.21, "$s^{weight}$", picture.OTHER)
picture.name(spread, "A class within N(0, 1)", "weight", "standard deviation", ylim=(0, 0.55))
print(*(f"weight {w:.1f}: {s:.3f}, {S**w:.3f};" for w, s in zip(weights, found, strict=True)))
picture.save(figure, options.out)
