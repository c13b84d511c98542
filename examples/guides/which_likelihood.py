"""Likelihoods against the truth: what each number is, on which side of it, and what it costs.

    python examples/guides/which_likelihood.py

The distribution is a mixture of ten full Gaussians fitted to digits, in 64 dimensions, seen through
VP: its log-density is known, and so is its score, so that nothing here is the error of a network.
Right: the partition function of wells whose log Z is known, by chains that are annealed to them.
"""

import math

import drawing

from sde_score import likelihood
from sde_score.evaluation import BENCHMARK_TARGETS
from sde_score.models import TARGETS
from sde_score.scaling import Scaling

WAYS = {
    "flow": (
        [f"flow(divergence='exact', rtol={r}, atol={r})" for r in (1e-2, 1e-3, 1e-4, 1e-5)],
        drawing.BLUE,
    ),
    "flow, 1 probe": ([f"flow(rtol={r}, atol={r})" for r in (1e-2, 1e-3, 1e-4)], drawing.GREEN),
    "few-steps": (
        [f"few-steps(steps={n}, divergence='exact', tolerance=100)" for n in (8, 16, 32)],
        drawing.INK,
    ),
    "bound": ([f"bound(draws={n}, times=16)" for n in (1, 4, 16, 64)], drawing.PURPLE),
    "bound, uniform t": (
        [f"bound(draws={n}, times=16, time_sampling='uniform')" for n in (1, 4, 16, 64)],
        drawing.PINK,
    ),
    "elbo": ([f"elbo(layers={n})" for n in (10, 30, 100, 300, 1000)], drawing.ORANGE),
}
PARTITION = {"ais": drawing.BLUE, "reverse-ais": drawing.ORANGE, "bridge": drawing.GREEN}
STEPS = (5, 10, 20, 40, 80)


def measured(target, x, truth, by):
    """Evaluations an example, root mean square error, mean error and its standard error, bits."""
    unit = target.dimensions * math.log(2)
    found = likelihood.create(by)(target.model, x, Scaling(), seeds=range(len(x)))
    off = (truth - found.values) / unit  # above zero: more bits than the truth
    return found.nfe, float(off.square().mean().sqrt()), float(off.mean()), float(off.std())


def main():
    """Measure, print and draw."""
    options = drawing.options(__file__, __doc__, examples=32, chains=512)
    figure, axes = drawing.panels(
        "Error of one example", "Error of the mean, with its side", "log Z of an energy"
    )
    target = BENCHMARK_TARGETS.create("digits-mixture", sde="vp")
    x = target.data(options.examples, 0)
    truth = target.log_prob(x)
    for name, (specs, color) in WAYS.items():
        rows = []
        for by in specs:
            nfe, rms, mean, std = measured(target, x, truth, by)
            rows.append((nfe, rms, mean, std / options.examples**0.5))
            print(f"{by:60}{nfe:6d}{rms:12.2e}{mean:12.2e} ± {rows[-1][3]:.1e}", flush=True)
        nfe, rms, mean, error = zip(*rows, strict=True)
        axes[0].loglog(nfe, rms, color=color, marker="o", markersize=3, label=name)
        axes[1].errorbar(nfe, mean, error, color=color, marker="o", markersize=3)
    wells = TARGETS.create("double-well", dim=8)
    for name, color in PARTITION.items():
        found = [
            likelihood.log_partition(
                wells,
                wells.event_shape,
                method=name,
                steps=n,
                chains=options.chains,
                progress=False,
            )
            for n in STEPS
        ]
        off = [one.value - wells.log_z for one in found]
        errors = [one.standard_error for one in found]
        axes[2].errorbar(STEPS, off, errors, color=color, marker="o", markersize=3, label=name)
        said = [f"{n}: {o:.3f} ± {e:.3f}" for n, o, e in zip(STEPS, off, errors, strict=True)]
        print(f"{name:12}", "  ".join(said))
    axes[0].set(xlabel="evaluations", ylabel="root mean square, bits/dim")
    axes[1].set(xlabel="evaluations", ylabel="bits/dim above the truth", xscale="log")
    axes[1].set_yscale("symlog", linthresh=1e-2)
    axes[2].set(xlabel="stops of each chain", ylabel="log Z, above the truth", xscale="log")
    drawing.ticks(axes[2].xaxis, STEPS)
    for panel in axes[1:]:
        panel.axhline(0, color=drawing.INK, linewidth=0.8)
    drawing.save(figure, axes, options.out)


if __name__ == "__main__":
    main()
