"""One model, every sampler: swapping is changing a string.

    python examples/swap_samplers.py

The model is a mixture of two Gaussians, whose score is exact, so what differs is the sampler alone:
its network evaluations, and the distance of its samples from the truth beside what the truth scores
against itself.
"""

import argparse

import torch

from sde_score import samplers
from sde_score.evaluation import distances
from sde_score.models import GaussianMixture
from sde_score.sdes import VP

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--count", type=int, default=2000, help="samples per sampler")
parser.add_argument("--steps", type=int, default=50, help="steps of each sampler")
options = parser.parse_args()

model = GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], 0.05, VP(), weights=[0.7, 0.3])
generator = torch.Generator().manual_seed(0)
truth, train = model.sample(2 * options.count, generator=generator).chunk(2)

print(f"{'sampler':20} {'NFE':>5} {'sliced W2':>10}")
for name in samplers.available():
    sampler = samplers.create(name, steps=options.steps)
    before = model.nfe
    x = sampler(model, (options.count, 2), seed=0)
    found, floor = distances(x, truth, ["sliced-wasserstein2"], train=train)["sliced-wasserstein2"]
    print(f"{name:20} {model.nfe - before:5} {found.value:10.4f} ± {found.margin:.4f}")
print(f"{'truth against truth':20} {'':5} {floor.value:10.4f} ± {floor.margin:.4f}")
