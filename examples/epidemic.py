"""A stochastic simulator: the rates of an epidemic from daily counts, with a check of calibration.

python examples/epidemic.py
"""

import argparse
from pathlib import Path

import torch

from sde_score import TrainConfig, train
from sde_score.evaluation import calibrate, predictive
from sde_score.posterior import simulation
from sde_score.report import calibration_figure, predictive_table

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--steps", type=int, default=3000)
options.add_argument("--out", type=Path, default=Path("runs/epidemic"))
options = options.parse_args()


def simulator(theta, generator):
    """log(1 + infected) of 1000 people every fifth day; people fall ill and recover by chance."""
    well, ill, seen = torch.full_like(theta[:, 0], 990), torch.full_like(theta[:, 0], 10), []
    for day in range(40):
        new = torch.binomial(well, 1 - torch.exp(-theta[:, 0] * ill / 1000), generator)
        over = torch.binomial(ill, 1 - torch.exp(-theta[:, 1]), generator)
        well, ill = well - new, ill + new - over
        seen += [ill] if day % 5 == 4 else []
    return torch.log1p(torch.stack(seen, 1))


box, names = simulation.Box([0.1, 0.02], [1.0, 0.5]), ("contact", "recovery")
pairs = simulation.pairs(box, simulator, 10_000, names=names)
config = TrainConfig(conditional=True, backbone="mlp(width=128, depth=2)", steps=options.steps)
run = train(config, options.out, data=pairs)
y = simulator(torch.tensor([[0.5, 0.1]]), torch.Generator().manual_seed(0))
found = simulation.ParameterPosterior(run.model, (2,), run.condition_of(y), run.scaling, box)
print("most probable:", found.map(starts=16)[0].tolist(), "truth: [0.5, 0.1]")
again = predictive(y[0], simulator(found.sample(300), torch.Generator().manual_seed(1)))
print(*predictive_table(again).rows, sep="\n")
calibration_figure(calibrate(run, 300)).savefig(options.out / "calibration.png")
