"""The partition function: what stands between an energy and a likelihood."""

from sde_score.likelihood.partition.estimators import Estimate, bennett
from sde_score.likelihood.partition.geometric_path import GaussianReference, Reference
from sde_score.likelihood.partition.log_partition import log_partition
from sde_score.likelihood.partition.methods import PARTITION_METHODS
from sde_score.likelihood.partition.result import EnergyLikelihood, LogPartition, energy_log_prob

__all__ = [
    "PARTITION_METHODS",
    "EnergyLikelihood",
    "Estimate",
    "GaussianReference",
    "LogPartition",
    "Reference",
    "bennett",
    "energy_log_prob",
    "log_partition",
]
