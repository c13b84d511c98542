"""Pictures of tables: what is drawn of which rows, in which panel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sde_score.data import from_table
from sde_score.report.files import save_samples
from sde_score.report.look import Look
from sde_score.report.page import Section
from sde_score.report.pictures import ACCENT, INK
from sde_score.report.side_by_side import write_side_by_side
from sde_score.report.table_picture import columns_section, real_table, table_figure
from sde_score.training import TrainConfig, load_run, train

RNG = np.random.default_rng(0)


def table(count, shift=0.0):
    jobs = np.array(["x", "y", "z"], dtype=object)
    return {
        "a": RNG.normal(size=count) + shift,
        "n": RNG.integers(0, 9, count),
        "job": jobs[RNG.integers(0, 3, count)],
        "unit": np.array(["kg"] * count, dtype=object),
    }


def test_pairs_of_real_rows_lie_below_and_of_samples_above():
    made, real = table(50, 2.0), table(300)
    figure = table_figure(made, real)
    axes = np.array(figure.axes).reshape(3, 3)  # the constant is left out
    for row, column in ((1, 0), (2, 0), (2, 1), (0, 1), (0, 2), (1, 2)):
        (points,) = axes[row, column].collections
        source, color = (real, INK) if row > column else (made, ACCENT)
        assert len(points.get_offsets()) == len(source["a"])
        assert points.get_facecolor()[0, :3] == pytest.approx(
            [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        )
    below = axes[1, 0].collections[0].get_offsets()
    assert np.allclose(below[:, 0], real["a"])
    assert np.allclose(below[:, 1], real["n"])
    assert [text.get_text() for text in axes[2, 0].get_yticklabels()] == ["x", "y", "z"]
    assert [axes[2, i].get_xlabel() for i in range(3)] == ["a", "n", "job"]


def test_marginals_are_shares_of_rows():
    made, real = table(50), table(300)
    axes = np.array(table_figure(made, real).axes).reshape(3, 3)
    bars = [bar.get_height() for bar in axes[2, 2].patches]
    for index, source in enumerate((real, made)):
        shares = [np.mean(source["job"] == job) for job in "xyz"]
        assert bars[3 * index : 3 * index + 3] == pytest.approx(shares)
    for stairs, source in zip(axes[1, 1].patches, (real, made), strict=True):
        values, edges, _ = stairs.get_data()
        at = {(edges[i] + edges[i + 1]) / 2: value for i, value in enumerate(values)}
        assert all(at[n] == pytest.approx(np.mean(source["n"] == n)) for n in range(9))


def test_many_columns_are_marginals_and_one_alone_is_drawn():
    many = {f"c{i}": RNG.normal(size=20) for i in range(33)}
    figure = table_figure(many)
    assert [axes.get_xlabel() for axes in figure.axes if axes.patches] == [*many][:30]
    assert len(table_figure({"unit": np.array(["kg"] * 3, dtype=object)}).axes) == 1
    few = table_figure({"a": many["c0"], "b": many["c1"]})
    assert not few.axes[1].axison  # nothing to compare with


def test_a_run_is_drawn_beside_its_data(tmp_path):
    found = from_table(table(40), "n:categorical")
    config = TrainConfig(backbone="mlp(width=4, depth=1)", steps=1, batch_size=8, device="cpu")
    run = train(config, tmp_path / "run", data=found, progress=False)
    real = real_table(run)
    assert len(real["a"]) == 36
    assert set(real["job"]) <= {"x", "y", "z"}
    x = torch.randn(9, *run.event_shape)
    section = columns_section(run, x, "heun")
    assert isinstance(section, Section)
    assert section.picture.startswith(b"\x89PNG")
    both = write_side_by_side([run, run], tmp_path / "both.html").read_text()
    assert both.count(f"<h2>Columns of {run.path}</h2>") == 1
    save_samples(x, tmp_path / "s.png", Look.of(run), None, real)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert real_table(load_run(tmp_path / "run")) is None  # its data are not at hand
