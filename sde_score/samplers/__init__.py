"""Samplers: from a model to samples. Another sampler is another string.

A sampler of your own is a class with one method; `samplers.register("mine", Mine)` adds it to all
that lists, compares and benchmarks samplers. Grids, reverse variances, correctors and predictors
are added alike: `samplers.GRIDS.register("mine", MyGrid)`.
"""

from sde_score._core.plugins import READERS
from sde_score.random import Noise
from sde_score.samplers.adaptive.dpm_solver import DPMAdaptive
from sde_score.samplers.adaptive.probability_flow import ProbabilityFlowODE
from sde_score.samplers.adaptive.reverse_sde import AdaptiveSDE
from sde_score.samplers.base import SAMPLERS, Callback, Sampler, SamplerRegistry
from sde_score.samplers.batched import run, sample
from sde_score.samplers.composite.parallel import Parallel
from sde_score.samplers.composite.restart import Repeat, Restart
from sde_score.samplers.fixed_step.auto import Auto, suited
from sde_score.samplers.fixed_step.fitted import Fitted
from sde_score.samplers.fixed_step.flow_map import FlowMapSteps
from sde_score.samplers.fixed_step.multistep import Multistep
from sde_score.samplers.fixed_step.one_step import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Predictor,
    ReverseDiffusion,
    Stay,
)
from sde_score.samplers.fixed_step.runge_kutta import RungeKutta
from sde_score.samplers.fixed_step.singlestep import Singlestep
from sde_score.samplers.grids import (
    GRIDS,
    Angle,
    Grid,
    GridFile,
    Karras,
    LogitNormal,
    NoiseGrid,
    NoiseRatios,
    PolyExponential,
    Polynomial,
    RectifiedTime,
    Times,
    UniformLogSNR,
    UniformTime,
    read_grid_file,
    write_grid_file,
)
from sde_score.samplers.langevin.annealed import AnnealedLangevin
from sde_score.samplers.langevin.corrector import CORRECTORS, Langevin
from sde_score.samplers.langevin.markov_chain import MCMC
from sde_score.samplers.langevin.predictor_corrector import PREDICTORS, PredictorCorrector
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
from sde_score.samplers.problem import Samples, Trajectory
from sde_score.samplers.published import (
    ALIASES,
    FIRST_TIER,
    FOR_FLOW_MAPS,
    METHODS,
    Description,
    Method,
    constructors,
    describe,
)
from sde_score.samplers.tuning.optimise_grid import FoundGrid, optimise_grid
from sde_score.samplers.tuning.stochastic import Ranked, Ranking, rank_stochastic
from sde_score.samplers.tuning.tune import Tuned, tune

SAMPLERS.fill(constructors(Sampler), ALIASES)
SAMPLERS.find_in(READERS, diffusers="SchedulerSampler")
SAMPLERS.find_in(__name__, **{name: m.sampler.__name__ for name, m in FOR_FLOW_MAPS.items()})
SAMPLERS.find_in(__name__, fitted="Fitted")
_steppers = constructors(Predictor, RungeKutta, Multistep)
PREDICTORS.fill(
    {**_steppers, "none": Stay}, {alias: to for alias, to in ALIASES.items() if to in _steppers}
)

SAMPLERS.share(PREDICTORS, Predictor, RungeKutta, Multistep)

available = SAMPLERS.names
create = SAMPLERS.create
register = SAMPLERS.register

__all__ = [
    "CORRECTORS",
    "DDIM",
    "FIRST_TIER",
    "FOR_FLOW_MAPS",
    "GRIDS",
    "MCMC",
    "METHODS",
    "PREDICTORS",
    "SAMPLERS",
    "VARIANCES",
    "AdaptiveSDE",
    "Ancestral",
    "Angle",
    "AnnealedLangevin",
    "Auto",
    "BrownianPath",
    "Callback",
    "DPMAdaptive",
    "Description",
    "EulerMaruyama",
    "Fitted",
    "FlowMapSteps",
    "FoundGrid",
    "Grid",
    "GridFile",
    "InterpolatedVariance",
    "Karras",
    "Langevin",
    "LogitNormal",
    "Method",
    "Multistep",
    "Noise",
    "NoiseGrid",
    "NoiseRatios",
    "OptimalVariance",
    "Parallel",
    "PolyExponential",
    "Polynomial",
    "PosteriorVariance",
    "Predictor",
    "PredictorCorrector",
    "ProbabilityFlowODE",
    "Ranked",
    "Ranking",
    "RectifiedTime",
    "Repeat",
    "Restart",
    "ReverseDiffusion",
    "ReverseVariance",
    "RungeKutta",
    "Sampler",
    "SamplerRegistry",
    "Samples",
    "Singlestep",
    "Times",
    "Trajectory",
    "TransitionVariance",
    "Tuned",
    "UniformLogSNR",
    "UniformTime",
    "annealed_variance",
    "available",
    "choose_step_ratio",
    "choose_steps_each",
    "create",
    "describe",
    "interpolated_std",
    "optimise_grid",
    "posterior_coefficients",
    "rank_stochastic",
    "read_grid_file",
    "register",
    "run",
    "sample",
    "suited",
    "tune",
    "write_grid_file",
]
