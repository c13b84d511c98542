"""Langevin dynamics follow the score, and cannot see how much mass lies beyond an empty stretch.

    python examples/road/07_langevin.py

x <- x + h score(x) + sqrt(2 h) z draws from the density with nothing but its score. But the score
is a local thing. Between two modes far apart, the weight of each is written only where there are
next to no points, so that the Fisher divergence

    E_p | grad log p - grad log q |^2

hardly tells the weights 0.2 and 0.8 apart, no network can learn them, and no chain of reasonable
length crosses over to find them out.
"""

import picture
import torch

from sde_score.mcmc import run_chains
from sde_score.models import TARGETS, Mixture

options = picture.arguments(__file__, __doc__)
target = TARGETS.create("mixture")


def fisher_divergence(separation):
    """Between two modes with the weights 0.2 and 0.8 and the same with these exchanged."""
    p, q = (Mixture.two_modes(separation, weight) for weight in (0.2, 0.8))
    x = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        gap = (p.score(x) - q.score(x)).square().sum(1)
        return float(torch.trapezoid(p.log_prob(x).exp() * gap, x[:, 0]))


figure, (paths, blind, shares) = picture.sheet(
    "Langevin follows the score, which is blind to the weight of a far mode", widths=(1, 1.15, 1.15)
)
start = torch.tensor([[-3.5, 3.5]], dtype=torch.float64).repeat(3, 1)
chains = run_chains(target, start, "ula(step_size=0.01)", draws=500, seed=4, progress=False)
picture.shade(paths, lambda x: target.log_prob(x).exp())
for chain, color in enumerate((picture.INK, picture.LEARNED, picture.OTHER)):
    path = torch.cat([start[:1], chains.samples[:, chain]])
    paths.plot(*path.T, color=color, linewidth=0.8, alpha=0.85)
    paths.plot(*path[-1], "o", color=color, markersize=7, zorder=5)
paths.plot(*start[0], "s", color=picture.INK, markersize=8)
picture.say(paths, -3.2, 3.35, "start", va="center")
picture.plane(paths)
paths.set_title("Three chains: none sees the rest")

separations = torch.linspace(4, 13, 37).tolist()
blind.semilogy(separations, [fisher_divergence(s) for s in separations], color=picture.TRUTH)
for separation in (6, 8, 10, 12):
    value = fisher_divergence(separation)
    blind.plot(separation, value, "o", color=picture.INK, markersize=6)
    mantissa, power = f"{value:.1e}".split("e")
    label = f"{mantissa} · $10^{{{int(power)}}}$"
    picture.say(blind, separation + 0.25, 1.6 * value, label)
    print(f"separation {separation:2}: Fisher divergence {value:.1e}")
blind.set(xlabel="distance of the modes, in standard deviations", xlim=(4, 14.4), ylim=(2e-9, 1))
blind.set(ylabel="Fisher divergence")
blind.set_title("Weights 0.2 and 0.8: hard to tell apart")

modes = Mixture.two_modes(10.0, weight=0.8)
begin = 3 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ends = run_chains(modes, begin, "mala(step_size=0.3)", draws=1, warmup=1000, seed=1, progress=False)
x = torch.linspace(-9, 9, 601, dtype=torch.float64)
picture.truth(shares, x, modes.log_prob(x[:, None]).exp())
shares.hist(
    ends.samples.flatten().numpy(), bins=60, range=(-9, 9), density=True,
    color=picture.LEARNED, alpha=0.75,
)  # fmt: skip
left = float((ends.samples < 0).double().mean())
picture.say(shares, -8.6, 0.375, "the truth: 80 %", picture.TRUTH)
picture.say(shares, 1.2, 0.375, "the truth: 20 %", picture.TRUTH)
picture.say(shares, -8.6, 0.345, f"chains: {100 * left:.0f} %", picture.LEARNED)
picture.say(shares, 1.2, 0.345, f"chains: {100 - 100 * left:.0f} %", picture.LEARNED)
shares.set(xlabel="x", ylabel="density", ylim=(0, 0.4), xlim=(-9, 9))
shares.set_title("1000 steps: no chain crosses over")
print(f"left mode: {left:.3f} of the chains, 0.8 of the truth")
picture.save(figure, options.out)
