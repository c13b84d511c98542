"""Other data than a run's own are measured whole, in its scaling, and said to be others."""

from __future__ import annotations

import csv
import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from sde_score import evaluation, likelihood
from sde_score.cli import main
from sde_score.data import DataError, from_tensor
from sde_score.training import TrainConfig, load_run, train

SAMPLER = "ddim(steps=2)"


def _points(seed, count=60, shift=5.0):
    draws = np.random.default_rng(seed).normal(size=(count, 2)) * [1.0, 10.0] + shift
    return draws.astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in `run` on `own.csv`, and files beside it."""
    folder = tmp_path_factory.mktemp("other")
    files = {
        "own.csv": ("a,b", _points(0)),
        "other.csv": ("a,b", _points(1, 24, 6.0)),
        "named.csv": ("a,c", _points(1)),
        "wide.csv": ("a,b,c", _points(1, 24).repeat(2, 1)[:, :3]),
    }
    for name, (header, rows) in files.items():
        np.savetxt(folder / name, rows, "%.6f", ",", header=header, comments="")
    config = TrainConfig(
        data=str(folder / "own.csv"), steps=2, batch_size=8, held_out=1 / 3,
        backbone="mlp(width=8, depth=1)",
    )  # fmt: skip
    train(config, folder / "run", progress=False)
    return folder


@pytest.fixture
def run(folder):
    return load_run(folder / "run")


def _rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_the_own_data_are_split_and_others_taken_whole_in_the_scaling_of_the_run(folder, run):
    (folder / "moved.csv").write_bytes((folder / "own.csv").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = run.with_data(folder / "moved.csv")
        assert torch.equal(moved.dataset("held_out").raw(), run.dataset("held_out").raw())
        assert moved.other is None
    other = run.with_data(folder / "other.csv")
    with pytest.warns(UserWarning, match=r"24 examples of other\.csv are not the run's own"):
        found = other.dataset("held_out")
    assert (len(found), found.scaling) == (24, run.scaling)
    assert torch.equal(other.dataset("train").raw(), run.dataset("train").raw())


@pytest.mark.parametrize(
    ("name", "why"),
    [("named.csv", "columns are a, c, were a, b"), ("wide.csv", "columns are a, b, c, were a, b")],
)
def test_data_that_do_not_fit_are_refused_by_name(folder, run, name, why):
    with pytest.raises(DataError, match=rf"{name} does not fit.*{why}"):
        evaluation.evaluate(run, [SAMPLER], data=folder / name)


def test_samples_are_measured_against_all_of_them_beside_the_floor_of_the_training_data(
    folder, run
):
    given = {"count": 40, "distances": ["energy"], "progress": False}
    with pytest.warns(UserWarning, match="not the run's own"):
        found = evaluation.evaluate(run, [SAMPLER], data=folder / "other.csv", **given)
    other = run.scaling.to_model(torch.from_numpy(np.round(_points(1, 24, 6.0), 6)))
    trained = run.dataset("train").tensor()
    direct = evaluation.distances(found.rows[0].samples, other, ["energy"], train=trained)
    assert found.rows[0].distances[0].value == pytest.approx(
        direct["energy"].distance.value, rel=1e-5
    )
    assert found.floors[0].value == pytest.approx(direct["energy"].floor.value, rel=1e-5)
    assert (found.data, found.floor_by, found.held_out) == ("24 examples of other.csv", "", 24)
    own = evaluation.evaluate(run, [SAMPLER], **given)
    assert (own.data, own.held_out) == ("", 20)
    assert own.floors[0].value < found.floors[0].value  # training and other data differ


def test_halves_give_the_floor_where_the_training_data_are_gone(run):
    record = replace(run.record, text="gone.csv", absolute=None)
    mine = from_tensor(torch.from_numpy(_points(3)), name="mine")
    gone = replace(run, record=record).with_data(mine)
    with pytest.warns(UserWarning, match="not the run's own"):
        parts = gone.measured_parts()
    assert (len(parts.floor), len(parts.reference)) == (30, 30)
    assert (parts.data, parts.floor_by) == ("half of 60 examples of mine", "the other half")


def test_bits_are_those_of_the_densities_in_the_terms_of_the_data(folder, run, tmp_path, capsys):
    out = tmp_path / "new" / "scores.csv"
    words = ["likelihood", str(folder / "run"), "--data", str(folder / "other.csv"), "--json"]
    words += ["--by", "flow(rtol=1e-4, atol=1e-4)", "bound(draws=2, times=2)", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "warning: the 24 examples of other.csv are not the run's own" in said.err
    assert json.loads(said.out)["data"] == "other.csv"
    rows = _rows(out)
    assert [int(row["index"]) for row in rows] == list(range(24))
    flow, bound = "[flow(rtol=1e-4, atol=1e-4)]", "[bound(draws=2, times=2)]"
    raw = torch.from_numpy(np.round(_points(1, 24, 6.0), 6)).float()
    direct = likelihood.bits_per_dim(run.model, raw, run.scaling, flow[1:-1], seed=0)
    bits = torch.tensor([float(row[f"bits_per_dim{flow}"]) for row in rows]).double()
    torch.testing.assert_close(bits, direct.values, rtol=1e-4, atol=1e-4)
    for row in rows:
        nats = -2 * math.log(2) * float(row[f"bits_per_dim{flow}"])
        assert float(row[f"log_prob{flow}"]) == pytest.approx(nats)
        assert float(row[f"standard_error{bound}"]) > 0
        assert f"standard_error{flow}" not in row  # nothing is drawn


def test_scores_of_the_held_out_part_are_numbered_as_the_file_is(folder, run, tmp_path):
    """Every ending holds the same table, and a failure leaves the file of before."""
    found = evaluation.likelihood(run, ["bound(draws=1, times=2)"], num=5, progress=False)
    held_out = run.dataset("held_out")
    assert found.scores["index"] == held_out.rows[:5].tolist()
    assert torch.equal(run.dataset()[found.scores["index"]], held_out[:5])
    from sde_score.report import write_scores

    columns = {**found.scores, "label": ["x", "y,z", "", "u", "v"]}
    for ending in (".csv", ".json", ".npy", ".parquet"):
        write_scores(columns, tmp_path / f"s{ending}")
    import pandas

    name = "bits_per_dim[bound(draws=1, times=2)]"
    tables = [
        pandas.read_csv(tmp_path / "s.csv", keep_default_na=False),
        pandas.read_json(tmp_path / "s.json"),
        pandas.DataFrame(np.load(tmp_path / "s.npy")),
        pandas.read_parquet(tmp_path / "s.parquet"),
    ]
    for table in tables:
        assert table["index"].tolist() == columns["index"]
        assert table["label"].tolist() == columns["label"]
        assert table[name].tolist() == pytest.approx(columns[name])
    before = (tmp_path / "s.csv").read_bytes()
    with pytest.raises(ValueError, match="is shorter than"):
        write_scores({"a": [1, 2], "b": [1]}, tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_bytes() == before
    assert not list(tmp_path.glob(".*tmp"))


def test_a_copy_of_a_training_example_is_at_distance_zero(folder, run, tmp_path, monkeypatch):
    monkeypatch.setattr("sde_score.evaluation.scores.BLOCK_NUMBERS", 7 * 2048)  # 7 at once
    train_part = run.dataset("train")
    x = run.scaling.to_model(train_part[[3, 9]]).float()
    x[1] += torch.tensor([0.02, 0.0])
    from sde_score.evaluation.scores import nearest_examples

    distance, where = nearest_examples(x, train_part)
    assert where.tolist() == [3, 9]
    assert distance.tolist() == pytest.approx([0.0, 0.02 / math.sqrt(2)], abs=1e-7)
    out = tmp_path / "scores.csv"
    words = ["evaluate", str(folder / "run"), "--samplers", SAMPLER, "--num", "30", "--out"]
    assert main([*words, str(out), "--distances", "energy", "--no-progress"]) == 0
    rows = _rows(out)
    assert [row["sampler"] for row in rows] == [SAMPLER] * 30 + ["real data"] * 20
    real = rows[30]
    assert int(real["index"]) == int(run.dataset("held_out").rows[0])
    whole = run.scaling.to_model(run.dataset().raw()).double()
    nearest = whole[int(real["nearest_train_index"])] - whole[int(real["index"])]
    assert float(real["nearest_train"]) == pytest.approx(float(nearest.square().mean().sqrt()))


def test_classes_of_other_data_are_found_by_name(tmp_path):
    x = torch.from_numpy(_points(0))
    own = from_tensor(x, torch.arange(60) % 3, name="own", class_names=("a", "b", "c"))
    config = TrainConfig(data=own, steps=2, batch_size=8, backbone="mlp(width=8)", held_out=0.15,
                         conditional=True)  # fmt: skip
    run = train(config, tmp_path / "run", progress=False)
    labels = torch.tensor([0, 1] * 5)
    other = from_tensor(x[:10] + 1, labels, name="two", class_names=("c", "a"))
    run_on_other = run.with_data(other)
    with pytest.warns(UserWarning, match="not the run's own"):
        found = run_on_other.dataset()
    assert found.labels.tolist() == [2, 0] * 5
    by = ["bound(draws=1, times=2)"]
    scores = evaluation.likelihood(run_on_other, by, num=3, progress=False).scores
    assert scores["label"] == ["c", "a", "c"]
    strange = from_tensor(x[:10] + 1, labels, name="two", class_names=("c", "z"))
    with pytest.raises(DataError, match=r"two does not fit.*classes z are none of a, b, c"):
        run.with_data(strange).dataset()
    bare = from_tensor(x[:10] + 1, name="bare")
    for measure in (evaluation.likelihood, evaluation.compare):
        with (
            pytest.warns(UserWarning, match="not the run's own"),
            pytest.raises(ValueError, match=r"bare does not say.*one of 3 labels"),
        ):
            measure(run, data=bare, progress=False)


def test_a_comparison_keeps_results_of_other_data_apart(folder, run, tmp_path):
    given = {"views": ["ddim"], "nfes": [3], "count": 8, "bits_examples": 4, "folder": tmp_path}
    given |= {"extractor": "pixels", "progress": False}
    own = evaluation.compare(run, **given)
    with pytest.warns(UserWarning, match="not the run's own"):
        other = evaluation.compare(run, data=folder / "other.csv", **given)
    assert other.data == "24 examples of other.csv"
    assert own.rows[0].distances != other.rows[0].distances
    assert len((tmp_path / "comparison.jsonl").read_text().splitlines()) == 4
    again = evaluation.compare(run, **given)
    assert again == own
    from sde_score.report import write_comparison

    write_comparison(run, own, tmp_path)
    rows = _rows(tmp_path / "comparison-scores.csv")
    name = next(iter(own.bits))
    assert [float(row[f"bits_per_dim[{name}]"]) for row in rows] == list(own.bits[name].values)
    assert [int(row["index"]) for row in rows] == run.dataset("held_out").rows[:4].tolist()


def test_a_table_is_encoded_as_the_own_one_is(tmp_path):
    """A file that lacks a category has fewer columns until it is read as the run's own."""
    letters = np.array(["x", "y", "z"])
    for name, count, kinds in (("own.csv", 60, 3), ("few.csv", 10, 2), ("new.csv", 10, 1)):
        rows = [f"{i / 7},{'q' if kinds == 1 else letters[i % kinds]}" for i in range(count)]
        (tmp_path / name).write_text("\n".join(["a,kind", *rows]))
    config = TrainConfig(
        data=str(tmp_path / "own.csv"), steps=1, batch_size=8, backbone="mlp(width=8)"
    )
    run = train(config, tmp_path / "run", progress=False)
    with pytest.warns(UserWarning, match="not the run's own"):
        few = run.with_data(tmp_path / "few.csv").dataset()
    own = run.dataset()[[0, 1, 3, 4]]  # their kinds are those of rows 0 1 0 1
    assert torch.equal(few.raw()[[0, 1]], own[:2])
    assert few.event_shape == run.event_shape
    assert torch.equal(few.raw()[2, 1:], own[0, 1:])
    with pytest.raises(DataError, match=r"new\.csv"):
        run.with_data(tmp_path / "new.csv").dataset()
