"""A run knows its data: nothing is trained on, or measured against, other data unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sde_score.data import DataError, Scaling, from_tensor
from sde_score.training import CheckpointError, load_run

POINTS = {"backbone": "mlp(width=8, depth=1)", "conditional": False, "steps": 2}


def _numbers(seed=0, count=50):
    return np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32)


@pytest.fixture
def on_file(run_to, tmp_path, monkeypatch):
    """A run in `run`, trained on the file `d.npz` in the working directory."""
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=_numbers(), labels=np.arange(50) % 3)
    run_to(Path("run"), **POINTS, data="d.npz")
    return lambda **given: run_to(Path("run"), **{**POINTS, "data": "d.npz", "steps": 3, **given})


CHANGES = {
    "other numbers": (_numbers(1), np.arange(50) % 3, "examples are others"),
    "one number": (_numbers() + 1e-6 * (np.arange(100) == 7).reshape(50, 2), None, "examples"),
    "other order": (_numbers()[::-1].copy(), np.arange(50)[::-1].copy() % 3, "or in another order"),
    "other labels": (_numbers(), (np.arange(50) + 1) % 3, "the labels are others"),
    "no labels": (_numbers(), None, "the labels are others"),
    "fewer": (_numbers()[:40], np.arange(40) % 3, "are 40 examples, there were 50"),
    "another shape": (_numbers().reshape(50, 1, 2), np.arange(50) % 3, r"shape \(1, 2\), had \(2,"),
    "more in front": (
        np.concatenate([_numbers(5, 9), _numbers()]),
        np.arange(59) % 3,
        "others.* and 9 more",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_data_that_changed_are_refused_with_what_changed(on_file, name):
    x, labels, why = CHANGES[name]
    arrays = {"x": x.astype(np.float32)} | ({} if labels is None else {"labels": labels})
    np.savez("d.npz", **arrays)
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=why):
        on_file()
    with pytest.raises(DataError, match=why):
        load_run("run").dataset("held_out")
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


def test_held_out_members_stay_when_a_file_grows(on_file, tensor_bytes):
    train, held_out = (load_run("run").dataset(part).raw() for part in ("train", "held_out"))
    scaling = load_run("run").dataset().scaling
    grown = np.concatenate([_numbers(), _numbers(9, 30) * 20])
    np.savez("d.npz", x=grown, labels=np.arange(80) % 50 % 3)
    run = load_run("run")
    with pytest.warns(UserWarning, match=r"grown by 30 examples.*left out.*init_from"):
        assert torch.equal(run.dataset("held_out").raw(), held_out)
    assert torch.equal(run.dataset("train").raw(), train)
    assert run.dataset().scaling == scaling
    with pytest.warns(UserWarning, match="grown by 30"):
        on_file()
    weights = tensor_bytes(Path("run"), 3)
    np.savez("d.npz", x=_numbers(), labels=np.arange(50) % 3)
    on_file(steps=4)
    assert weights == tensor_bytes(Path("run"), 3)


def test_a_run_is_used_from_another_folder_and_after_its_data_moved(on_file, tmp_path, monkeypatch):
    held_out = load_run("run").dataset("held_out").raw()
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert torch.equal(load_run("../run").dataset("held_out").raw(), held_out)
    Path("../d.npz").rename("e.npz")
    with pytest.raises(DataError, match=r"'d\.npz', are not at hand.*data="):
        load_run("../run").dataset()
    assert torch.equal(load_run("../run", data="e.npz").dataset("held_out").raw(), held_out)
    assert torch.equal(load_run("../run").with_data(Path("e.npz")).dataset()[:3], _first_three())
    Path("e.npz").rename("d.npz")  # project and data moved together: the typed path is tried
    assert torch.equal(load_run("../run").dataset("held_out").raw(), held_out)


def _first_three():
    return torch.from_numpy(_numbers()[:3])


def test_a_run_goes_on_by_another_path_to_the_same_data(on_file, tmp_path):
    assert on_file(data=str(tmp_path / "d.npz")).step == 3
    assert load_run("run").config.data == "d.npz"
    np.savez("other.npz", x=_numbers(1), labels=np.arange(50) % 3)
    with pytest.raises(DataError, match=r"data is 'other\.npz', was 'd\.npz'"):
        on_file(data="other.npz", steps=4)


def test_data_in_memory_are_noted_and_asked_for(run_to, tmp_path):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) + 500
    mine = from_tensor(x, torch.arange(60) % 2, name="mine", class_names=("no", "yes"))
    run = run_to(tmp_path, **POINTS, data=mine)
    assert run.config.data == "<mine>"
    assert run.class_names == ("no", "yes")
    held_out = run.dataset("held_out").raw()
    assert held_out.mean() == pytest.approx(500, abs=1)
    opened = load_run(tmp_path)
    with pytest.raises(DataError, match=r"given in memory, <mine>.*load_run\(path, data="):
        opened.dataset()
    with pytest.raises(DataError, match=r"data is 'gaussians.*was '<mine>'.*give data="):
        run_to(tmp_path, **POINTS)
    again = from_tensor(x, torch.arange(60) % 2, name="mine", class_names=("no", "yes"))
    for given in (load_run(tmp_path, data=again), opened.with_data(again)):
        assert torch.equal(given.dataset("held_out").raw(), held_out)
    other = from_tensor(x + 1, torch.arange(60) % 2, name="mine", class_names=("no", "yes"))
    with pytest.raises(DataError, match="examples are others"):
        _ = opened.with_data(other).recognized
    with pytest.warns(UserWarning, match="60 examples of mine are not the run's own"):
        assert torch.equal(opened.with_data(other).dataset().raw(), other.raw())
    renamed = from_tensor(x, torch.arange(60) % 2, name="mine", class_names=("yes", "no"))
    with pytest.raises(DataError, match=r"classes are named \('yes', 'no'\)"):
        _ = opened.with_data(renamed).recognized


def test_another_scaling_of_the_same_numbers_is_refused(run_to, tmp_path):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    run_to(tmp_path, **POINTS, data=from_tensor(x, scaling=Scaling()))
    other = from_tensor(x, scaling=Scaling(0.0, 2.0))
    with pytest.raises(DataError, match=r"the scaling is Scaling\(center=0\.0, width=2\.0"):
        run_to(tmp_path, **{**POINTS, "steps": 3}, data=other)


def test_generated_data_may_differ_by_rounding(run_to, tmp_path, register_for_test):
    """Another machine computes the same toy to other last bits; other toys are refused."""
    from sde_score.data import NAMED

    x, shift = torch.from_numpy(_numbers(3)), {"by": 0.0}
    register_for_test(NAMED, "toy", lambda: from_tensor(x + shift["by"] * x, scaling=Scaling()))
    run_to(tmp_path, **POINTS, data="toy")
    shift["by"] = 1.2e-7
    assert not torch.equal(x + shift["by"] * x, x)
    assert len(load_run(tmp_path).dataset()) == 50
    shift["by"] = 1e-4
    with pytest.raises(DataError, match="examples are others"):
        load_run(tmp_path).dataset()


def test_the_record_says_what_the_run_was_trained_on(on_file, tmp_path):
    record = json.loads(Path("run/data.json").read_text())
    assert record["text"] == "d.npz"
    assert record["absolute"] == str(tmp_path / "d.npz")
    assert (record["name"], record["count"], record["num_classes"]) == ("d.npz", 50, 3)
    assert load_run("run").record.scaling == load_run("run").scaling


HOSTILE = {
    "empty": lambda text: "",
    "cut": lambda text: text[:100],
    "deep": lambda text: "[" * 100_000,
    "list": lambda text: "[]",
    "huge": lambda text: text + " " * (1 << 20),
    "extra": lambda text: text.replace('"count"', '"extra": 1, "count"'),
    "missing": lambda text: text.replace('"count": 50,', ""),
    "count": lambda text: text.replace('"count": 50', '"count": -1'),
    "shape": lambda text: text.replace('"event_shape": [', '"event_shape": ["x", '),
    "fingerprint": lambda text: text.replace('"rows": ', '"rows": 3, "more": '),
    "scaling": lambda text: text.replace('"width"', '"depth"'),
    "nan": lambda text: text.replace('"size": ', '"size": NaN, "also": '),
    "text": lambda text: text.replace('"text": "d.npz"', '"text": 3'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_damaged_or_hostile_record_is_refused_by_its_name(on_file, kind):
    path = Path("run/data.json")
    changed = HOSTILE[kind](path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with pytest.raises(CheckpointError, match=r"data\.json"):
        load_run("run")
    with pytest.raises(CheckpointError, match=r"data\.json"):
        on_file()


def test_a_file_read_in_another_way_is_said(run_to, tmp_path):
    """The run keeps its own scaling, whatever levels the file is read with later."""
    levels = np.arange(4 * 25, dtype=np.uint8).reshape(4, 1, 5, 5) % 4
    np.save(tmp_path / "x.npy", levels)
    plain, other = (str(tmp_path / f"x.npy{more}") for more in ("", "(levels=256)"))
    given = {**POINTS, "held_out": 0.25, "batch_size": 2}
    run = run_to(tmp_path / "run", **given, data=plain)
    assert run.scaling.levels == 4
    with pytest.warns(UserWarning, match=r"read with Scaling\(.*levels=256.*the run keeps its own"):
        assert run.with_data(other).dataset().scaling == run.scaling
    with pytest.warns(UserWarning, match="keeps its own"):
        more = run_to(tmp_path / "run", **{**given, "steps": 3}, data=other)
    assert (more.step, more.scaling.levels) == (3, 4)


def test_classes_are_found_by_their_names(run_to, tmp_path):
    labels, names = torch.arange(50) % 3, ("cat", "dog", "7")
    pets = from_tensor(torch.from_numpy(_numbers()), labels, class_names=names)
    run = run_to(tmp_path / "run", **{**POINTS, "conditional": True}, data=pets)
    for label, index in (("cat", 0), ("7", 2), ("1", 1), (2, 2)):
        assert run.labels_of(label, 2).tolist() == [index] * 2
    with pytest.raises(ValueError, match=r"label=cow is no class of this run, .* cat, dog, 7"):
        run.labels_of("cow", 1)
    plain = run_to(tmp_path / "plain", **POINTS, data=pets)
    with pytest.raises(ValueError, match="train it with --conditional"):
        plain.labels_of("cat", 1)
