"""NCSN against the SDE: one model, read as noise scales and as a diffusion, at equal budgets.

python examples/ncsn_vs_sde.py
"""

import argparse

import torch

from sde_score import VE, GaussianMixture, NoiseScales, create_sampler
from sde_score.evaluation import sliced_wasserstein2

options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
options.add_argument("--count", type=int, default=2000, help="samples")
count = options.parse_args().count

model = GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], 0.05, VE(0.01, 20.0))  # or load_run(...).model
truth = model.sample(count, generator=torch.Generator().manual_seed(0))

for nfe in (20, 100, 500):
    scales = NoiseScales.from_sde(model.sde, nfe // 5)
    x = scales.sampler(steps_each=5)(model, (count, 2), seed=0, progress=False)
    ncsn = sliced_wasserstein2(x, truth)
    x = create_sampler("reverse-diffusion", nfe=nfe)(model, (count, 2), seed=0, progress=False)
    print(f"{nfe:4} evaluations: NCSN {ncsn:.3f}, reverse SDE {sliced_wasserstein2(x, truth):.3f}")
