"""Measuring: distances of samples to data, likelihoods of runs, views and samplers compared.

`evaluate`, `compare`, `likelihood` and `benchmark` measure a trained run, as the commands of these
names do; `distances` compares two sets of examples by hand.
"""

from __future__ import annotations

from sde_score.evaluation.benchmarks.plan import BENCHMARK_BUDGETS, Entry, plan
from sde_score.evaluation.benchmarks.reference_flow import FlowEnds
from sde_score.evaluation.benchmarks.results import Benchmark, BenchmarkRow
from sde_score.evaluation.benchmarks.run import Bench, benchmark, endpoint_error, run_benchmark
from sde_score.evaluation.benchmarks.targets import (
    BENCHMARK_TARGETS,
    BenchmarkTarget,
    exact_flow,
    exact_target,
    register_target,
)
from sde_score.evaluation.benchmarks.trained import target_of_run
from sde_score.evaluation.calibration.calibrate import Calibration, calibrate, posterior_draws
from sde_score.evaluation.calibration.predictive import PredictiveCheck, predictive
from sde_score.evaluation.calibration.ranks import Ranks, sbc, tarp
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
from sde_score.evaluation.guided import followed, guided_run
from sde_score.evaluation.imputation import impute
from sde_score.evaluation.journal import Journal
from sde_score.evaluation.likelihoods import RunBits, RunLikelihood, likelihood
from sde_score.evaluation.metrics.confidence import (
    DistanceEstimator,
    Interval,
    Measurement,
    distances,
)
from sde_score.evaluation.metrics.distances import (
    DEFAULT,
    DISTANCES,
    Distance,
    FeatureDistance,
    available,
    create,
    register,
)
from sde_score.evaluation.metrics.energy_mmd import energy_distance, maximum_mean_discrepancy
from sde_score.evaluation.metrics.frechet import FeatureStatistics, frechet, frechet_distance
from sde_score.evaluation.metrics.kernel import kernel_distance
from sde_score.evaluation.metrics.precision_recall import NeighborScores, neighbor_scores
from sde_score.evaluation.metrics.sliced_wasserstein import sliced_wasserstein2
from sde_score.evaluation.out_of_distribution import FAMILIARITY, auroc, familiarity
from sde_score.evaluation.planning import (
    GPU,
    GPUS,
    Cluster,
    Estimate,
    TrainingCost,
    estimates,
    training_cost,
)
from sde_score.evaluation.samples import Evaluation, SamplesRow, evaluate
from sde_score.evaluation.scores import Columns, sample_scores
from sde_score.evaluation.views.compare import VIEW_BUDGETS, ViewedModel, compare, compare_views
from sde_score.evaluation.views.comparison import Bits, Comparison, ViewRow
from sde_score.evaluation.views.views import OTHER, VIEWS, View, family_of, view_of

__all__ = [
    "BENCHMARK_BUDGETS",
    "BENCHMARK_TARGETS",
    "DEFAULT",
    "DISTANCES",
    "EXTRACTORS",
    "FAMILIARITY",
    "GPU",
    "GPUS",
    "OTHER",
    "VIEWS",
    "VIEW_BUDGETS",
    "Bench",
    "Benchmark",
    "BenchmarkRow",
    "BenchmarkTarget",
    "Bits",
    "Calibration",
    "ClassifierExtractor",
    "Cluster",
    "Columns",
    "Comparison",
    "Distance",
    "DistanceEstimator",
    "Entry",
    "Estimate",
    "Evaluation",
    "Extractor",
    "FeatureDistance",
    "FeatureStatistics",
    "FlowEnds",
    "Interval",
    "Journal",
    "Measurement",
    "NeighborScores",
    "PredictiveCheck",
    "Ranks",
    "RunBits",
    "RunLikelihood",
    "SamplesRow",
    "TrainingCost",
    "View",
    "ViewRow",
    "ViewedModel",
    "auroc",
    "available",
    "benchmark",
    "calibrate",
    "classifier_for",
    "compare",
    "compare_views",
    "create",
    "create_extractor",
    "distances",
    "endpoint_error",
    "energy_distance",
    "estimates",
    "evaluate",
    "exact_flow",
    "exact_target",
    "extract",
    "familiarity",
    "family_of",
    "followed",
    "frechet",
    "frechet_distance",
    "guided_run",
    "impute",
    "kernel_distance",
    "likelihood",
    "maximum_mean_discrepancy",
    "neighbor_scores",
    "plan",
    "posterior_draws",
    "predictive",
    "register",
    "register_target",
    "run_benchmark",
    "sample_scores",
    "sbc",
    "sliced_wasserstein2",
    "target_of_run",
    "tarp",
    "train_classifier",
    "training_cost",
    "view_of",
]
