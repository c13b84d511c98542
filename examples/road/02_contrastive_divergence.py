"""Maximum likelihood needs Z; contrastive divergence does without.

    python examples/road/02_contrastive_divergence.py

The gradient of the log-likelihood is -grad E(data) + E_model[grad E]: lower the energy of data,
raise it where the model itself would put them. The second half comes from log Z, a sum over
everything. Contrastive divergence puts the ends of short Langevin chains in its place, which start
at the data and, where the model is wrong, drift away from them.
"""

import picture
import torch

from sde_score import nn, objectives
from sde_score.mcmc import run_chains
from sde_score.models import TARGETS, EnergyModel, Marginal
from sde_score.sdes import VE

options = picture.arguments(__file__, __doc__, steps=300)
target = TARGETS.create("mixture")
grid = picture.lattice(limit=5.5, count=37)[2]
log_cell = 2 * torch.tensor(11 / 36).log()
KERNEL = "mala(step_size=0.6)"


def log_density(model, x):
    """log(exp(-E) / Z), with Z summed over the cells of a grid: possible in the plane alone."""
    log_z = (-Marginal(model).energy(grid.float())).logsumexp(0) + log_cell
    return -Marginal(model).energy(x.float()) - log_z


def divergence(model):
    """KL(p || exp(-E) / Z), summed over the same cells."""
    truth = target.log_prob(grid)
    return float((truth.exp() * (truth - log_density(model, grid).detach())).sum() * log_cell.exp())


def train(loss, panels):
    """Fit an energy, drawing it at the steps that have a panel; returns KL every 20 steps."""
    torch.manual_seed(0)
    backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
    model, generator = EnergyModel(backbone, VE(0.01, 10)), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    curve = {}
    for step in range(options.steps + 1):
        if step % 20 == 0 or step == options.steps:
            curve[step] = divergence(model)
        if step in panels:
            draw(panels[step], model, f"After {step} steps" if step else "Before training")
        optimizer.zero_grad()
        loss(model, target.sample(128, generator).float(), generator=generator).mean().backward()
        optimizer.step()
        decay.step()
    return curve


def draw(axes, model, title):
    """The learned density, the true one, and 12 chains like those of the objective."""
    picture.shade(axes, lambda x: log_density(model, x).exp(), picture.LEARNED_SHADES, top=0.18)
    picture.contours(axes, lambda x: target.log_prob(x).exp(), [0.01, 0.05, 0.12])
    start = target.sample(12, torch.Generator().manual_seed(3)).float()
    end = run_chains(Marginal(model), start, KERNEL, draws=1, thin=3, seed=0).samples[0]
    axes.plot(*torch.stack([start, end]).permute(2, 0, 1), color=picture.INK, linewidth=0.8)
    picture.dots(axes, start, size=26, alpha=1, zorder=4)
    axes.scatter(*end.T, s=26, facecolor="white", edgecolor=picture.INK, linewidth=1.2, zorder=5)
    picture.plane(axes)
    axes.set_title(title)


headline = "Contrastive divergence comes close to the truth without Z"
figure, (top, below) = picture.sheet(headline, 8.2, widths=(1, 1, 1), heights=(1.3, 1))
below, early = picture.joined(below), max(1, options.steps // 10)
objective = objectives.create("contrastive-divergence", k=3, kernel=KERNEL)
without_z = train(objective, dict(zip((0, early, options.steps), top, strict=True)))
with_z = train(lambda model, x0, generator: -log_density(model, x0), {})
picture.say(top[0], -3.8, 3.4, "lines: the truth", picture.TRUTH)
picture.say(top[1], -3.8, 3.4, "shading: exp(−E)/Z, learned", picture.LEARNED)
picture.say(top[2], -3.8, 3.4, "chains: data ● to ends ○")
picture.learned(below, list(without_z), list(without_z.values()))
picture.other(below, list(with_z), list(with_z.values()))
title = "What the model loses against the truth: KL(p ‖ exp(−E)/Z)"
picture.name(below, title, "optimizer steps", "nats per point", yscale="log")
below.set(xlim=(0, options.steps), ylim=(0.008, 1.8))
picture.say(below, 0.35, 0.6, "contrastive divergence: never sees Z", picture.LEARNED, inside=True)
words = f"maximum likelihood: Z from {len(grid)} cells\nat every step, possible only in the plane"
picture.say(below, 0.02, 0.06, words, picture.OTHER, inside=True)
print(f"KL at the end: {without_z[options.steps]:.4f} nats, with Z {with_z[options.steps]:.4f}")
picture.save(figure, options.out)
