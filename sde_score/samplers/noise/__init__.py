"""The noise that a sampler adds: Brownian paths, stochasticity, reverse variances."""

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
from sde_score.samplers.noise.stochasticity import ETA_SCHEDULES, EtaSchedule, eta_schedule

__all__ = [
    "ETA_SCHEDULES",
    "VARIANCES",
    "BrownianPath",
    "EtaSchedule",
    "InterpolatedVariance",
    "OptimalVariance",
    "PosteriorVariance",
    "ReverseVariance",
    "TransitionVariance",
    "eta_schedule",
    "interpolated_std",
    "posterior_coefficients",
]
