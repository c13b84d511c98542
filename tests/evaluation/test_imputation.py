"""Imputation: against the conditional distribution of a Gaussian, and what stays as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sde_score.cli import main
from sde_score.data import DataError, from_table
from sde_score.evaluation import impute
from sde_score.models.exact import Gaussian
from sde_score.training import TrainConfig, train

QUICK = {"backbone": "mlp(width=4, depth=1)", "steps": 1, "batch_size": 8, "device": "cpu"}
COVARIANCE = np.array([[1.0, 0.7, 0.3], [0.7, 1.0, 0.5], [0.3, 0.5, 1.0]])
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def gaussian_run(tmp_path_factory):
    """A run whose model is the Gaussian of its table, in model range."""
    x = RNG.multivariate_normal([3, -1, 0], COVARIANCE, 300)
    found = from_table(dict(zip("abc", x.T, strict=True)))
    run = train(TrainConfig(**QUICK), tmp_path_factory.mktemp("g"), data=found, progress=False)
    model = Gaussian([0.0] * 3, np.corrcoef(x.T).tolist()).diffused("vp")
    model.parameters = lambda: iter([torch.zeros(1)])
    return dataclasses.replace(run, model=model), x


def test_draws_have_the_conditional_mean_and_variance(gaussian_run):
    run, x = gaussian_run
    mean, covariance = x.mean(0), np.cov(x.T, bias=True)
    row = np.array([[4.0, np.nan, np.nan], [np.nan, -2.0, 1.0]])
    rows = np.tile(row, (400, 1))
    table = dict(zip("abc", rows.T, strict=True))
    (filled,) = impute(run, pd_like(table), sampler="ddim(steps=40)", progress=False)
    drawn = np.stack([*filled.values()], 1).reshape(400, 2, 3)
    known = ~np.isnan(row)
    assert (drawn[:, known] == row[known]).all()
    for index in range(2):
        seen, hidden = known[index], ~known[index]
        gain = covariance[np.ix_(hidden, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        expected = mean[hidden] + gain @ (row[index, seen] - mean[seen])
        spread = covariance[np.ix_(hidden, hidden)] - gain @ covariance[np.ix_(seen, hidden)]
        values = drawn[:, index, hidden]
        assert values.mean(0) == pytest.approx(expected, abs=0.15)
        assert np.cov(values.T).reshape(spread.shape) == pytest.approx(spread, abs=0.15)


def pd_like(table):
    """A data frame of the table."""
    return pytest.importorskip("pandas").DataFrame(table)


def test_a_row_is_drawn_from_its_seed_alone(gaussian_run):
    run, x = gaussian_run
    holes = np.where(RNG.random((9, 3)) < 0.4, np.nan, x[:9])
    table = pd_like(dict(zip("abc", holes.T, strict=True)))
    quick = {"sampler": "ddim(steps=3)", "progress": False}
    one, two = impute(run, table, 2, **quick)
    (again,) = impute(run, table, batch_size=2, **quick)
    for name, column in zip("abc", holes.T, strict=True):
        assert again[name] == pytest.approx(one[name], abs=1e-5)
        known = ~np.isnan(column)
        assert (two[name][known] == column[known]).all()
        assert (two[name][~known] != one[name][~known]).all()


def test_tables_of_other_columns(gaussian_run):
    run, _ = gaussian_run
    quick = {"sampler": "ddim(steps=2)", "progress": False}
    (filled,) = impute(run, pd_like({"c": [0.5], "other": ["x"]}), **quick)
    assert list(filled) == ["a", "b", "c"]
    assert filled["c"].tolist() == [0.5]
    with pytest.raises(DataError, match="has the columns d, and none of a, b, c"):
        impute(run, pd_like({"d": [1.0]}), **quick)
    with pytest.raises(DataError, match="does not fit the run: the columns are b, were a, b, c"):
        impute(run, from_table({"b": [1.0, 2.0]}), **quick)
    with pytest.raises(DataError, match="column a, row 2: 'x' is no number"):
        impute(run, pd_like({"a": [None, "x"]}), **quick)


def test_a_table_of_mixed_columns_is_filled_on_the_command_line(tmp_path):
    jobs = np.array(["x", "y", "z"], dtype=object)[RNG.integers(0, 3, 40)]
    cells = {"n": RNG.integers(0, 50_000, 40), "p": RNG.lognormal(size=40).round(4), "job": jobs}
    found = from_table({**cells, "unit": ["kg"] * 40}, "p:positive")
    train(TrainConfig(**QUICK), tmp_path / "run", data=found, progress=False)
    holes = "n,p,job,unit\n7,,x,kg\n,12.062500000000123,,kg\n9,0.5,y,\n"
    (tmp_path / "h.csv").write_text(holes)
    words = ["impute", str(tmp_path / "run"), "--data", str(tmp_path / "h.csv"), "--draws", "2"]
    words += ["--out", str(tmp_path / "f.csv"), "--sampler", "ddim(steps=2)", "--no-progress"]
    assert main(words) == 0
    for draw in (1, 2):
        lines = (tmp_path / f"f-{draw}.csv").read_text().splitlines()
        rows = [line.split(",") for line in lines]
        assert rows[0] == ["n", "p", "job", "unit"]
        assert rows[3] == ["9", "0.5", "y", "kg"]
        assert (rows[1][0], rows[1][2]) == ("7", "x")
        assert rows[2][1] == "12.062500000000123"
        assert float(rows[1][1]) > 0
        assert rows[2][2] in "xyz"
        int(rows[2][0])
    (tmp_path / "h.csv").write_text(holes.replace("x", "w"))
    assert main(words) == 2
