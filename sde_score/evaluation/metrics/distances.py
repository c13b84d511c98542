"""Distances between two sets of examples, by name.

A distance takes two sets `(n, *event)` and `(m, *event)` and returns a number; larger is worse.
To add one, write its function in a file of its own and name a constructor here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sde_score._core.registry import Registry
from sde_score.evaluation.features.extractors import Extractor, create_extractor, extract
from sde_score.evaluation.metrics._sets import require_sets
from sde_score.evaluation.metrics.energy_mmd import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.metrics.frechet import frechet
from sde_score.evaluation.metrics.kernel import kernel_distance
from sde_score.evaluation.metrics.sliced_wasserstein import sliced_wasserstein2

Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """A distance between the features of two sets, named as in `frechet[digits-classifier]`.

    Args:
        kind: what the distance is called.
        distance: a function of two sets of features.
        extractor: from examples to features; see `sde_score.evaluation.features.extractors`.
    """

    kind: str
    distance: Distance
    extractor: Extractor

    @property
    def name(self) -> str:
        """The distance, with its extractor in brackets."""
        return f"{self.kind}[{self.extractor.name}]"

    def __call__(self, x: Tensor, y: Tensor) -> float:
        """Distance between two sets of examples in model range."""
        require_sets(x, y)
        return self.distance(extract(x, self.extractor), extract(y, self.extractor))


def _sliced_wasserstein2(projections: int = 512, seed: int = 0) -> Distance:
    return partial(sliced_wasserstein2, projections=projections, seed=seed)


def _mmd2(bandwidths: Sequence[float] | None = None) -> Distance:
    return partial(maximum_mean_discrepancy, bandwidths=bandwidths)


def _energy() -> Distance:
    return energy_distance


def _frechet(extractor: str | Callable[[Tensor], Tensor] = "pixels") -> FeatureDistance:
    return FeatureDistance("frechet", frechet, create_extractor(extractor))


def _kernel(extractor: str | Callable[[Tensor], Tensor] = "pixels") -> FeatureDistance:
    return FeatureDistance("kernel", kernel_distance, create_extractor(extractor))


DISTANCES: Registry[Distance] = Registry(
    "distance",
    {
        "sliced-wasserstein2": _sliced_wasserstein2,
        "mmd2": _mmd2,
        "energy": _energy,
        "frechet": _frechet,
        "kernel": _kernel,
    },
)

DEFAULT = ("sliced-wasserstein2", "mmd2", "energy")
"""What is measured where nothing is asked for: distances that suit any data as they are."""

create = DISTANCES.create
available = DISTANCES.names
