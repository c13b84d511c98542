"""Samplers: how a model becomes samples. Swapping one is changing a string."""

from sde_score._registry import Registry
from sde_score.samplers.adaptive_sde import AdaptiveSDE
from sde_score.samplers.base import Callback, Noise, Sampler, Trajectory
from sde_score.samplers.brownian import BrownianPath
from sde_score.samplers.correctors import Langevin
from sde_score.samplers.dpm_adaptive import DPMAdaptive
from sde_score.samplers.grid_files import GridFile, read_grid_file, write_grid_file
from sde_score.samplers.grids import (
    GRIDS,
    Angle,
    Grid,
    Karras,
    LogitNormal,
    NoiseGrid,
    NoiseRatios,
    Polynomial,
    RectifiedTime,
    Times,
    UniformLogSNR,
    UniformTime,
)
from sde_score.samplers.guide import GUIDE, Advice
from sde_score.samplers.many import sample_many
from sde_score.samplers.mcmc.sampler import MCMC
from sde_score.samplers.multistep import ROWS, Multistep
from sde_score.samplers.ode import ProbabilityFlowODE
from sde_score.samplers.optimise_grid import FoundGrid, optimise_grid
from sde_score.samplers.parallel import Parallel
from sde_score.samplers.predictor_corrector import (
    CORRECTORS,
    PREDICTORS,
    AnnealedLangevin,
    PredictorCorrector,
)
from sde_score.samplers.predictors import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ReverseDiffusion,
)
from sde_score.samplers.restart import Repeat, Restart
from sde_score.samplers.runge_kutta import RUNGE_KUTTA_ROWS, Heun, RungeKutta
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
        **RUNGE_KUTTA_ROWS,
        "runge-kutta": RungeKutta,
        **ROWS,
        "multistep": Multistep,
        "ode": ProbabilityFlowODE,
        "dpm-adaptive": DPMAdaptive,
        "adaptive-sde": AdaptiveSDE,
        "restart": Restart,
        "parallel": Parallel,
        "pc": PredictorCorrector,
        "annealed-langevin": AnnealedLangevin,
        "mcmc": MCMC,
    },
)

available = SAMPLERS.names
create = SAMPLERS.create

__all__ = [
    "CORRECTORS",
    "DDIM",
    "GRIDS",
    "GUIDE",
    "MCMC",
    "PREDICTORS",
    "SAMPLERS",
    "VARIANCES",
    "AdaptiveSDE",
    "Advice",
    "Ancestral",
    "Angle",
    "AnnealedLangevin",
    "BrownianPath",
    "Callback",
    "DPMAdaptive",
    "EulerMaruyama",
    "FoundGrid",
    "Grid",
    "GridFile",
    "Heun",
    "InterpolatedVariance",
    "Karras",
    "Langevin",
    "LogitNormal",
    "Multistep",
    "Noise",
    "NoiseGrid",
    "NoiseRatios",
    "OptimalVariance",
    "Parallel",
    "Polynomial",
    "PosteriorVariance",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "RectifiedTime",
    "Repeat",
    "Restart",
    "ReverseDiffusion",
    "RungeKutta",
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
    "optimise_grid",
    "posterior_coefficients",
    "read_grid_file",
    "sample_many",
    "write_grid_file",
]
