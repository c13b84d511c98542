"""Pictures and pages: what a run looks like to a person."""

from sde_score.report.evaluate_run import Row, evaluate, table
from sde_score.report.layers import layer_bits, layers_figure
from sde_score.report.page import Section, Table, render, save
from sde_score.report.pictures import examples_figure, save_examples
from sde_score.report.run_report import write_report

__all__ = [
    "Row",
    "Section",
    "Table",
    "evaluate",
    "examples_figure",
    "layer_bits",
    "layers_figure",
    "render",
    "save",
    "save_examples",
    "table",
    "write_report",
]
