"""Likelihoods: how probable a model finds a point, in nats and in bits per dimension."""

from sde_score.likelihood.bits import (
    BitsPerDim,
    Scaling,
    bits_per_dim,
    energy_bits_per_dim,
)
from sde_score.likelihood.divergence import draw_probes, value_and_divergence
from sde_score.likelihood.partition import (
    PARTITION_METHODS,
    EnergyLikelihood,
    GaussianReference,
    LogPartition,
    Reference,
    bennett,
    energy_log_prob,
    log_partition,
)
from sde_score.likelihood.probability_flow import DIVERGENCES, LogLikelihood, log_prob
from sde_score.likelihood.solvers import SOLVERS

__all__ = [
    "DIVERGENCES",
    "PARTITION_METHODS",
    "SOLVERS",
    "BitsPerDim",
    "EnergyLikelihood",
    "GaussianReference",
    "LogLikelihood",
    "LogPartition",
    "Reference",
    "Scaling",
    "bennett",
    "bits_per_dim",
    "draw_probes",
    "energy_bits_per_dim",
    "energy_log_prob",
    "log_partition",
    "log_prob",
    "value_and_divergence",
]
