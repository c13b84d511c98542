"""Likelihoods: how probable a model finds a point, in nats and in bits per dimension."""

from sde_score.likelihood.bits import BitsPerDim, Scaling, bits_per_dim
from sde_score.likelihood.divergence import draw_probes, value_and_divergence
from sde_score.likelihood.probability_flow import DIVERGENCES, LogLikelihood, log_prob
from sde_score.likelihood.solvers import SOLVERS

__all__ = [
    "DIVERGENCES",
    "SOLVERS",
    "BitsPerDim",
    "LogLikelihood",
    "Scaling",
    "bits_per_dim",
    "draw_probes",
    "log_prob",
    "value_and_divergence",
]
