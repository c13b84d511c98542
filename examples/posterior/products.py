"""Products, guidance and powers of models: the sum of scores, and the weights that make it exact.

    python examples/posterior/products.py

The score of p^a q^b is a times that of p plus b times that of q, at the data; with noise it is not,
and samplers that follow it go astray. Weighted particles on the same way are exact in the limit of
many particles and steps, and know the integral of p^a q^b as well.
"""

import argparse
from pathlib import Path

import torch

from sde_score import samplers
from sde_score.guidance import Guided, Product, Tempered
from sde_score.models import GaussianMixture
from sde_score.posterior import smc
from sde_score.report.pictures import ACCENT, FAINT, INK, SMALL, TEXT, new_figure, png

GRID = torch.linspace(-4, 4, 1601, dtype=torch.float64)


def mixture(*parts):
    """A mixture on the line, of parts (mean, standard deviation, weight)."""
    means, deviations, weights = torch.tensor(parts, dtype=torch.float64).T
    return GaussianMixture(means[:, None], deviations**2, "vp", weights)


def main():
    """Draw, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("products.png"))
    parser.add_argument("--samples", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    narrow = mixture((-1.4, 0.25, 0.5), (1.2, 0.5, 0.5))
    broad = mixture((-0.6, 0.9, 0.7), (2.0, 0.35, 0.3))
    one_class = mixture((-1.2, 0.5, 0.4), (1.0, 0.35, 0.6))
    everything = mixture((-1.5, 0.8, 0.5), (1.2, 0.9, 0.5))
    guided = Guided(one_class, "cfg(3)", against=everything)
    problems = {
        "a product, p q": (Product([narrow, broad]), [narrow, broad]),
        "guidance, cfg(3): p³ / q²": (guided, [one_class, everything]),
        "a power, p³": (Tempered(one_class, 3.0), [one_class]),
    }
    figure = new_figure(12, 3.4)
    panels = figure.subplots(1, 3)
    for axes, (title, (model, parts)) in zip(panels, problems.items(), strict=True):
        logs = [part.log_prob(GRID[:, None]) for part in parts]
        density = sum(w * log for w, log in zip(model.weights, logs, strict=True)).exp()
        integral = torch.trapezoid(density, GRID)
        way = samplers.create("ancestral", steps=100)
        plain = way(model, (options.samples, 1), seed=0, progress=False)
        driver = smc.SMC(steps=100, particles=options.samples // 8, islands=8)
        target = smc.Corrected(model, (1,))
        found = driver(target, seed=0, batch_size=options.samples, progress=False)
        print(f"{title}: exact log Z = {integral.log():.3f}; {found}")
        for part, style in zip(parts, ("--", ":"), strict=False):
            name = "p" if part is parts[0] else "q"
            axes.plot(
                GRID, part.log_prob(GRID[:, None]).exp(), style, color=INK, linewidth=1, label=name
            )
        axes.fill_between(
            GRID, density / integral, color=ACCENT, alpha=0.3, linewidth=0, label="exact"
        )
        even = torch.full((options.samples,), 1 / options.samples)
        for x, weights, color, label in (
            (plain, even, FAINT, "sum of scores"),
            (found.samples, found.weights, INK, "weighted particles"),
        ):
            x, weights = x.flatten().numpy(), weights.flatten().numpy()
            axes.hist(
                x, 100, range=(-4, 4), density=True, weights=weights, histtype="step", color=color,
                linewidth=1.6, label=label,
            )  # fmt: skip
        axes.set_title(title, fontsize=TEXT, loc="left")
        axes.set(yticks=[], xlim=(-3.2, 3.2))
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].legend(fontsize=SMALL, frameon=False)
    options.out.write_bytes(png(figure, 100))


if __name__ == "__main__":
    main()
