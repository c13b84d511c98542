"""Checkpoints: whole or absent, checked when read, never trusted."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from sde_score._core import files as _files
from sde_score.data import Scaling
from sde_score.training import (
    CheckpointError,
    Checkpoints,
    DataFacts,
    Trainer,
    TrainState,
    checkpoint,
    load_run,
    prepare,
)

FILES = (*(f"{name}.safetensors" for name in checkpoint.TENSORS), "state.json")
FACTS = DataFacts("toy", 50, (2,), 0, Scaling((0.5, 1.0), (2.0, 0.1 + 0.2)))


def _tensors(value):
    return {name: {"w": torch.full((3, 2), value + i)} for i, name in enumerate(checkpoint.TENSORS)}


def _sign(folder):
    """Recompute the sums, as someone who means harm would."""
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in FILES]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.fixture
def trained(run_to, tmp_path):
    """A run directory with checkpoints of steps 8 and 12."""
    run_to(tmp_path / "run")
    return tmp_path / "run"


def test_what_is_saved_is_read_back_to_the_bit(tmp_path):
    store = Checkpoints(tmp_path / "checkpoints")
    state = TrainState(3, 8, FACTS, 1.1, 0.1 + 0.2, 1e-300, 2)
    tensors = _tensors(0.0)
    tensors["model"] = {"w": torch.randn(4, 3).T, "step": torch.tensor(3.0), "n": torch.arange(3)}
    store.save(state, tensors)
    assert store.state(3) == state
    for name in checkpoint.TENSORS:
        found = store.tensors(3, name, tensors[name])
        assert found.keys() == tensors[name].keys()
        assert all(torch.equal(found[k], tensors[name][k]) for k in found)
    assert sorted(p.name for p in store.path(3).iterdir()) == sorted([*FILES, "SHA256SUMS"])


def test_a_checkpoint_is_never_overwritten(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(TrainState(3, 8, FACTS), _tensors(0.0))
    with pytest.raises(CheckpointError, match="exists already"):
        store.save(TrainState(3, 8, FACTS), _tensors(1.0))
    assert float(store.tensors(3, "model", _tensors(0.0)["model"])["w"][0, 0]) == 0


def test_only_step_folders_count_and_the_newest_is_by_number(tmp_path):
    store = Checkpoints(tmp_path / "absent")
    assert store.steps() == []
    assert store.newest() is None
    store = Checkpoints(tmp_path)
    for name in ("step-9", "step-10", "step-0", "step-07", "step-1x", ".step-11.tmp", "step--3"):
        (tmp_path / name).mkdir()
    assert store.steps() == [9, 10]
    assert store.newest() == 10


def test_tidying_keeps_the_newest_and_removes_leftovers(tmp_path):
    store = Checkpoints(tmp_path)
    for step in (2, 4, 10):
        store.save(TrainState(step, 8, FACTS), _tensors(float(step)))
    (tmp_path / ".step-7.tmp").mkdir()
    (tmp_path / ".step-2.tmp").mkdir()
    store.tidy(keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-4"]
    assert store.whole() == [4, 10]


class _Killed(BaseException):
    pass


def test_a_kill_at_any_moment_of_saving_leaves_the_old_checkpoint_or_both(tmp_path, monkeypatch):
    """Killed before each call that touches the disk in turn, until one save goes through."""
    calls = {"left": 0}

    def dying(call):
        def wrapped(*args, **kwargs):
            calls["left"] -= 1
            if calls["left"] < 0:
                raise _Killed
            return call(*args, **kwargs)

        return wrapped

    store = Checkpoints(tmp_path)
    store.save(TrainState(1, 8, FACTS), _tensors(1.0))
    path = type(tmp_path)
    for owner, name in ((_files, "sync"), (checkpoint, "sync"), (path, "rename")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    for name in ("mkdir", "write_text"):
        monkeypatch.setattr(path, name, dying(getattr(path, name)))
    for name in ("begin_file", "fill_file"):
        monkeypatch.setattr(checkpoint, name, dying(getattr(checkpoint, name)))
    kills, budget = 0, 0
    while True:
        calls["left"] = budget
        budget += 1
        try:
            store.save(TrainState(2, 8, FACTS), _tensors(2.0))
            break
        except _Killed:
            kills += 1
            calls["left"] = 1000
            assert store.newest() == store.whole()[-1]
            if store.newest() == 2:  # killed after the rename
                shutil.rmtree(store.path(2))
            assert store.steps() == [1]
    assert kills > 14
    assert store.whole() == [1, 2]


def test_the_rename_comes_after_all_content_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(checkpoint, "sync", lambda path: synced.append(path.name))
    rename = type(tmp_path).rename

    def noting(self, target):
        synced.append("renamed")
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", noting)
    Checkpoints(tmp_path).save(TrainState(1, 8, FACTS), _tensors(1.0))
    count = len(FILES) + 1
    assert set(synced[:count]) == {*FILES, "SHA256SUMS"}
    assert re.fullmatch(r"\.step-1-\d+\.tmp", synced[count])
    assert synced[count + 1 :] == ["renamed", tmp_path.name]


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_any_damage_to_any_file_is_refused_by_name_and_whole_ones_are_told(
    trained, run_to, tensor_bytes, name
):
    path = trained / "checkpoints" / "step-12" / name
    good, older = path.read_bytes(), tensor_bytes(trained, 8)
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for bad in (b"", good[:5], good[:-2], flipped, b"\xff" * 64, None):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
        with pytest.raises(CheckpointError, match="step-12") as caught:
            run_to(trained, steps=16)
        blamed = [n for n in (*FILES, "SHA256SUMS") if f"step-12/{n} " in str(caught.value)]
        assert blamed
        assert name == "SHA256SUMS" or blamed == [name]
        assert "whole checkpoints" in str(caught.value)
        assert "checkpoints: step-8 (" in str(caught.value)
        if name in ("ema.safetensors", "state.json"):
            with pytest.raises(CheckpointError, match="step-12"):
                load_run(trained)
        assert load_run(trained, step=8).step == 8
    assert tensor_bytes(trained, 8) == older


def _edit(text, **changes):
    return json.dumps({**json.loads(text), **changes})


HOSTILE_STATES = {
    "not json": lambda text: "{",
    "deep": lambda text: "[" * 100_000,
    "list": lambda text: "[]",
    "null": lambda text: "null",
    "huge": lambda text: text + " " * (1 << 20),
    "another step": lambda text: _edit(text, step=11),
    "negative": lambda text: _edit(text, step=-12),
    "text step": lambda text: _edit(text, step="12"),
    "bool": lambda text: _edit(text, batch=True),
    "nan": lambda text: text.replace('"seconds": ', '"seconds": NaN, "x": '),
    "infinite": lambda text: _edit(text, loss_sum=float("inf")),
    "window": lambda text: _edit(text, window=-1),
    "extra": lambda text: _edit(text, extra=1),
    "no data": lambda text: _edit(text, data={}),
    "data list": lambda text: _edit(text, data=[]),
    "shape": lambda text: _edit(text, data={**json.loads(text)["data"], "event_shape": [-2]}),
    "shape word": lambda text: _edit(text, data={**json.loads(text)["data"], "event_shape": "22"}),
    "name": lambda text: _edit(text, data={**json.loads(text)["data"], "name": []}),
    "scaling": lambda text: _edit(text, data={**json.loads(text)["data"], "scaling": {"width": 0}}),
    "scaling list": lambda text: _edit(text, data={**json.loads(text)["data"], "scaling": []}),
    "missing": lambda text: json.dumps({"step": 12}),
    "versions": lambda text: _edit(text, versions=[]),
}


@pytest.mark.parametrize("kind", HOSTILE_STATES)
def test_a_hostile_state_with_right_sums_is_refused(trained, kind):
    folder = trained / "checkpoints" / "step-12"
    text = (folder / "state.json").read_text()
    (folder / "state.json").write_text(HOSTILE_STATES[kind](text))
    _sign(folder)
    with pytest.raises(CheckpointError, match=r"step-12/state\.json"):
        load_run(trained)


def test_hostile_tensors_with_right_sums_are_refused(trained, run_to):
    folder = trained / "checkpoints" / "step-12"
    for name in FILES[:3]:  # objective.safetensors holds nothing here
        path = folder / name
        good, tensors = path.read_bytes(), load_file(path)
        key = sorted(tensors)[0]
        bad = {
            "missing": {k: v for k, v in tensors.items() if k != key},
            "extra": {**tensors, "more": torch.zeros(1)},
            "shape": {**tensors, key: torch.zeros(1, 7)},
            "dtype": {**tensors, key: tensors[key].double()},
        }
        contents = [(b"\xff" * 8) + good[8:], (1 << 40).to_bytes(8, "little") + good[8:], b"PK"]
        for changed in bad.values():
            save_file(changed, path)
            contents.append(path.read_bytes())
        for content in contents:
            path.write_bytes(content)
            _sign(folder)
            with pytest.raises(CheckpointError, match=f"step-12/{name}"):
                run_to(trained, steps=16)
        path.write_bytes(good)
        _sign(folder)
    assert run_to(trained, steps=13).step == 13


def test_a_hostile_configuration_is_refused(trained):
    text = (trained / "config.yaml").read_text()
    for old, new in (
        ("mlp(width=8", "mlp(width=-8"),
        ("mlp(width=8", "nothing(width=8"),
        ("mlp(width=8", "mlp(width=16"),
        ("vp(beta_min", "vp(bata_min"),
    ):
        assert old in text
        (trained / "config.yaml").write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=r"config\.yaml|ema\.safetensors"):
            load_run(trained)


def test_a_folder_without_a_run_or_a_step_is_refused(trained, tmp_path):
    with pytest.raises(CheckpointError, match="not a run directory"):
        load_run(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        load_run(tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are: 8, 12"):
        load_run(trained, step=9)
    with pytest.raises(ValueError, match="weights="):
        load_run(trained, weights="best")
    shutil.rmtree(trained / "checkpoints")
    with pytest.raises(CheckpointError, match="no checkpoint; there are: none"):
        load_run(trained)


@pytest.fixture
def double_precision():
    """`torch.set_default_dtype(torch.float64)`, as other code of a process may have done."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_run_opens_and_goes_on_whatever_the_default_dtype(
    run_to, tensor_bytes, tmp_path, double_precision
):
    """What is opened has the bits of a process that never heard of float64."""
    torch.set_default_dtype(torch.float32)
    digest = run_to(tmp_path / "run", steps=8).digest
    noise = torch.zeros(3, 2)
    expected = load_run(tmp_path / "run").model.score(noise, 0.5, torch.zeros(3, dtype=torch.int64))
    torch.set_default_dtype(torch.float64)
    run = load_run(tmp_path / "run")
    assert run.digest == digest
    assert torch.equal(run.model.score(noise, 0.5, torch.zeros(3, dtype=torch.int64)), expected)
    more = run_to(tmp_path / "run")
    assert (more.step, next(more.model.parameters()).dtype) == (12, torch.float32)
    assert torch.get_default_dtype() == torch.float64
    begun = run_to(tmp_path / "begun")
    torch.set_default_dtype(torch.float32)
    whole = run_to(tmp_path / "whole")
    expected = tensor_bytes(whole.path, 12)
    assert all(tensor_bytes(run.path, 12) == expected for run in (more, begun))


class Watching(torch.nn.Linear):
    """A network of a user that notes the default dtype, in which it would make numbers."""

    seen: ClassVar[set[torch.dtype]] = set()

    def forward(self, x, t):
        self.seen.add(torch.get_default_dtype())
        return super().forward(x)


def test_networks_of_users_are_trained_in_float32_too(config, tmp_path, double_precision):
    config = replace(config, conditional=False, steps=1, backbone=Watching(2, 2).float())
    trainer = Trainer(prepare(config, tmp_path / "run"), progress=False)
    trainer._train_step = lambda usual=trainer._train_step: (Watching.seen.clear(), usual())
    trainer.run()
    assert Watching.seen == {torch.float32}


def test_a_run_of_float64_opens(run_to, tmp_path):
    """Earlier versions made networks in the default dtype of the process."""
    run_to(tmp_path)
    folder = tmp_path / "checkpoints" / "step-12"
    for name in ("model", "ema"):
        tensors = load_file(folder / f"{name}.safetensors")
        save_file({k: v.double() for k, v in tensors.items()}, folder / f"{name}.safetensors")
    _sign(folder)
    assert next(load_run(tmp_path).model.parameters()).dtype == torch.float64
