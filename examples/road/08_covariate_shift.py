"""Covariate shift: sampling begins where there are no data, so that nothing was learned there.

    python examples/road/08_covariate_shift.py

Every form of score matching weighs its error by the density of the data,

    E_p | s - grad log p |^2 = integral of p(x) |s(x) - grad log p(x)|^2 dx,

so that the score is free where p is next to zero. A sampler starts there: it asks the network about
places that it never saw. Statisticians call it covariate shift.
"""

import picture
import torch

from sde_score import nn, objectives
from sde_score.models import TARGETS, Marginal, ScoreModel
from sde_score.sdes import VE

LIMIT = 8.0

options = picture.arguments(__file__, __doc__, steps=1500)
target = TARGETS.create("mixture")
generator = torch.Generator().manual_seed(0)
data = target.sample(1000, generator).float()

torch.manual_seed(0)
backbone = nn.create("mlp(width=64, depth=1)", event_shape=(2,))
model = ScoreModel(backbone, VE(0.01, 10), "scaled_score", sigma_data=2.0)
objective = objectives.create("implicit")
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for _ in range(options.steps):
    batch = data[torch.randint(len(data), (256,), generator=generator)]
    optimizer.zero_grad()
    objective(model, batch, generator=generator).mean().backward()
    optimizer.step()
learned = Marginal(model)


@torch.no_grad()
def error(x):
    """|learned - true| at points `(n, 2)`."""
    return (learned.score(x.float()) - target.score(x)).norm(dim=1)


figure, (where, amount, field) = picture.sheet(
    "The score is learned where the data are, and samplers start elsewhere", widths=(1, 1.15, 1)
)
shades = picture.shade(where, error, picture.ERROR_SHADES, limit=LIMIT, top=8.0)
picture.dots(where, data, picture.TRUTH, size=4, alpha=0.7)
picture.plane(where, LIMIT, step=4)
picture.say(where, 0.04, 0.92, "blue: the data", picture.TRUTH, inside=True)
figure.colorbar(shades, ax=where, ticks=[0, 2, 4, 6, 8], shrink=0.8, label="|learned − true score|")
where.set_title("Error of the learned score")

_, _, points = picture.lattice(LIMIT, 161)
density, wrong = target.log_prob(points) / torch.log(torch.tensor(10.0)), error(points)
edges = torch.arange(-14.0, -0.5, 1.0)
rows = [wrong[(density >= a) & (density < a + 1)] for a in edges]
medians, low, high = ([float(r.quantile(q)) for r in rows] for q in (0.5, 0.25, 0.75))
middles = (edges + 0.5).tolist()
amount.fill_between(middles, low, high, color=picture.LEARNED, alpha=0.2, linewidth=0)
picture.learned(amount, middles, medians, marker="o", markersize=4)
amount.set(xlabel="density of the data, $\\log_{10}\\,p(x)$", ylabel="|learned − true score|")
amount.set(ylim=(0, None), xlim=(-14, 0))
picture.say(amount, 0.05, 0.08, "line: median\nband: middle half", picture.LEARNED, inside=True)
amount.set_title("The fewer data, the larger the error")

picture.arrows(field, target.score, limit=LIMIT, broad=True)
picture.arrows(field, lambda x: learned.score(x.float()), picture.LEARNED, limit=LIMIT)
picture.plane(field, LIMIT, step=4)
field.set_title("Learned (thin) over the truth")
with torch.no_grad():
    at_data = float(error(target.sample(5000, generator)).square().mean().sqrt())
    afar = float(error(7.5 * torch.nn.functional.normalize(points)).square().mean().sqrt())
print(f"root mean square error: {at_data:.2f} at the data, {afar:.2f} on a circle of radius 7.5")
picture.save(figure, options.out)
