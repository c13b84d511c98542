"""Models whose score is known: the ground truth behind the tests, and the best a network can do.

    python examples/exact_models.py

A Gaussian mixture knows its density at every noise level, so the likelihood by the probability-flow
ODE can be held against it; what is left between them is the prior, which stands for the law at
t_max without knowing the data. The empirical distribution is the ideal denoiser of a data set:
sampled, it gives the data back.
"""

import torch

from sde_score import data, likelihood, samplers
from sde_score.models import EmpiricalDistribution, GaussianMixture
from sde_score.sdes import SDES, VP

generator = torch.Generator().manual_seed(0)
print(f"{'SDE':10} {'log p, exact':>14} {'by the ODE':>12} {'evaluations':>12}")
for name in SDES:
    mixture = GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], 0.25, SDES.create(name))
    x = mixture.sample(8, generator=generator)
    exact = mixture.log_prob(x, mixture.sde.t_min).mean()
    found = likelihood.log_prob(mixture, x)
    print(f"{name:10} {exact:14.4f} {found.log_prob.mean():12.4f} {found.nfe:12}")

digits = data.load("digits").tensor()
ideal = EmpiricalDistribution(digits, VP())
x = samplers.create("heun", steps=18)(ideal, (16, 1, 8, 8), seed=0)
nearest = torch.cdist(x.flatten(1), digits.flatten(1)).min(1).values
print(f"ideal denoiser: samples lie within {nearest.max():.1e} of a training digit")
