"""What differs between SDEs: log-SNR over time, the end in noise, the clock of a plain solver.

    python examples/guides/which_sde.py

All of it is exact or nearly so: the marginal of Gaussian data at the last time is known, and so is
the end of the probability flow of a mixture with ten full Gaussians fitted to digits. Heun's method
with even steps in the SDE's own time is what one writes first; `auto` steps in clocks of its own.
"""

import itertools

import drawing
import torch

from sde_score import create_sampler, sdes
from sde_score.evaluation import BENCHMARK_TARGETS

COLORS = {
    "ve": drawing.ORANGE,
    "edm": drawing.PINK,
    "vp": drawing.BLUE,
    "subvp": drawing.PURPLE,
    "cosine": drawing.GREEN,
    "rectified": drawing.INK,
}
HEUN = "heun(prediction='derivative', coordinate='time', grid='uniform')"
BUDGETS = (10, 20, 40, 80)


def prior_gap(sde, std):
    """KL per dimension from x at t_max, for data N(0, std^2 I), to the prior, in nats."""
    ratio = (sde.alpha(sde.t_max) * std) ** 2 + sde.sigma(sde.t_max) ** 2
    ratio = ratio / sde.prior_std**2
    return (ratio - 1 - ratio.log()) / 2


def errors(spec, starts):
    """Root mean square distance to the exact end of the flow and its standard error: by the sampler
    and by the budget, shape `(2, budgets, 2)`."""
    target = BENCHMARK_TARGETS.create("digits-mixture", sde=spec)
    start = target.start(range(starts))
    ends, found = target.flow(start, None), []
    for sampler, nfe in itertools.product((HEUN, "auto"), BUDGETS):
        x = create_sampler(sampler, nfe=nfe)(target.model, start, seed=0, progress=False)
        squares = (x - ends).square().mean(1)
        rms = squares.mean().sqrt()
        found.append((rms, squares.std() / (2 * rms * starts**0.5)))
    return torch.tensor(found).reshape(2, len(BUDGETS), 2)


def main():
    """Compute, print and draw."""
    options = drawing.options(__file__, __doc__, starts=64)
    figure, axes = drawing.panels(
        "Signal to noise over time", "What the prior gets wrong", "Error at equal evaluations"
    )
    std = torch.logspace(-1, 2, 100, dtype=torch.float64)
    print(f"{'SDE':10}{'log-SNR':>16}{'gap, std 1':>12}{'std 10':>10}   Heun in own time, auto at")
    for spec, color in COLORS.items():
        sde = sdes.create(spec)
        t = torch.linspace(sde.t_min, sde.t_max, 500, dtype=torch.float64)
        axes[0].plot(t / sde.t_max, sde.log_snr(t), color=color, label=spec)
        axes[1].loglog(std, prior_gap(sde, std), color=color)
        own, auto = errors(spec, options.starts)
        axes[2].errorbar(BUDGETS, *own.T, color=color, marker="o", markersize=3)
        axes[2].errorbar(BUDGETS, *auto.T, color=color, linestyle="--")
        low, high = sde.log_snr_range
        gaps = [float(prior_gap(sde, torch.tensor(s).double())) for s in (1, 10)]
        said = [
            f"{n}: {a:.2g} ± {da:.1g}, {b:.2g} ± {db:.1g}"
            for n, (a, da), (b, db) in zip(BUDGETS, own.tolist(), auto.tolist(), strict=True)
        ]
        print(f"{spec:10}{low:8.1f}{high:8.1f}{gaps[0]:12.1e}{gaps[1]:10.1e}  ", "  ".join(said))
    axes[0].set(xlabel="t / t_max", ylabel="log-SNR")
    axes[1].set(
        xlabel="standard deviation of the data", ylabel="KL to the prior, nats per dimension"
    )
    axes[1].set(ylim=(1e-10, 10))
    axes[2].set(xlabel="evaluations", ylabel="distance to the exact end (solid: Heun in own time)")
    axes[2].set(xscale="log", yscale="log")
    drawing.ticks(axes[2].xaxis, BUDGETS)
    axes[2].text(
        10.5, 3e-6, "auto: all SDEs\nbut for where\nVE ends", color=drawing.INK, fontsize=9
    )
    drawing.save(figure, axes, options.out)


if __name__ == "__main__":
    main()
