"""A flow map: the end of the probability flow, by one evaluation.

    python examples/road/18_flow_map.py

The ODE carries a state x at time t to a state at time r. The map X(x, t, r) that does so is learned
by an identity that it alone satisfies: where it ends, it moves with the velocity that is there,

    d/dr X(x, t, r) = v(X(x, t, r), r),   X(x, t, t) = x,

the Lagrangian one. A step of a solver goes straight along the first velocity, which at the noisiest
time points to the mean of the data; the map goes around the bend at once.
"""

import picture
import torch

from sde_score import nn, objectives, samplers
from sde_score.models import FlowMap, GaussianMixture
from sde_score.sdes import EDM

options = picture.arguments(__file__, __doc__, steps=1500)
sde = EDM(0.01, 10.0)
teacher = GaussianMixture([[-1.0], [0.8]], 0.02, sde, weights=[0.4, 0.6])
torch.manual_seed(0)
network = nn.tell_end(nn.create("mlp(width=64, depth=2)", event_shape=(1,)))
model = FlowMap(network, sde, "edm", sigma_data=1.0)
objective = objectives.create("lagrangian", teacher=teacher)
generator = torch.Generator().manual_seed(0)
adam = torch.optim.Adam(model.parameters(), lr=2e-3)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, options.steps)
for step in range(options.steps):
    x0 = teacher.sample(256, generator=generator).float()
    adam.zero_grad()
    objective.at_step(step)(model, x0, generator=generator).mean().backward()
    adam.step()
    decay.step()

start = 10 * torch.linspace(-2, 2, 401, dtype=torch.float64)[:, None]
fine = samplers.create("heun", steps=200)
runs = fine(teacher, start[20::40], trajectory=True, progress=False)
exact = fine(teacher, start, progress=False)[:, 0]


weight = torch.exp(-0.5 * (start[:, 0] / 10) ** 2)
border = start[
    exact.diff().argmax(), 0
]  # starts to its left go to one mode, to its right to the other
away = (start[:, 0] - border).abs() > 1


def ends(name, steps, model):
    """Where the starts go by a method in some steps, and the root of the mean squared error, of all
    and of those away from the border between the modes."""
    x = samplers.create(name, steps=steps)(model, start.to(torch.float32), progress=False)
    x = x.detach().double()[:, 0]
    square = weight * (x - exact) ** 2
    return x, [float((square[of].sum() / weight[of].sum()) ** 0.5) for of in (weight > 0, away)]


figure, (paths, ends_of, errors) = picture.sheet(
    "A flow map learns where the flow ends, and goes there at once", widths=(1.15, 1, 1)
)
picture.truth(paths, runs.times, runs.states[:, :, 0], linewidth=2.5)
with torch.no_grad():
    for x in start[20::40]:
        end = model(x[None].float(), sde.t_max, sde.t_min)[0]
        picture.learned(paths, [sde.t_max, sde.t_min], [x, end], linewidth=0.9, dashes=(4, 3))
paths.set_xscale("log")
picture.name(paths, "The flow, and one step of the map", "noise σ", "x", xlim=(10, 0.01))
picture.truth(ends_of, start[:, 0], exact)
picture.other(ends_of, start[:, 0], ends("ddim", 1, teacher)[0])
picture.learned(ends_of, start[:, 0], ends("flow-map", 1, model)[0])
picture.say(ends_of, 0, -0.5, "broad: the flow", picture.TRUTH)
picture.say(ends_of, 0, -0.7, "one step of the map", picture.LEARNED)
picture.say(ends_of, 0, -0.9, "one step of Euler", picture.OTHER)
picture.name(ends_of, "From noise to data by one evaluation", "start", "end")
counts = (1, 2, 4, 8, 16, 32)
for draw, name, of in ((picture.other, "ddim", teacher), (picture.learned, "flow-map", model)):
    wrong = [ends(name, n, of)[1] for n in counts]
    for place, dashes in enumerate(((), (3, 2))):
        draw(errors, counts, [error[place] for error in wrong], marker="o", dashes=dashes)
    for n, (everywhere, apart) in zip(counts, wrong, strict=True):
        print(f"{name:8} {n:2} evaluations: {everywhere:.3f}, away from the border {apart:.4f}")
picture.name(errors, "Error of the end", "evaluations", "root mean square", **picture.LOGARITHMIC)
errors.set_xticks(counts, [str(n) for n in counts], minor=False)
errors.set_yticks([0.01, 0.03, 0.1, 0.3, 1], ["0.01", "0.03", "0.1", "0.3", "1"], minor=False)
errors.minorticks_off()
picture.say(errors, 4, 0.5, "Euler, exact score", picture.OTHER)
picture.say(errors, 1, 0.08, "the map,\nlearned", picture.LEARNED)
errors.set_ylim(bottom=0.0014)
picture.say(errors, 1, 0.0018, "dashed: starts away\nfrom the border")
picture.save(figure, options.out)
