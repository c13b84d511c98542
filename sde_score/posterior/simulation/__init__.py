"""Simulation-based inference: the parameters behind simulations, by a score that is told these."""

from sde_score.posterior.simulation.compositional import Compositional, covariances
from sde_score.posterior.simulation.pairs import Box, pairs
from sde_score.posterior.simulation.parameters import ParameterPosterior

__all__ = ["Box", "Compositional", "ParameterPosterior", "covariances", "pairs"]
