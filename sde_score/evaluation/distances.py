"""Distances between two sets of examples, by name.

A distance takes two sets `(n, *event)` and `(m, *event)` and returns a number; larger is worse.
To add one, write its function in a file of its own and name a constructor here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from sde_score._registry import Registry
from sde_score.evaluation.pairwise import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.sliced_wasserstein import sliced_wasserstein2

Distance = Callable[[Tensor, Tensor], float]


def _sliced_wasserstein2(projections: int = 512, seed: int = 0) -> Distance:
    return partial(sliced_wasserstein2, projections=projections, seed=seed)


def _mmd2(bandwidths: Sequence[float] | None = None) -> Distance:
    return partial(maximum_mean_discrepancy, bandwidths=bandwidths)


def _energy() -> Distance:
    return energy_distance


DISTANCES: Registry[Distance] = Registry(
    "distance",
    {
        "sliced-wasserstein2": _sliced_wasserstein2,
        "mmd2": _mmd2,
        "energy": _energy,
    },
)

create = DISTANCES.create
available = DISTANCES.names
