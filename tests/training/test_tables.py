"""Tables from the file through training to samples with the columns that they came with."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.data import DataError, from_table, load
from sde_score.report.files import save_samples
from sde_score.report.look import Look
from sde_score.training import Batches, TrainConfig, as_table, coding_of, load_run, train

RNG = np.random.default_rng(0)
ROWS = 60
NAMES = ["id", "age", "income", "unit", "job", "x"]
JOBS = ["clerk", "cook", "smith"]
KINDS = "income:positive,id:drop"
QUICK = {"backbone": "mlp(width=8, depth=1)", "steps": 2, "batch_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    rows = zip(
        (f"n{i}" for i in range(ROWS)),
        RNG.integers(18, 80, ROWS),
        RNG.lognormal(3, 1, ROWS).round(3),
        ["kg"] * ROWS,
        (JOBS[i % 3] for i in range(ROWS)),
        RNG.normal(size=ROWS),
        strict=True,
    )
    path.write_text("\n".join(",".join(map(str, row)) for row in [NAMES, *rows]))
    return path


def test_samples_leave_as_the_columns_came(table, tmp_path, capfd):
    run_at, text = tmp_path / "run", f"{table}(kinds='{KINDS}')"
    train(TrainConfig(data=text, condition_columns="job,age", **QUICK), run_at)
    said = "table: 1 numeric; 1 positive: income; 1 constant: unit; told: job (3), age\n"
    assert said in capfd.readouterr().err
    assert json.loads((run_at / "data.json").read_text())["condition_names"] == ["age"]
    table.rename(table.with_suffix(".gone"))  # a run decodes its samples without the data
    run = load_run(run_at)
    assert run.condition_shape == {"job": 3, "numbers": (1,)}
    told = {"job": torch.tensor([2, 0]), "numbers": torch.tensor([[0.5], [-1.0]])}
    columns = as_table(run, torch.tensor([[0.3, 0.1], [1.0, 2.0]]), told)
    assert list(columns) == NAMES[1:]
    assert [columns[n].dtype.kind for n in columns] == ["i", "f", "O", "O", "f"]
    assert columns["job"].tolist() == ["smith", "clerk"]
    center, width = run.scaling.center, run.scaling.width
    assert columns["income"] == pytest.approx(
        np.exp(np.array([0.3, 1.0]) * width[0] + center[0]), rel=1e-6
    )
    table.with_suffix(".gone").rename(table)
    assert len(run.dataset("held_out")) == 6
    out = tmp_path / "s.csv"
    words = ["sample", str(run_at), "--num", "4", "--steps", "2", "--no-progress"]
    assert main([*words, "--out", str(out)]) == 0
    raw = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    told = {"job": torch.tensor([0, 1, 2, 0]), "numbers": torch.tensor([[20.0], [30], [4], [5]])}
    for name in ("s.csv", "s.parquet", "s.npz"):
        if name != "s.csv":
            save_samples(raw, tmp_path / name, Look.of(run), told)
        again = load(f"{tmp_path / name}(kinds='job:categorical,income:positive,age:integer')")
        assert [column.name for column in again.coding.columns] == NAMES[1:]
    header, *rows = csv.reader(out.open())
    assert header == NAMES[1:]
    for age, income, unit, job, _ in rows:
        assert (age.isdecimal(), float(income) > 0, unit, job in JOBS) == (True, True, "kg", True)


def test_conditions_are_named_by_their_columns(table, tmp_path):
    config = TrainConfig(
        data=f"{table}(kinds='{KINDS}')", condition_columns="job,income,age", **QUICK
    )
    run = train(config, tmp_path, progress=False)
    asked = run.condition_of({"age": 30, "income": [2.0, 8.0], "job": ["cook", "smith"]})
    assert asked["job"].tolist() == [1, 2]
    center, width = (np.array(side) for side in (
        run.data.condition_scaling["numbers"].center, run.data.condition_scaling["numbers"].width
    ))  # fmt: skip
    raw = np.array([[np.log(2), 30], [np.log(8), 30]])  # income is learned by its logarithm
    assert asked["numbers"].numpy() == pytest.approx((raw - center) / width, rel=1e-5)
    columns = as_table(run, torch.zeros(2, 1), asked)
    assert columns["income"].tolist() == pytest.approx([2, 8], rel=1e-5)
    assert columns["age"].tolist() == [30, 30]
    same = run.condition_of({"job": torch.tensor([1, 2]), "numbers": torch.tensor(raw)})
    assert torch.equal(same["numbers"], asked["numbers"])
    for wrong, says in (
        ({"age": 30, "job": "cook"}, "accepted: a value for each of job, income, age"),
        ({"age": 30, "income": 1, "job": "baker"}, "'baker' is none of its categories"),
        ({"age": 30, "income": "x", "job": "cook"}, "income=x is no number"),
        ({"age": [1, 2], "income": [1, 2, 3], "job": "cook"}, "or as many for all"),
        ({"age": 30, "income": -1, "job": "cook"}, "-1.0 is not above 0"),
    ):
        with pytest.raises(ValueError, match=says):
            run.condition_of(wrong)


def test_a_label_column_is_told_and_asked_for_by_name(table, tmp_path):
    text = f"{table}(kinds='{KINDS}', label='job')"
    run = train(TrainConfig(data=text, conditional=True, **QUICK), tmp_path, progress=False)
    assert run.class_names == ("clerk", "cook", "smith")
    columns = as_table(run, torch.zeros(2, 3), run.labels_of("smith", 2))
    assert columns["job"].tolist() == ["smith"] * 2
    assert "job" not in as_table(run, torch.zeros(2, 3))


def test_dequantizing_fills_the_cells_of_integers_and_categories():
    found = from_table({"n": RNG.integers(0, 5, ROWS), "job": JOBS * 20})
    batch = next(Batches(found, TrainConfig(dequantize=True, **QUICK)).step(0))
    raw = found.scaling.from_model(batch.x0.double())
    assert float((raw - raw.round()).abs().max()) > 0.1
    known = {tuple(row) for row in found.raw().tolist()}
    assert {tuple(row) for row in (raw.round() + 0.0).tolist()} <= known


def test_other_columns_are_other_data(table, tmp_path):
    text = f"{table}(kinds='{KINDS}')"
    run = train(TrainConfig(data=text, **QUICK), tmp_path / "run", progress=False)
    lines = table.read_text().splitlines()
    for content, says in (
        ([lines[0], *lines[1:-1], lines[-1].replace("smith", "baker")], "column job has baker"),
        (
            [line.rpartition(",")[0] for line in lines],
            "the columns are age, income, unit, job, were",
        ),
        ([lines[0], *lines[1:-1], lines[-1].replace("kg", "lb")], "column unit is .*constant"),
    ):
        (tmp_path / "o.csv").write_text("\n".join(content))
        with pytest.raises(DataError, match=says):
            _ = run.with_data(f"{tmp_path}/o.csv(kinds='{KINDS}')").recognized
    assert coding_of(run).learned == ("age", "income", "job", "x")
