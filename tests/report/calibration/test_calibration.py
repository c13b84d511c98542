"""Pictures and tables of calibration: what they show, of small numbers."""

from __future__ import annotations

import torch

from sde_score.evaluation import Calibration, predictive
from sde_score.report import (
    calibration_figure,
    calibration_table,
    predictive_figure,
    predictive_table,
)


def narrow():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 21, 2, generator=generator)
    return Calibration.of(noise[:, 0], 0.3 * noise[:, 1:], ("a", "b"))


def test_a_table_has_a_row_for_each_parameter():
    table = calibration_table(narrow())
    assert [row[0] for row in table.rows] == ["a", "b", "distance to a random point", "expected"]
    assert float(table.rows[0][1]) < 1e-6
    assert float(table.rows[0][2]) < 0.4
    assert table.rows[-1][2] == "0.524 ± 0.071"  # 11 of 21 ranks; two deviations of 200 truths


def test_panels_show_ranks_above_their_band():
    figure = calibration_figure(narrow(), "too narrow")
    first, _, coverage, _ = [*figure.axes, None][:4]
    titles = [axes.get_title() for axes in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["a", "b", "TARP"]
    band, bars, _ = first.patches
    assert bars.get_data().values[0] > band.get_data().values[0]
    assert len(coverage.lines) == 3
    figure.canvas.draw()


def test_predictive_checks_are_drawn_and_tabled():
    simulated = torch.linspace(0, 1, 99)[:, None].expand(99, 5)
    found = predictive(torch.tensor([0.5, 2.0, 0.1, 0.2, 0.3]), simulated)
    table = predictive_table(found)
    assert table.rows[1] == ["y2", "2", "0.05", "0.5", "0.95", "0.02"]
    figure = predictive_figure(found, "checks")
    assert len(figure.axes) == 8
    assert figure.axes[1].get_title() == "y2: p = 0.02"
    assert figure.axes[1].lines[0].get_xdata()[0] == 2.0
    figure.canvas.draw()
