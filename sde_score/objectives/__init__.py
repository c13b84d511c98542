"""Objectives: what is minimized so that a model becomes the score of the data."""

from sde_score._registry import Registry
from sde_score.objectives.base import MarginalObjective, Objective, StatefulObjective
from sde_score.objectives.denoising import DenoisingScoreMatching
from sde_score.objectives.time_samplers import TIME_SAMPLERS, TimeSampler
from sde_score.objectives.weightings import WEIGHTINGS, Weighting

OBJECTIVES: Registry[Objective] = Registry("objective", {"denoising": DenoisingScoreMatching})

available = OBJECTIVES.names
create = OBJECTIVES.create

__all__ = [
    "OBJECTIVES",
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "DenoisingScoreMatching",
    "MarginalObjective",
    "Objective",
    "StatefulObjective",
    "TimeSampler",
    "Weighting",
    "available",
    "create",
]
