"""Samplers: how a model becomes samples. Swapping one is changing a string."""

from sde_score._registry import Registry
from sde_score.samplers.base import Callback, Noise, Sampler, Trajectory
from sde_score.samplers.correctors import Langevin
from sde_score.samplers.grids import GRIDS, Grid, Karras, Times, UniformLogSNR, UniformTime
from sde_score.samplers.heun import Heun
from sde_score.samplers.many import sample_many
from sde_score.samplers.mcmc.sampler import MCMC
from sde_score.samplers.multistep import ROWS, Multistep
from sde_score.samplers.ode import ProbabilityFlowODE
from sde_score.samplers.predictor_corrector import (
    CORRECTORS,
    AnnealedLangevin,
    PredictorCorrector,
)
from sde_score.samplers.predictors import (
    DDIM,
    PREDICTORS,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ReverseDiffusion,
)
from sde_score.samplers.variances import (
    VARIANCES,
    InterpolatedVariance,
    OptimalVariance,
    PosteriorVariance,
    TransitionVariance,
    Variance,
    as_variance,
    interpolated_std,
    posterior_coefficients,
)

SAMPLERS: Registry[Sampler] = Registry(
    "sampler",
    {
        "euler-maruyama": EulerMaruyama,
        "reverse-diffusion": ReverseDiffusion,
        "ancestral": Ancestral,
        "ddim": DDIM,
        "heun": Heun,
        "ode": ProbabilityFlowODE,
        "pc": PredictorCorrector,
        "annealed-langevin": AnnealedLangevin,
        "mcmc": MCMC,
        "multistep": Multistep,
        **ROWS,
    },
)

available = SAMPLERS.names
create = SAMPLERS.create

__all__ = [
    "CORRECTORS",
    "DDIM",
    "GRIDS",
    "MCMC",
    "PREDICTORS",
    "SAMPLERS",
    "VARIANCES",
    "Ancestral",
    "AnnealedLangevin",
    "Callback",
    "EulerMaruyama",
    "Grid",
    "Heun",
    "InterpolatedVariance",
    "Karras",
    "Langevin",
    "Multistep",
    "Noise",
    "OptimalVariance",
    "PosteriorVariance",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "ReverseDiffusion",
    "Sampler",
    "Times",
    "Trajectory",
    "TransitionVariance",
    "UniformLogSNR",
    "UniformTime",
    "Variance",
    "as_variance",
    "available",
    "create",
    "interpolated_std",
    "posterior_coefficients",
    "sample_many",
]
