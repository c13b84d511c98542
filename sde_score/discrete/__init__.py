r"""The two discrete views of a diffusion: noise scales (NCSN) and the hierarchical VAE (DDPM).

Both are an SDE at n times; neither holds anything of a network, so a model trained in one view is
read in the other, and in continuous time.

- `NoiseScales`: the marginals alone. Noise levels sigma_1 > ... > sigma_n around the data (of
  x_t / alpha, on any SDE), whose scores annealed Langevin dynamics follows from the first down.
- `HierarchicalVAE`: the joint distribution too. Layers x_1 ... x_n joined by the exact kernels of
  the SDE, every conditional normal; an evidence lower bound layer by layer, ancestral sampling.

================  ==========================================  =================================
view              multi-noise (NCSN, SMLD)                    hierarchical VAE (DDPM)
================  ==========================================  =================================
SDE it is part of VE; any other through x_t / alpha           VP; any other linear Gaussian one
n numbers         sigma_i = sigma(t_i) / alpha(t_i)           1 - beta_i = (alpha_i / alpha_{i-1})^2
from numbers      `NoiseScales(sigmas)`                       `HierarchicalVAE.from_betas(betas)`
from an SDE       `NoiseScales.from_sde(sde, n)`              `HierarchicalVAE.from_sde(sde, n)`
a step down       Langevin within p(x_i), then the next level x_{i-1} ~ p(x_{i-1} | x_i)
trained by        sum of sigma_i^2 |score + noise/sigma_i|^2  ELBO, or sum of |noise - predicted|^2
n -> infinity     VE SDE, Langevin to convergence             VP SDE, its reverse and its bound
================  ==========================================  =================================
"""

from sde_score.discrete.ddpm.analytic_variance import optimal_variances
from sde_score.discrete.ddpm.decoder import Decoder
from sde_score.discrete.ddpm.elbo_table import ELBO, Term
from sde_score.discrete.ddpm.encoder import Encoder
from sde_score.discrete.ddpm.hierarchical_vae import HierarchicalVAE
from sde_score.discrete.ncsn.design import LadderDesign, design
from sde_score.discrete.ncsn.design_rules import (
    DesignChoice,
    count_scales,
    langevin_size,
    langevin_steps,
    largest_scale,
    level_overlap,
    scale_ratio,
    smallest_scale,
    variance_after_level,
)
from sde_score.discrete.ncsn.noise_scales import NoiseScales, NoiseScalesGrid
from sde_score.sdes.chains import cosine_betas, linear_betas

__all__ = [
    "ELBO",
    "Decoder",
    "DesignChoice",
    "Encoder",
    "HierarchicalVAE",
    "LadderDesign",
    "NoiseScales",
    "NoiseScalesGrid",
    "Term",
    "cosine_betas",
    "count_scales",
    "design",
    "langevin_size",
    "langevin_steps",
    "largest_scale",
    "level_overlap",
    "linear_betas",
    "optimal_variances",
    "scale_ratio",
    "smallest_scale",
    "variance_after_level",
]
