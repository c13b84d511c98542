"""Models: a score, from a trained network or of a distribution that is known exactly."""

from sde_score.models import exact as targets
from sde_score.models.base import BaseEnergy, BaseModel, KnownDensity, normal_tensor
from sde_score.models.calling import Caller, accepts
from sde_score.models.composed_energies import EnergyMixture, EnergySum
from sde_score.models.density import Density, Marginal
from sde_score.models.derivatives.derivative_check import check_differentiable
from sde_score.models.derivatives.divergence import (
    DIVERGENCE_METHODS,
    asymmetry,
    divergence,
    require_forward_mode,
    value_and_divergence,
)
from sde_score.models.derivatives.jacobian import (
    DERIVATIVE_MODES,
    gradient_of,
    hessian_vector,
    jacobian,
    jacobian_vector,
    quadratic_forms,
    unit_vectors,
    value_and_forms,
    value_and_point,
    vector_jacobian,
)
from sde_score.models.energy_classifier import EnergyClassifier
from sde_score.models.energy_model import HEADS, EnergyModel
from sde_score.models.exact import (
    TARGETS,
    Diffused,
    DoubleWell,
    Exponential,
    Funnel,
    Gaussian,
    Mixture,
    Product,
    Quartic,
    Ring,
    Rosenbrock,
    Target,
)
from sde_score.models.exact.boltzmann import RestrictedBoltzmann
from sde_score.models.exact.discrete import DiscreteTarget, IndependentSites
from sde_score.models.exact.empirical import EmpiricalDistribution
from sde_score.models.exact.gaussian_flow import GaussianFlowMap
from sde_score.models.exact.gaussian_mixture import GaussianMixture
from sde_score.models.exact.lattice import Ising, Potts
from sde_score.models.flow_map import BaseFlowMap, FlowMap, FlowMapModel, chord
from sde_score.models.functions import EnergyFunction, ScoreFunction
from sde_score.models.inputs import (
    as_batch,
    as_condition,
    checked_inputs,
    require_model,
    require_units,
)
from sde_score.models.log_det import LogDetFlowMap, LogDetModel, angle_rate, stretch_clock
from sde_score.models.parametrization import Parametrization, Scales
from sde_score.models.protocol import EnergyBased, Model
from sde_score.models.rows import PARAMETRIZATIONS
from sde_score.models.score_model import ScoreModel
from sde_score.models.sites import Sites, sites_of
from sde_score.models.wrapped import SeveralModels, WrappedDenoiser, stand_in

__all__ = [
    "DERIVATIVE_MODES",
    "DIVERGENCE_METHODS",
    "HEADS",
    "PARAMETRIZATIONS",
    "TARGETS",
    "BaseEnergy",
    "BaseFlowMap",
    "BaseModel",
    "Caller",
    "Density",
    "Diffused",
    "DiscreteTarget",
    "DoubleWell",
    "EmpiricalDistribution",
    "EnergyBased",
    "EnergyClassifier",
    "EnergyFunction",
    "EnergyMixture",
    "EnergyModel",
    "EnergySum",
    "Exponential",
    "FlowMap",
    "FlowMapModel",
    "Funnel",
    "Gaussian",
    "GaussianFlowMap",
    "GaussianMixture",
    "IndependentSites",
    "Ising",
    "KnownDensity",
    "LogDetFlowMap",
    "LogDetModel",
    "Marginal",
    "Mixture",
    "Model",
    "Parametrization",
    "Potts",
    "Product",
    "Quartic",
    "RestrictedBoltzmann",
    "Ring",
    "Rosenbrock",
    "Scales",
    "ScoreFunction",
    "ScoreModel",
    "SeveralModels",
    "Sites",
    "Target",
    "WrappedDenoiser",
    "accepts",
    "angle_rate",
    "as_batch",
    "as_condition",
    "asymmetry",
    "check_differentiable",
    "checked_inputs",
    "chord",
    "divergence",
    "gradient_of",
    "hessian_vector",
    "jacobian",
    "jacobian_vector",
    "normal_tensor",
    "quadratic_forms",
    "require_forward_mode",
    "require_model",
    "require_units",
    "sites_of",
    "stand_in",
    "stretch_clock",
    "targets",
    "unit_vectors",
    "value_and_divergence",
    "value_and_forms",
    "value_and_point",
    "vector_jacobian",
]
