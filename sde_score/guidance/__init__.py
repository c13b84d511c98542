"""Guidance: models made of models; samplers, likelihoods and views take them like any other."""

from sde_score.guidance.composition import Conjunction, Mixture, Product, Tempered
from sde_score.guidance.gradients import ClassifierGuided, RewardGuided
from sde_score.guidance.guided import Guided, guide
from sde_score.guidance.rules import (
    RULES,
    ClassifierFree,
    FrequencyDecoupled,
    PlusPlus,
    Projected,
    Rule,
    ZeroStar,
    scales_after_step,
)
from sde_score.guidance.thresholding import Clipped, Thresholded

__all__ = [
    "RULES",
    "ClassifierFree",
    "ClassifierGuided",
    "Clipped",
    "Conjunction",
    "FrequencyDecoupled",
    "Guided",
    "Mixture",
    "PlusPlus",
    "Product",
    "Projected",
    "RewardGuided",
    "Rule",
    "Tempered",
    "Thresholded",
    "ZeroStar",
    "available",
    "guide",
    "register",
    "scales_after_step",
]

available = RULES.names
register = RULES.register
