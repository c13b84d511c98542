"""Objectives: losses whose minimum is a model with the score, or the energy, of the data.

`register("mine", Mine)` adds an objective of your own: a subclass of `BaseObjective` with
`losses_of`, or anything else with the contract `Objective`. `TIME_SAMPLERS.register` and
`WEIGHTINGS.register` add time samplers and weightings; a weighting is any function of (sde, t).
`TIMES_OF_SDE[MySDE] = "log_normal"` says what `auto` means for an SDE of your own.
"""

from sde_score.objectives.base import (
    OBJECTIVES,
    BaseObjective,
    MarginalObjective,
    Objective,
    StatefulObjective,
)
from sde_score.objectives.energy.contrastive_divergence import (
    ContrastiveDivergence,
    PersistentContrastiveDivergence,
)
from sde_score.objectives.energy.energy_discrepancy import EnergyDiscrepancy
from sde_score.objectives.energy.joint_energy import JointEnergy
from sde_score.objectives.energy.noise_contrastive import NoiseContrastive
from sde_score.objectives.energy.recovery import RecoveryLikelihood
from sde_score.objectives.energy.replay_buffer import ReplayBuffer
from sde_score.objectives.flow_map.base import FlowMapObjective
from sde_score.objectives.flow_map.continuous import ContinuousConsistency
from sde_score.objectives.flow_map.identities import Consistency, Lagrangian, MeanFlow, Semigroup
from sde_score.objectives.flow_map.log_det import LogDet
from sde_score.objectives.flow_map.reflow import Reflow
from sde_score.objectives.score_matching.denoising import DenoisingScoreMatching
from sde_score.objectives.score_matching.denoising_adaptive import AdaptiveDenoising
from sde_score.objectives.score_matching.denoising_control import DenoisingControl
from sde_score.objectives.score_matching.denoising_resampled import ResampledDenoising
from sde_score.objectives.score_matching.explicit import ExplicitScoreMatching
from sde_score.objectives.score_matching.finite_difference import FiniteDifferenceScoreMatching
from sde_score.objectives.score_matching.generalized import DOMAIN_WEIGHTS, GeneralizedScoreMatching
from sde_score.objectives.score_matching.implicit import (
    HutchinsonScoreMatching,
    ImplicitScoreMatching,
)
from sde_score.objectives.score_matching.regularized import RegularizedScoreMatching
from sde_score.objectives.score_matching.sliced import SlicedScoreMatching
from sde_score.objectives.score_matching.stein import (
    STEIN_KERNELS,
    SteinDiscrepancy,
    SteinTest,
    stein_test,
)
from sde_score.objectives.score_matching.target_score import TargetScoreMatching
from sde_score.objectives.time_samplers import (
    TIME_SAMPLERS,
    TIMES_OF_SDE,
    TimeSampler,
    times_of,
)
from sde_score.objectives.weightings import WEIGHTINGS, Weighting

OBJECTIVES.fill(
    {
        "explicit": ExplicitScoreMatching,
        "target-score": TargetScoreMatching,
        "implicit": ImplicitScoreMatching,
        "hutchinson": HutchinsonScoreMatching,
        "sliced": SlicedScoreMatching,
        "finite-difference": FiniteDifferenceScoreMatching,
        "regularized": RegularizedScoreMatching,
        "generalized": GeneralizedScoreMatching,
        "denoising": DenoisingScoreMatching,
        "denoising-control": DenoisingControl,
        "denoising-adaptive": AdaptiveDenoising,
        "denoising-resampled": ResampledDenoising,
        "contrastive-divergence": ContrastiveDivergence,
        "persistent": PersistentContrastiveDivergence,
        "recovery": RecoveryLikelihood,
        "noise-contrastive": NoiseContrastive,
        "energy-discrepancy": EnergyDiscrepancy,
        "joint-energy": JointEnergy,
        "stein-discrepancy": SteinDiscrepancy,
        "mean-flow": MeanFlow,
        "lagrangian": Lagrangian,
        "semigroup": Semigroup,
        "consistency": Consistency,
        "scm": ContinuousConsistency,
        "reflow": Reflow,
    },
    aliases={
        "dsm": "denoising",
        "esm": "explicit",
        "ism": "implicit",
        "ssm": "sliced",
        "ssm-vr": "hutchinson",
        "fd-ssm": "finite-difference",
        "tsm": "target-score",
        "gsm": "generalized",
        "cd": "contrastive-divergence",
        "pcd": "persistent",
        "nce": "noise-contrastive",
        "jem": "joint-energy",
        "ksd": "stein-discrepancy",
        "shortcut": "semigroup",
        "ect": "consistency",
    },
)

available = OBJECTIVES.names
create = OBJECTIVES.create
register = OBJECTIVES.register

__all__ = [
    "DOMAIN_WEIGHTS",
    "OBJECTIVES",
    "STEIN_KERNELS",
    "TIMES_OF_SDE",
    "TIME_SAMPLERS",
    "WEIGHTINGS",
    "AdaptiveDenoising",
    "BaseObjective",
    "Consistency",
    "ContinuousConsistency",
    "ContrastiveDivergence",
    "DenoisingControl",
    "DenoisingScoreMatching",
    "EnergyDiscrepancy",
    "ExplicitScoreMatching",
    "FiniteDifferenceScoreMatching",
    "FlowMapObjective",
    "GeneralizedScoreMatching",
    "HutchinsonScoreMatching",
    "ImplicitScoreMatching",
    "JointEnergy",
    "Lagrangian",
    "LogDet",
    "MarginalObjective",
    "MeanFlow",
    "NoiseContrastive",
    "Objective",
    "PersistentContrastiveDivergence",
    "RecoveryLikelihood",
    "Reflow",
    "RegularizedScoreMatching",
    "ReplayBuffer",
    "ResampledDenoising",
    "Semigroup",
    "SlicedScoreMatching",
    "StatefulObjective",
    "SteinDiscrepancy",
    "SteinTest",
    "TargetScoreMatching",
    "TimeSampler",
    "Weighting",
    "available",
    "create",
    "register",
    "stein_test",
    "times_of",
]
