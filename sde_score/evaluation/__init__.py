"""How good samples are: distances between sets of examples, each beside its noise floor."""

from __future__ import annotations

from sde_score.evaluation.features.classifier import (
    ClassifierExtractor,
    classifier_for,
    train_classifier,
)
from sde_score.evaluation.features.extractors import (
    EXTRACTORS,
    Extractor,
    create_extractor,
    extract,
)
from sde_score.evaluation.metrics.comparison import Floor, Score, compare, noise_floor
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.evaluation.metrics.distances import (
    DEFAULT,
    DISTANCES,
    Distance,
    FeatureDistance,
    available,
    create,
)
from sde_score.evaluation.metrics.energy_mmd import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.metrics.frechet import FeatureStatistics, frechet, frechet_distance
from sde_score.evaluation.metrics.kernel import kernel_distance
from sde_score.evaluation.metrics.precision_recall import NeighborScores, neighbor_scores
from sde_score.evaluation.metrics.sliced_wasserstein import sliced_wasserstein2
from sde_score.evaluation.views.compare import NFES, Bits, Comparison, ViewRow, compare_views
from sde_score.evaluation.views.views import VIEWS, View

__all__ = [
    "DEFAULT",
    "DISTANCES",
    "EXTRACTORS",
    "NFES",
    "VIEWS",
    "Bits",
    "ClassifierExtractor",
    "Comparison",
    "Distance",
    "DistanceEstimator",
    "Extractor",
    "FeatureDistance",
    "FeatureStatistics",
    "Floor",
    "Interval",
    "NeighborScores",
    "Score",
    "View",
    "ViewRow",
    "available",
    "classifier_for",
    "compare",
    "compare_views",
    "create",
    "create_extractor",
    "energy_distance",
    "extract",
    "frechet",
    "frechet_distance",
    "kernel_distance",
    "maximum_mean_discrepancy",
    "neighbor_scores",
    "noise_floor",
    "sliced_wasserstein2",
    "train_classifier",
]
