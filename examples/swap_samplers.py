"""One model, every sampler at one budget: swapping is changing a string.

    python examples/swap_samplers.py

The model is a mixture of two Gaussians, whose score is exact: results differ by the sampler alone.
"""

import argparse

import torch

from sde_score import VP, GaussianMixture, samplers
from sde_score.evaluation import sliced_wasserstein2

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--count", type=int, default=2000, help="samples per sampler")
options.add_argument("--nfe", type=int, default=20, help="network evaluations per sample")
options = options.parse_args()

model = GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], 0.05, VP(), weights=[0.7, 0.3])
truth = model.sample(2 * options.count, generator=torch.Generator().manual_seed(0))

print(f"{'sampler':20} {'NFE':>5} {'sliced W2':>10}")
for name in samplers.available():
    try:
        sampler = samplers.create(name, nfe=options.nfe)
    except ValueError:  # adaptive, or too few evaluations for one step
        sampler = samplers.create(name)
    before = model.nfe
    x = sampler(model, (options.count, 2), seed=0, progress=False)
    distance = sliced_wasserstein2(x, truth[: options.count])
    print(f"{name:20} {model.nfe - before:5} {distance:10.4f}")
floor = sliced_wasserstein2(truth[options.count :], truth[: options.count])
print(f"{'truth against truth':20} {'':5} {floor:10.4f}")
