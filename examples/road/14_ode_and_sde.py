"""One noise, two ways down: the ODE and the SDE share every marginal and couple them differently.

    python examples/road/14_ode_and_sde.py

From the same start at t = 1 run the reverse-time SDE or the probability-flow ODE,

    dx = (f x - g^2 score) dt + g dw,      dx = (f x - g^2 score / 2) dt.

At each time both have the same distribution p_t. But the ODE is a map: a start has one end, and
paths never cross, so in one dimension it keeps their order. The SDE forgets its start on the way:
the same start ends here or there. So the ODE gives every digit a code, and the SDE draws one.
"""

import digits
import picture
import torch
from torch.special import ndtr, ndtri

from sde_score import samplers
from sde_score.models import GaussianMixture
from sde_score.sdes import VP

COLUMNS = 18

options = picture.arguments(__file__, __doc__, steps=1200)
sde = VP()
mixture = GaussianMixture([[-1.2], [0.8]], 0.04, sde, weights=[0.4, 0.6])
ode_way, sde_way = (samplers.create("euler-maruyama", steps=500, eta=eta) for eta in (0.0, 1.0))

figure, grid = picture.sheet(
    "Same noise, same marginals, different ways", 8.3, (1, 1, 1), (1, 0.85)
)
times = torch.linspace(1, sde.sampling_t_min, 121, dtype=torch.float64)
height = torch.linspace(-2.9, 2.9, 141, dtype=torch.float64)
density = torch.stack([mixture.log_prob(height[:, None], t).exp() for t in times], 1)
levels = torch.linspace(0, 1.1, 13).pow(1.6).tolist()
starts = torch.tensor([-1.8, -1.2, -0.7, -0.4, 0.0, 0.5, 1.0, 1.7], dtype=torch.float64)[:, None]
maps = ode_way(mixture, starts, trajectory=True, progress=False)
draws = sde_way(mixture, starts[[6] * 4], seed=2, trajectory=True, progress=False)
for axes in grid[0][:2]:
    axes.contourf(times, height, density, levels, cmap=picture.TRUE_SHADES, extend="max")
    axes.set(xlabel="time t, from noise to data", ylabel="x", xlim=(1, 0), ylim=(-2.9, 2.9))
    axes.yaxis.label.set_rotation(0)
grid[0][0].plot(maps.times, maps.states[:, :, 0], color=picture.LEARNED, linewidth=1.2)
grid[0][1].plot(draws.times, draws.states[:, :, 0], color=picture.OTHER, linewidth=0.7)
grid[0][1].plot(maps.times, maps.states[:, 6, 0], color=picture.LEARNED, linewidth=2.5)
grid[0][0].set_title("ODE: eight starts keep their order")
grid[0][1].set_title("SDE: one start, four ends")

coupling = grid[0][2]
start = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
x = torch.linspace(-1.9, 1.6, 400, dtype=torch.float64)
share_below = 0.4 * ndtr((x + 1.2) / 0.2) + 0.6 * ndtr((x - 0.8) / 0.2)
picture.truth(coupling, ndtri(share_below), x)
picture.truth(coupling, 4 + 1.6 * mixture.log_prob(x[:, None]).exp(), x)
for name, way, color in (
    ("SDE", sde_way, picture.OTHER), ("ODE", ode_way, picture.LEARNED)
):  # fmt: skip
    end = way(mixture, start, seed=1, progress=False)
    coupling.scatter(start, end, s=2.5, color=color, alpha=0.6, linewidths=0, zorder=3)
    share, edges = torch.histogram(end, 60, range=(-2, 1.7), density=True)
    coupling.stairs(4 + 1.6 * share, edges, baseline=None, orientation="horizontal", color=color)
    along = torch.corrcoef(torch.cat([start, end], 1).T)[0, 1]
    print(f"{name}: mean {end.mean():.3f}, variance {end.var():.3f}, share above 0 "
          f"{(end > 0).double().mean():.3f}, correlation with the start {along:.3f}")  # fmt: skip
picture.name(coupling, "Where each start ends", "start, at t = 1", "end, at t = 0")
coupling.set(xlim=(-4, 6.2), xticks=(-3, 0, 3), ylim=(-2.2, 2.2))

picture.say(coupling, -3.7, 1.75, "ODE: a map", picture.LEARNED)
picture.say(coupling, -3.7, -0.25, "SDE:\na cloud", picture.OTHER)
picture.say(coupling, 4.3, -0.3, "all\nends", picture.TRUTH)

strip = picture.joined(grid[1])
model = digits.train(digits.load()[0], options.steps)
noise = torch.randn(COLUMNS, 1, 8, 8, generator=torch.Generator().manual_seed(0))
way = samplers.create("euler-maruyama", steps=200)
drawn = way(model, noise.repeat(3, 1, 1, 1), seed=0, progress=False)
mapped = samplers.create("heun", steps=20)(model, noise, progress=False)
images = torch.cat([noise / 2, mapped, drawn]).reshape(5, COLUMNS, 1, 8, 8)
colors = (picture.INK, picture.LEARNED, *[picture.OTHER] * 3)
digits.rows(strip, images, ["start", "ODE", "SDE", "SDE", "SDE"], colors)
strip.set_title("Digits: below each start its one end by the ODE, and three ends by the SDE")
picture.save(figure, options.out)
