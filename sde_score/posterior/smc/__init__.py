"""Sequential Monte Carlo: weighted particles, exact in the limit of many, and log Z."""

from sde_score.posterior.smc.corrected import Composed, Corrected
from sde_score.posterior.smc.driver import SMC, FeynmanKac, Stages
from sde_score.posterior.smc.noised_observation import NoisedObservation
from sde_score.posterior.smc.particles import Particles
from sde_score.posterior.smc.twisted import Twisted

__all__ = [
    "SMC",
    "Composed",
    "Corrected",
    "FeynmanKac",
    "NoisedObservation",
    "Particles",
    "Stages",
    "Twisted",
]
