"""How good samples are: distances between sets of examples, each beside its noise floor."""

from __future__ import annotations

from sde_score.evaluation.comparison import Floor, Score, compare, noise_floor
from sde_score.evaluation.distances import DISTANCES, Distance, available, create
from sde_score.evaluation.pairwise import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.sliced_wasserstein import sliced_wasserstein2

__all__ = [
    "DISTANCES",
    "Distance",
    "Floor",
    "Score",
    "available",
    "compare",
    "create",
    "energy_distance",
    "maximum_mean_discrepancy",
    "noise_floor",
    "sliced_wasserstein2",
]
