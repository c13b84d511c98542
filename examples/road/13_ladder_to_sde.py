"""A ladder with more and more rungs becomes a stochastic differential equation.

    python examples/road/13_ladder_to_sde.py

Ancestral sampling goes down a ladder of n noise levels, one Gaussian step from each to the next,

    x_s = (x_t + std^2 score(x_t, t)) / scale + std sigma_s / sigma_t z.

With n = 1000 it is DDPM. Let n grow and the steps become the reverse-time SDE

    dx = (f x - g^2 score) dt + g dw,

and the distribution of the samples tends to that of the data, with an error that falls as 1 / n.
"""

import picture
import torch
from scipy.interpolate import CubicSpline

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.sdes import VP

COUNTS = (5, 20, 100, 1000)

options = picture.arguments(__file__, __doc__)
sde = VP()  # data of mean 0 and variance 1: the start is N(0, 1) to nine digits
mixture = GaussianMixture([[-1.2], [0.8]], 0.04, sde, weights=[0.4, 0.6])
line = torch.linspace(-6, 6, 2049, dtype=torch.float64)[:-1]
grid = float(line[1] - line[0])
end = sde.sampling_t_min


def ladder(n, variance="posterior"):
    """Ancestral sampling over n layers, evenly spaced in time."""
    return samplers.create("ancestral", steps=n, grid="uniform", denoise=False, variance=variance)


def density_of_samples(sampler):
    """The density of the last state, without sampling: each step moves the density by a map of x,
    which is increasing, and blurs it by a Gaussian, which is a product in frequencies."""
    times = sampler.times(sde)
    density = torch.exp(-0.5 * line**2) / (2 * torch.pi) ** 0.5
    frequency = 2 * torch.pi * torch.fft.rfftfreq(len(line), grid, dtype=torch.float64)
    edges = line + grid / 2
    for t, (a, b, c) in zip(times[:-1], sampler.rows(sde, times), strict=True):
        mapped = a * edges + b * mixture.score(edges[:, None], t)[:, 0]
        mass = torch.cumsum(density, 0) * grid
        moved = torch.from_numpy(CubicSpline(mapped, mass)(edges.clamp(mapped[0], mapped[-1])))
        blurred = torch.fft.rfft(torch.diff(moved, prepend=moved[:1]) / grid)
        density = torch.fft.irfft(blurred * torch.exp(-0.5 * (c * frequency) ** 2), n=len(line))
    return density


def paths(n, starts):
    """Times and states on the way down, driven by one Brownian motion for all n."""
    fine = torch.randn(1000, *starts.shape, generator=torch.Generator().manual_seed(1))
    increments = fine.reshape(n, 1000 // n, *starts.shape).sum(1) / (1000 / n) ** 0.5
    noise = iter(increments.double())
    run = ladder(n)(mixture, starts, noise=lambda: next(noise), trajectory=True, progress=False)
    return run.times, run.states[:, :, 0]


figure, grid_of_panels = picture.sheet(
    "More and more rungs: the ladder becomes a diffusion", 8, (1, 1, 1), (1, 1)
)
*ladders, densities, errors = grid_of_panels.flatten()
times = sde.t_max - (sde.t_max - end) * torch.linspace(0, 1, 121, dtype=torch.float64)
height = torch.linspace(-2.6, 2.6, 141, dtype=torch.float64)
density = torch.stack([mixture.log_prob(height[:, None], t).exp() for t in times], 1)
levels = torch.linspace(0, 1.1, 13).pow(1.6).tolist()
for axes, n in zip(ladders, COUNTS, strict=True):
    axes.contourf(times, height, density, levels, cmap=picture.TRUE_SHADES, extend="max")
    at, states = paths(n, torch.tensor([[-1.3], [0.0], [1.3]], dtype=torch.float64))
    style = {"marker": "o", "markersize": 4} if n < 50 else {}
    for path, color in zip(states.T, (picture.LEARNED, picture.INK, picture.OTHER), strict=True):
        axes.plot(at, path, color=color, linewidth=1.0, **style)
    picture.name(axes, f"n = {n} layers", "time t, from noise to data", "x", xlim=(1, 0))
    axes.set(ylim=(-2.6, 2.6))
    axes.yaxis.label.set_rotation(0)
picture.say(ladders[0], 0.03, 0.04, "same starts, same noise for all n", inside=True)

exact = mixture.log_prob(line[:, None], end).exp()
picture.truth(densities, line, exact, label="truth")
counts, dashes = (5, 10, 20, 50, 100, 200, 500, 1000), {5: ":", 20: "--", 100: "-"}
for variance, draw in (("posterior", picture.learned), ("transition", picture.other)):
    found = {n: density_of_samples(ladder(n, variance)) for n in counts}
    wrong = {n: 50 * grid * float((f - exact).abs().sum()) for n, f in found.items()}
    draw(errors, counts, list(wrong.values()), marker="o", markersize=4)
    print(f"{variance:10}", *(f" {n}: {percent:.2g} %" for n, percent in wrong.items()))
    for n, dash in dashes.items() if variance == "posterior" else ():
        picture.learned(densities, line, found[n], linestyle=dash, label=f"n = {n}")
densities.legend(loc=(0.0, 0.63))
picture.name(densities, "Density of the samples", "x", "density", xlim=(-2.3, 2.3))
errors.plot(counts, [400 / n for n in counts], color=picture.FAINT, linestyle="--")
picture.say(errors, 8.5, 58, "1 / n")
picture.say(errors, 4.5, 0.7, "variance given the data", picture.LEARNED)
picture.say(errors, 4.5, 0.42, "variance of the forward step", picture.OTHER)
picture.name(errors, "Error of that density", "layers n", "misplaced mass in %")
errors.set(**picture.LOGARITHMIC)
picture.save(figure, options.out)
