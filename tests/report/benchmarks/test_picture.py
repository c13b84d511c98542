"""The picture shows what was measured, the front and the floors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sde_score.evaluation import Benchmark, BenchmarkRow, Interval
from sde_score.report import benchmark_figure, benchmark_table
from sde_score.report.benchmarks.picture import panels, pareto_front


def row(sampler, nfe, rms, **changes):
    stochastic = rms is None
    figures = {
        "rms": rms,
        "median": None if stochastic else rms / 2,
        "distances": {"sw2": Interval(3.0 / nfe, 0.01), "energy": Interval(0.1, 0.01)},
        "nll_gap": Interval(-1.0 / nfe, 0.02),
    }
    spec = f"{sampler}(steps={nfe})"
    found = BenchmarkRow(
        sampler, "karras", spec, stochastic, nfe, "", 0, float(nfe), 1.0, **figures
    )
    return replace(found, **changes)


ROWS = (
    row("a", 5, 1.0),
    row("a", 10, 0.1),
    row("b", 5, 0.5),
    row("b", 10, 0.2),
    row("b", 20, 0.15),
    row("noisy", 10, None),
    row("c", 5, None, distances=None, nll_gap=None, reason="diverged: 3 of 8 samples"),
)
FLOORS = {
    "sw2": Interval(0.2, 0.01),
    "energy": Interval(0.0, 0.01),
    "nll gap": Interval(0.0, 0.02),
}


def made(rows=ROWS, floors=FLOORS):
    names = tuple(name for name in floors if name != "nll gap")
    return Benchmark("target", "EDM", "exact", 8, names, floors, tuple(rows))


def test_front_is_what_no_other_beats():
    points = [(10, 0.1), (5, 0.5), (20, 0.15), (5, 1.0), (10, 0.2), (30, 0.1), (40, 0.05)]
    assert pareto_front(points) == [(5, 0.5), (10, 0.1), (40, 0.05)]
    assert pareto_front([]) == []


def test_panels_are_errors_the_gap_and_a_distance():
    titles = [panel.title for panel in panels(made())]
    assert ["RMS" in titles[0], "median" in titles[1], "NLL" in titles[2], "sw2" in titles[3]] == [
        True
    ] * 4
    without = {name: FLOORS[name] for name in ("sw2", "energy")}
    titles = [panel.title for panel in panels(made(floors=without))]
    assert "sw2" in titles[2]
    assert "energy" in titles[3]


def lines_of(axes):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_every_row_and_the_front_are_drawn():
    first, second, gap, distance = benchmark_figure(made()).axes
    drawn = lines_of(first)
    assert drawn["a [karras]"] == [(5, 1.0), (10, 0.1)]
    assert drawn["b [karras]"] == [(5, 0.5), (10, 0.2), (20, 0.15)]
    assert drawn["Pareto front"] == [(5, 0.5), (10, 0.1)]
    assert "noisy [karras]" not in drawn
    assert lines_of(second)["a [karras]"] == [(5, 0.5), (10, 0.05)]
    assert lines_of(gap)["noisy [karras]"] == [(10, pytest.approx(0.1))]  # without its sign
    assert lines_of(distance)["b [karras]"][2] == (20, pytest.approx(0.15))
    assert all("c [karras]" not in lines_of(axes) for axes in (first, gap, distance))
    for axes in (first, second, gap, distance):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        low, high = axes.get_ylim()
        assert all(low < y < high for line in lines_of(axes).values() for _, y in line)


def test_floors_are_bands():
    _, _, gap, distance = benchmark_figure(made()).axes
    for axes, high in ((gap, FLOORS["nll gap"].margin), (distance, FLOORS["sw2"].high)):
        (band,) = axes.patches
        assert band.get_y() + band.get_height() == pytest.approx(high)
    assert distance.patches[0].get_y() == pytest.approx(FLOORS["sw2"].low)
    assert all(len(axes.patches) == 0 for axes in benchmark_figure(made(floors={})).axes[:2])


def test_of_many_lines_those_on_a_front_are_named():
    alone = {"distances": None, "nll_gap": None}
    many = [row(f"s{k}", nfe, (k + 2.0) / nfe, **alone) for k in range(30) for nfe in (5, 10)]
    figure = benchmark_figure(made([*many, row("best", 5, 0.01), row("best", 10, 0.001)]))
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "best [karras]" in named
    assert "s7 [karras]" not in named
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert len(drawn) >= 31


def test_peers_are_dashed_and_named_with_their_library():
    figure = benchmark_figure(made([*ROWS, row("vAB3", 5, 0.3, source="azula")]))
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert styles["azula vAB3 [karras]"] == "--"
    assert styles["a [karras]"] == "-"


def test_nothing_that_can_be_drawn_is_no_mistake():
    failed = [row("c", 5, None, distances=None, nll_gap=None, reason="no")]
    assert len(benchmark_figure(made(failed)).axes) == 4


def test_table_is_by_cost_and_then_by_error():
    shown = benchmark_table(made())
    assert [(cells[0], cells[2]) for cells in shown.rows] == [
        ("b", "5"), ("a", "5"), ("c", "5"), ("a", "10"), ("b", "10"), ("noisy", "10"),
        ("b", "20"), ("noise floor", ""),
    ]  # fmt: skip
    assert list(shown.header[4:]) == ["rms", "median", "sw2", "energy", "nll gap"]
    assert shown.rows[0][4:6] == ["0.5", "0.25"]
    assert shown.rows[2][4] == "diverged: 3 of 8 samples"
    assert shown.rows[5][4] == ""
    assert shown.rows[-1][-1] == "0.000 ± 0.039"
    assert all(len(cells) == len(shown.header) for cells in shown.rows)


def test_below_the_floor_the_first_to_be_there_is_on_the_front():
    points = [(5, 0.4), (8, 0.09), (10, 0.03), (20, 0.01)]
    assert pareto_front(points) == points
    assert pareto_front(points, floor=0.1) == points[:2]
