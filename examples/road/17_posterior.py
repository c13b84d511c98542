"""A posterior: the same score, and that of a likelihood.

    python examples/road/17_posterior.py

Of x only y = x1 + noise is known. The score of p_t(x | y) is score(x, t) + grad log p_t(y | x),

    p_t(y | x) = E[ p(y | x0) | x ],   a mean over all data that may be behind the noisy x.

Methods differ in what they take for the distribution of x0 given x: a point (DPS), or a Gaussian
with the covariance that follows from the score's Jacobian (MMPS), which is exact for Gaussian data.
For a mixture neither is, and the exact posterior, a mixture again, shows by how much. Particles
that are weighed by what was left out, and drawn again by their weights, tend to it (twisted).
"""

import picture
import torch

from sde_score import posterior
from sde_score.models import TARGETS, GaussianMixture

STD, Y = 0.4, 0.2

options = picture.arguments(__file__, __doc__, samples=1500)
target = TARGETS.create("mixture")
means, covariances = (torch.tensor(v).double() for v in (target.means, target.covariances))
prior = GaussianMixture(means, covariances, "vp", target.weights)
seen = posterior.Measurement(torch.tensor([[1.0, 0.0]]), torch.tensor([Y]), STD)

gain = covariances[:, :, 0] / (covariances[:, 0, 0] + STD**2)[:, None]
evidence = torch.distributions.Normal(means[:, 0], (covariances[:, 0, 0] + STD**2).sqrt())
exact = GaussianMixture(
    means + gain * (Y - means[:, :1]),
    covariances - gain[:, :, None] * covariances[:, :1],
    "vp",
    (torch.tensor(target.weights).double().log() + evidence.log_prob(torch.tensor(Y))).softmax(0),
)

figure, (*panels, second) = picture.sheet(
    "One score, one measurement: methods differ in how likely the modes are",
    widths=(1, 1, 1, 1.25), height=4.2,
)  # fmt: skip
line = torch.linspace(-3.2, 3.2, 321, dtype=torch.float64)
cells = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
marginal = exact.log_prob(cells).exp().reshape(321, 321).sum(0) * (line[1] - line[0])
picture.truth(second, line, marginal)
particles = "smc(steps=50, particles=500, islands=3)"
methods = {
    "dps": ("DPS: a point", picture.OTHER, "ancestral(steps=100)"),
    "mmps": ("MMPS: a Gaussian", picture.LEARNED, "ancestral(steps=100)"),
    "twisted": ("Twisted: particles", picture.INK, particles),
}
for axes, (method, (title, color, sampler)) in zip(panels, methods.items(), strict=True):
    drawn = posterior.sample(
        prior, seen, method, options.samples, sampler=sampler, batch_size=options.samples,
        progress=False,
    )  # fmt: skip
    x = drawn.samples.double()
    axes.axvspan(Y - 2 * STD, Y + 2 * STD, color=picture.FAINT, linewidth=0, alpha=0.3)
    picture.contours(axes, lambda x: prior.log_prob(x).exp(), [0.01, 0.05], picture.FAINT)
    picture.shade(axes, lambda x: exact.log_prob(x).exp())
    picture.dots(axes, x, color, size=4)
    picture.plane(axes)
    axes.set_title(title)
    bars = {"bins": 32, "range": (-3.2, 3.2), "density": True, "color": color, "linewidth": 1.8}
    second.hist(x[:, 1].numpy(), histtype="step", **bars)
    print(f"{method:8} {(x[:, 1] > 1).double().mean():.3f} above 1, in the upper mode")
print(f"exactly  {marginal[line > 1].sum() * (line[1] - line[0]):.3f}")
picture.say(panels[0], 0.04, 0.05, "grey: prior and y ± 0.8", picture.INK, inside=True)
picture.say(panels[1], 0.04, 0.05, "blue: the posterior", picture.TRUTH, inside=True)
picture.name(second, "Density of x₂ given y", "x₂", "density", xlim=(-3.2, 3.2))
picture.save(figure, options.out)
