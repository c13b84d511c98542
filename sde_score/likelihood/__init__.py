"""Likelihoods: how probable a model finds a point, in nats and in bits per dimension."""

from sde_score.likelihood.base import Estimate, Likelihood
from sde_score.likelihood.bits import (
    BitsPerDim,
    bits_per_dim,
    energy_bits_per_dim,
)
from sde_score.likelihood.bound_likelihoods import ContinuousBound, LayeredBound
from sde_score.likelihood.continuous_bound import TIME_SAMPLINGS, Bound, variational_bound
from sde_score.likelihood.decoders import DataTerm, GaussianDecoder, KernelEntropy, LevelDecoder
from sde_score.likelihood.dequantization import (
    DEQUANTIZATIONS,
    Dequantization,
    Dequantized,
    VariationalDequantization,
)
from sde_score.likelihood.distributed import gather_rows, own_rows
from sde_score.likelihood.divergence import MODES, draw_probes, value_and_divergence
from sde_score.likelihood.flow import Flow
from sde_score.likelihood.likelihoods import LIKELIHOODS, available, create
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
from sde_score.samplers.adaptive.ode_solvers import SOLVERS

__all__ = [
    "DEQUANTIZATIONS",
    "DIVERGENCES",
    "LIKELIHOODS",
    "MODES",
    "PARTITION_METHODS",
    "SOLVERS",
    "TIME_SAMPLINGS",
    "BitsPerDim",
    "Bound",
    "ContinuousBound",
    "DataTerm",
    "Dequantization",
    "Dequantized",
    "EnergyLikelihood",
    "Estimate",
    "Flow",
    "GaussianDecoder",
    "GaussianReference",
    "KernelEntropy",
    "LayeredBound",
    "LevelDecoder",
    "Likelihood",
    "LogLikelihood",
    "LogPartition",
    "Reference",
    "VariationalDequantization",
    "available",
    "bennett",
    "bits_per_dim",
    "create",
    "draw_probes",
    "energy_bits_per_dim",
    "energy_log_prob",
    "gather_rows",
    "log_partition",
    "log_prob",
    "own_rows",
    "value_and_divergence",
    "variational_bound",
]
