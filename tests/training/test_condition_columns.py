"""Columns of a table as conditions: from the file through training to samples with their names."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from sde_score import data
from sde_score._core.errors import DataError
from sde_score.cli import main
from sde_score.training import TrainConfig, load_run

NAMES = ["mass", "a", "time", "b"]
TABLE = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TABLE = TABLE * torch.tensor([1.0, 20.0, 3.0, 0.1]) + torch.tensor([0.0, -5.0, 100.0, 7.0])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    rows = [NAMES, *TABLE.tolist()]
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    return path


def test_columns_are_told_and_scaled_by_themselves(table):
    found = data.load(table, "b, mass")
    assert torch.equal(found.raw(), TABLE[:, [1, 2]])
    assert torch.equal(found.conditions, TABLE[:, [3, 0]])
    assert (found.column_names, found.condition_names) == (("a", "time"), ("b", "mass"))
    standard = (TABLE - TABLE.mean(0)) / TABLE.std(0, correction=0)
    batch = found.split(0.5)[1].batch([0, 3])
    rows = found.split(0.5)[1].rows[[0, 3]]
    torch.testing.assert_close(batch.x0, standard[rows][:, [1, 2]].float())
    torch.testing.assert_close(batch.condition, standard[rows][:, [3, 0]].float())


def test_tables_of_every_format_have_names(table, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    np.savez(tmp_path / "t.npz", x=TABLE.numpy(), columns=np.array(NAMES))
    parquet.write_table(pa.table(dict(zip(NAMES, TABLE.T.numpy(), strict=True))), tmp_path / "t.pq")
    np.save(tmp_path / "t.npy", TABLE.numpy())
    for source in (tmp_path / "t.npz", f"parquet:{tmp_path / 't.pq'}"):
        found = data.load(source, ["a"])
        assert torch.equal(found.conditions, TABLE[:, 1:2])
        assert found.column_names == ("mass", "time", "b")
    assert data.load(tmp_path / "t.npy", "x2").column_names == ("x1", "x3", "x4")
    gap = pa.table({"a": [1.0, None, 2.0], "b": [1, 2, 3]})
    parquet.write_table(gap, tmp_path / "gap.parquet")
    assert data.load(tmp_path / "gap.parquet").raw().isnan().sum() == 1
    with pytest.raises(DataError, match="column a has missing cells"):
        data.load(tmp_path / "gap.parquet", "a")
    np.savez(tmp_path / "t.npz", x=TABLE.numpy(), columns=np.array(NAMES[:2]))
    with pytest.raises(DataError, match="a name for each entry"):
        data.load(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ("a,speed", r"'speed' is not one of them, once; .* has the columns mass, a, time, b"),
        ("a,a", "'a' is not one of them, once"),
        ("mass,a,time,b", "no column is left over"),
        ("", "'' is not one of them"),
    ],
)
def test_wrong_columns_are_refused_before_anything_is_made(columns, says, table, tmp_path, capsys):
    with pytest.raises(DataError, match=says):
        data.load(table, columns)
    words = ["train", "--data", str(table), "--out", str(tmp_path / "run")]
    assert main([*words, "--condition-columns", columns]) != 0
    assert "condition_columns" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_tables_without_conditions_have_columns_to_tell(table):
    with pytest.raises(DataError, match="needs a table"):
        data.load("digits", "a")
    with pytest.raises(DataError, match="conditions already"):
        data.load(data.load(table, "a"), "b")


def test_a_run_knows_its_columns_and_samples_carry_their_names(table, tmp_path, capsys):
    run_at, out = tmp_path / "run", tmp_path / "s.csv"
    words = ["train", "--data", str(table), "--out", str(run_at), "--backbone", "mlp(width=8)"]
    words += ["--steps", "2", "--batch-size", "4", "--no-progress"]
    assert main([*words, "--condition-columns", "b, a"]) == 0
    assert json.loads((run_at / "data.json").read_text())["condition_names"] == ["b", "a"]
    run = load_run(run_at)
    assert (run.condition_shape, run.config.condition_columns) == ((2,), "b,a")
    assert len(run.dataset("held_out")) == 6  # the file is recognized, with its columns apart
    sample = ["sample", str(run_at), "--num", "3", "--steps", "2", "--out", str(out)]
    sample += ["--no-progress", "--condition"]
    assert main([*sample, "b=7.1, a=-4"]) == 0
    header, *rows = csv.reader(out.open())
    assert header == ["mass", "a", "time", "b"]  # as they came
    assert [[row[3], row[1]] for row in rows] == [["7.1", "-4.0"]] * 3
    asked = run.condition_of({"b": 7.1, "a": [-4.0, 2.0]})
    scaled = (torch.tensor([-4.0, 2.0]) - TABLE[:, 1].mean()) / TABLE[:, 1].std(correction=0)
    torch.testing.assert_close(asked[:, 1], scaled.float())
    capsys.readouterr()
    for wrong, says in (("a=1", "b, a"), ("a=1,b=x", "no number"), ("a=1,b=2,c=3", "b, a")):
        assert main([*sample, wrong]) != 0
        assert says in capsys.readouterr().err
    assert main(words) == 0  # it goes on with its own columns
    capsys.readouterr()
    assert main([*words, "--condition-columns", "a"]) != 0
    assert "condition_columns" in capsys.readouterr().err


def test_columns_make_a_configuration_conditional():
    config = TrainConfig(condition_columns=" a,b ")
    assert (config.conditional, config.condition_columns) == (True, "a,b")
