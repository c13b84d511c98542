"""Samplers: how a model becomes samples. Swapping one is changing a string."""

from sde_score._core.registry import Registry
from sde_score.random import Noise
from sde_score.samplers.adaptive.dpm_solver import DPMAdaptive
from sde_score.samplers.adaptive.probability_flow import ProbabilityFlowODE
from sde_score.samplers.adaptive.reverse_sde import AdaptiveSDE
from sde_score.samplers.base import Callback, Sampler, Trajectory
from sde_score.samplers.batched import sample
from sde_score.samplers.composite.parallel import Parallel
from sde_score.samplers.composite.restart import Repeat, Restart
from sde_score.samplers.fixed_step.multistep import ROWS, Multistep
from sde_score.samplers.fixed_step.one_step import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ReverseDiffusion,
)
from sde_score.samplers.fixed_step.runge_kutta import RUNGE_KUTTA_ROWS, Heun, RungeKutta
from sde_score.samplers.grids import (
    GRIDS,
    Angle,
    Grid,
    GridFile,
    Karras,
    LogitNormal,
    NoiseGrid,
    NoiseRatios,
    Polynomial,
    RectifiedTime,
    Times,
    UniformLogSNR,
    UniformTime,
    read_grid_file,
    write_grid_file,
)
from sde_score.samplers.guide import GUIDE, Advice
from sde_score.samplers.langevin.corrector import Langevin
from sde_score.samplers.langevin.markov_chain import MCMC
from sde_score.samplers.langevin.predictor_corrector import (
    CORRECTORS,
    PREDICTORS,
    AnnealedLangevin,
    PredictorCorrector,
)
from sde_score.samplers.langevin.step_sizes import (
    annealed_variance,
    choose_step_ratio,
    choose_steps_each,
)
from sde_score.samplers.noise.brownian import BrownianPath
from sde_score.samplers.noise.reverse_variance import (
    VARIANCES,
    InterpolatedVariance,
    OptimalVariance,
    PosteriorVariance,
    ReverseVariance,
    TransitionVariance,
    interpolated_std,
    posterior_coefficients,
)
from sde_score.samplers.tuning.optimise_grid import FoundGrid, optimise_grid

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
    "ReverseVariance",
    "RungeKutta",
    "Sampler",
    "Times",
    "Trajectory",
    "TransitionVariance",
    "UniformLogSNR",
    "UniformTime",
    "annealed_variance",
    "available",
    "choose_step_ratio",
    "choose_steps_each",
    "create",
    "interpolated_std",
    "optimise_grid",
    "posterior_coefficients",
    "read_grid_file",
    "sample",
    "write_grid_file",
]
