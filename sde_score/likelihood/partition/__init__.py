"""The partition function: the normalizing constant that turns an energy into a likelihood."""

from sde_score.likelihood.partition.estimators import Measurement, bennett
from sde_score.likelihood.partition.geometric_path import GaussianReference, Reference
from sde_score.likelihood.partition.log_partition import log_partition
from sde_score.likelihood.partition.methods import PARTITION_METHODS, PartitionMethod
from sde_score.likelihood.partition.result import EnergyLikelihood, LogPartition, energy_log_prob

__all__ = [
    "PARTITION_METHODS",
    "EnergyLikelihood",
    "GaussianReference",
    "LogPartition",
    "Measurement",
    "PartitionMethod",
    "Reference",
    "bennett",
    "energy_log_prob",
    "log_partition",
]
