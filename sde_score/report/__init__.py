"""Pictures, tables and pages of a run and its measurements: drawing, never measuring."""

from sde_score.report.benchmarks.picture import benchmark_figure
from sde_score.report.benchmarks.table import benchmark_csv, benchmark_table, write_benchmark
from sde_score.report.bibtex import citation
from sde_score.report.calibration.picture import calibration_figure, predictive_figure
from sde_score.report.calibration.table import calibration_table, predictive_table
from sde_score.report.evaluation_table import evaluation_table
from sde_score.report.guidance import guidance_figure
from sde_score.report.layers import (
    layer_bits,
    layers_figure,
    likelihood_section,
    likelihood_table,
    write_layers,
)
from sde_score.report.page import Gallery, Section, render, save
from sde_score.report.pictures import examples_figure, save_examples
from sde_score.report.planning import gpu_table, step_table
from sde_score.report.run_report import (
    put_likelihood_on_page,
    put_on_page,
    put_views_on_page,
    write_report,
)
from sde_score.report.sample_shards import SampleShards
from sde_score.report.scene import Scene
from sde_score.report.scores import SCORE_ENDINGS, require_scores_file, write_scores
from sde_score.report.side_by_side import write_side_by_side
from sde_score.report.tables import Table
from sde_score.report.views.picture import comparison_figure
from sde_score.report.views.table import comparison_csv, comparison_table, write_comparison

__all__ = [
    "SCORE_ENDINGS",
    "Gallery",
    "SampleShards",
    "Scene",
    "Section",
    "Table",
    "benchmark_csv",
    "benchmark_figure",
    "benchmark_table",
    "calibration_figure",
    "calibration_table",
    "citation",
    "comparison_csv",
    "comparison_figure",
    "comparison_table",
    "evaluation_table",
    "examples_figure",
    "gpu_table",
    "guidance_figure",
    "layer_bits",
    "layers_figure",
    "likelihood_section",
    "likelihood_table",
    "predictive_figure",
    "predictive_table",
    "put_likelihood_on_page",
    "put_on_page",
    "put_views_on_page",
    "render",
    "require_scores_file",
    "save",
    "save_examples",
    "step_table",
    "write_benchmark",
    "write_comparison",
    "write_layers",
    "write_report",
    "write_scores",
    "write_side_by_side",
]
