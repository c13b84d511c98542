"""Log-likelihood: the flow's beside the truth, and bits per dimension of images.

    python examples/log_likelihood.py

Flow and truth differ by the prior, which does not depend on the data as the marginal at `t_max`
does. The empirical distribution is the ideal denoiser of a data set: its samples are the data.
"""

import torch

from sde_score import VP, GaussianMixture, create_sampler, load_data, log_prob, sdes
from sde_score.models import EmpiricalDistribution

print(f"{'SDE':10} {'log p, exact':>14} {'by the ODE':>12} {'evaluations':>12}")
for name in sdes.available():
    mixture = GaussianMixture([[1.5, 0.0], [-1.0, -1.0]], 0.25, sdes.create(name))
    x = mixture.sample(8, generator=torch.Generator().manual_seed(0))
    exact = mixture.log_prob(x, mixture.sde.t_min).mean()
    found = log_prob(mixture, x)
    print(f"{name:10} {exact:14.4f} {found.log_prob.mean():12.4f} {found.nfe:12}")

digits = load_data("digits").tensor()
ideal = EmpiricalDistribution(digits, VP())
x = create_sampler("heun", nfe=35)(ideal, (16, 1, 8, 8), seed=0)
nearest = torch.cdist(x.flatten(1), digits.flatten(1)).min(1).values
print(f"ideal denoiser: samples lie within {nearest.max():.1e} of a training digit")
