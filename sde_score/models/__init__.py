"""What has a score: a trained network, or a law known exactly."""

from sde_score.models.base import BaseModel, Model
from sde_score.models.empirical import EmpiricalDistribution
from sde_score.models.gaussian_mixture import GaussianMixture
from sde_score.models.score_model import PREDICTIONS, ScoreModel

__all__ = [
    "PREDICTIONS",
    "BaseModel",
    "EmpiricalDistribution",
    "GaussianMixture",
    "Model",
    "ScoreModel",
]
