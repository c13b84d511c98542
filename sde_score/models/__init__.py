"""What has a score: a trained network, or a law known exactly."""

from sde_score.models.base import BaseEnergy, BaseModel, EnergyBased, Model
from sde_score.models.density import Density, Marginal
from sde_score.models.empirical import EmpiricalDistribution
from sde_score.models.energy_model import HEADS, EnergyModel
from sde_score.models.functions import EnergyFunction, ScoreFunction
from sde_score.models.gaussian_mixture import GaussianMixture
from sde_score.models.preconditioning import PREDICTIONS
from sde_score.models.score_model import ScoreModel

__all__ = [
    "HEADS",
    "PREDICTIONS",
    "BaseEnergy",
    "BaseModel",
    "Density",
    "EmpiricalDistribution",
    "EnergyBased",
    "EnergyFunction",
    "EnergyModel",
    "GaussianMixture",
    "Marginal",
    "Model",
    "ScoreFunction",
    "ScoreModel",
]
