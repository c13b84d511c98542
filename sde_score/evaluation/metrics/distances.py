"""Distances between two sets of examples, by name.

A distance takes samples `(n, *event)` and data `(m, *event)` and returns a number; larger is worse.
`register("mine", function)` adds one of your own, `DISTANCES.register` one with options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from sde_score._core.arguments import checked
from sde_score._core.registry import Registry
from sde_score.evaluation.features.extractors import Extractor, create_extractor, extract
from sde_score.evaluation.metrics._sets import require_sets
from sde_score.evaluation.metrics.energy_mmd import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.metrics.frechet import frechet
from sde_score.evaluation.metrics.kernel import kernel_distance
from sde_score.evaluation.metrics.precision_recall import neighbor_scores
from sde_score.evaluation.metrics.sliced_wasserstein import sliced_wasserstein2

Distance = Callable[[Tensor, Tensor], float]
"""From samples and data, in model range, to a number."""


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """A distance between the features of two sets, such as `frechet[digits-classifier]`.

    Args:
        kind: name of the distance.
        distance: a function of two sets of features.
        extractor: from examples to features; see `EXTRACTORS`.
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


@checked
def _sliced_wasserstein2(projections: int = 512, seed: int = 0) -> Distance:
    return partial(sliced_wasserstein2, projections=projections, seed=seed)


@checked
def _mmd2(bandwidths: Sequence[float] | None = None) -> Distance:
    return partial(maximum_mean_discrepancy, bandwidths=bandwidths)


def _energy() -> Distance:
    return energy_distance


@checked
def _frechet(extractor: str | Callable[[Tensor], Tensor] = "pixels") -> FeatureDistance:
    return FeatureDistance("frechet", frechet, create_extractor(extractor))


@checked
def _kernel(extractor: str | Callable[[Tensor], Tensor] = "pixels") -> FeatureDistance:
    return FeatureDistance("kernel", kernel_distance, create_extractor(extractor))


Share = Literal["precision", "recall", "density", "coverage"]


def _gap(share: Share) -> Callable[..., FeatureDistance]:
    """Constructor of 1 - share, with a share of `neighbor_scores`."""

    @checked
    def constructor(
        extractor: str | Callable[[Tensor], Tensor] = "pixels", k: int = 5
    ) -> FeatureDistance:
        def gap(samples: Tensor, data: Tensor) -> float:
            return 1 - float(getattr(neighbor_scores(samples, data, k), share))

        return FeatureDistance(f"{share}-gap", gap, create_extractor(extractor))

    return constructor


DISTANCES: Registry[Distance] = Registry(
    "distance",
    {
        "sliced-wasserstein2": _sliced_wasserstein2,
        "mmd2": _mmd2,
        "energy": _energy,
        "frechet": _frechet,
        "kernel": _kernel,
        "precision-gap": _gap("precision"),
        "recall-gap": _gap("recall"),
        "density-gap": _gap("density"),
        "coverage-gap": _gap("coverage"),
    },
    aliases={
        "precision": "precision-gap",
        "recall": "recall-gap",
        "density": "density-gap",
        "coverage": "coverage-gap",
        "sw2": "sliced-wasserstein2",
        "kid": "kernel",
    },
)
"""Constructors of distances by name."""

DEFAULT = ("sliced-wasserstein2(projections=128)", "mmd2", "energy")
"""Distances that are measured by default: they suit any data as they are."""

create = DISTANCES.create
available = DISTANCES.names


@dataclass(frozen=True)
class _Constant:
    """Constructor, without options, of a distance that exists already."""

    distance: Distance

    def __call__(self) -> Distance:
        return self.distance


def register(name: str, distance: Distance) -> Distance:
    """Add a distance of your own; from then on its name is measured like ours.

    Args:
        name: letters, digits, dashes and underscores, beginning with a letter; not taken yet.
        distance: a function of samples and data, each `(n, *event)` in model range; larger is
            worse. One with options is added by `DISTANCES.register(name, constructor)`.

    Returns:
        `distance`.

    Raises:
        ValueError: for a name that is taken or that no spec can have.
        TypeError: if `distance` cannot be called.
    """
    if not callable(distance):
        raise TypeError(f"distance={distance!r} must be a function of samples and data")
    if name not in DISTANCES or DISTANCES[name] != _Constant(distance):
        DISTANCES.register(name, _Constant(distance))
    return distance


def named_distance(distance: str | Distance) -> tuple[str, Distance]:
    """A distance with its name in tables: that of its spec, or of the function."""
    measure = DISTANCES.resolve(distance)
    if isinstance(measure, FeatureDistance):
        return measure.name, measure
    if measure is not distance:
        return DISTANCES.listed(str(distance).partition("(")[0]), measure
    return getattr(measure, "__name__", type(measure).__name__), measure
