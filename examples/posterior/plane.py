"""Every method on one problem in the plane whose posterior is known exactly.

    python examples/posterior/plane.py

Points lie along a spiral, a mixture of Gaussians. One number is measured of a point, y = a . x +
noise, and the spiral meets it four times. What y makes of a mixture is a mixture again, with

    w'_k ~ w_k N(y; a . m_k, s_k),   m'_k = m_k + C_k a (y - a . m_k) / s_k,
    C'_k = C_k - C_k a a^T C_k / s_k,                 s_k = a . C_k a + std^2.

Its contours are below the samples of each method. The number is the distance of the samples to it,
sliced Wasserstein in hundredths, which is above 0 for as many exact samples as well.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from matplotlib.colors import LinearSegmentedColormap

from sde_score import posterior, samplers
from sde_score.models import GaussianMixture
from sde_score.report.pictures import ACCENT, FAINT, HEAD, INK, TEXT, new_figure, png

STD, Y = 0.1, -0.4
A = torch.tensor([math.cos(1.2), math.sin(1.2)], dtype=torch.float64)
ALIKE = ["mmps", "tmpd", "pigdm", "pigdm-published", "sda", "lgd-mc", "c-dps", "replacement",
         "repaint", "ddrm", "ddnm", "diffpir", "daps", "mpgd", "red-diff", "d-flow"]  # fmt: skip
METHODS = {
    **dict.fromkeys(["twisted", "mcg-diff", "fps"], "smc(steps=50, particles=500, islands=8)"),
    **dict.fromkeys([*ALIKE, "pnp-dm(steps=80, rho_min=0.1)"]),
    "dps": "ancestral(steps=300)",
}
SHADES = LinearSegmentedColormap.from_list("prior", ["#ffffff", FAINT])


def spiral(count=24):
    """The means, covariances and weights of two turns, heavier inside."""
    angle = torch.linspace(0.35**2, 1, count, dtype=torch.float64).sqrt() * 3.8 * math.pi
    means = 2.2 / angle.max() * angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    along = torch.gradient(means, dim=0)[0]
    across = torch.stack([-along[:, 1], along[:, 0]], 1) / along.norm(dim=1, keepdim=True)
    covariances = 0.6**2 * along[:, :, None] * along[:, None]
    covariances = covariances + 0.09**2 * across[:, :, None] * across[:, None]
    return means, covariances, torch.linspace(3, 1, count, dtype=torch.float64)


def given(means, covariances, weights):
    """Those of the mixture that y makes of a mixture."""
    shared, residual = covariances @ A, Y - means @ A
    s = shared @ A + STD**2
    logs = weights.log() - 0.5 * (residual**2 / s + s.log())
    left = covariances - shared[:, :, None] * shared[:, None] / s[:, None, None]
    return means + shared * (residual / s)[:, None], left, logs.softmax(0)


def mixture(means, covariances, weights):
    """The model of the mixture."""
    return GaussianMixture(means, covariances, "vp", weights)


def draw(name, prior, truth, count):
    """Samples of the posterior by a method, and whether it is exact in a limit."""
    if name == "exact samples":
        return truth.sample(count, generator=torch.Generator().manual_seed(0)), True
    if name == "exact score":
        way = samplers.create("dpmpp-2m", steps=50)
        return way(truth, (count, 2), seed=0, progress=False), True
    drawn = posterior.sample(
        prior, posterior.Measurement(A[None], torch.tensor([Y]), STD), name, count,
        sampler=METHODS[name], batch_size=count, progress=False,
    )  # fmt: skip
    return drawn.samples.double(), drawn.limit.startswith("exact")


def distance(x, exact):
    """Sliced 1-Wasserstein distance of n samples to a multiple of n, over 90 directions."""
    angle = torch.arange(90, dtype=torch.float64) * math.pi / 90
    onto = torch.stack([angle.cos(), angle.sin()])
    of_exact = (exact @ onto).sort(0).values.reshape(len(x), -1, 90).mean(1)
    return float(((x @ onto).sort(0).values - of_exact).abs().mean())


def picture(prior, truth, found):
    """A panel for the prior and for each method, the closest first."""
    line = torch.linspace(-2.6, 2.6, 161, dtype=torch.float64)
    x1, x2 = torch.meshgrid(line, line, indexing="xy")
    points = torch.stack([x1, x2], -1).reshape(-1, 2)
    before, after = (model.log_prob(points).exp().reshape(x1.shape) for model in (prior, truth))
    levels = [0.02 * float(after.max()), 0.3 * float(after.max())]
    names = sorted(found, key=lambda name: (name in METHODS, not found[name][1], found[name][2]))
    figure = new_figure(12, 6.6)
    panels = figure.subplots(-(-(len(names) + 1) // 6), 6, squeeze=False)
    figure.suptitle(
        f"One posterior by {len(METHODS)} methods and their distances to it. "
        "Dark frames: exact in a limit. The others are biased.",
        fontsize=HEAD + 2, x=0.005, ha="left",
    )  # fmt: skip
    for axes, name in zip(panels.flat, [None, *names], strict=False):
        axes.set(xticks=[], yticks=[], xlim=(-2.25, 2.55), ylim=(-1.65, 1.35), aspect="equal")
        axes.contourf(x1, x2, before, 8, cmap=SHADES, zorder=0)
        axes.contour(x1, x2, after, levels, colors=ACCENT, linewidths=1.1, zorder=1)
        title, exact = "prior, y and posterior", False
        if name is None:
            off = (points @ A - Y).abs().reshape(x1.shape)
            axes.contourf(x1, x2, off, [0, 2 * STD], colors=ACCENT, alpha=0.2)
        else:
            x, exact, error = found[name]
            axes.scatter(*x.T, s=2.5, color=INK, alpha=0.45, linewidths=0, zorder=2)
            title, color = name.partition("(")[0], INK if exact else ACCENT
            axes.set_title(f"{error:.0f}", fontsize=TEXT, loc="right", color=color)
        axes.set_title(title, fontsize=TEXT, loc="left", color=INK)
        axes.spines[:].set(color=INK if exact else FAINT, linewidth=1.5 if exact else 0.8)
    return png(figure, 100)


def main():
    """Draw, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("plane.png"))
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior, truth = mixture(*spiral()), mixture(*given(*spiral()))
    reference = truth.sample(20 * options.samples, generator=torch.Generator().manual_seed(1))
    found = {}
    for name in ["exact samples", "exact score", *METHODS]:
        began = time.perf_counter()
        x, exact = draw(name, prior, truth, options.samples)
        found[name] = x, exact, 100 * distance(x, reference)
        print(f"{name:14} {found[name][2]:5.1f}  {time.perf_counter() - began:.1f} s", flush=True)
    options.out.write_bytes(picture(prior, truth, found))


if __name__ == "__main__":
    main()
