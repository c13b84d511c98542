"""Changes on the way: the learning rate and the like, where the user says so, and noted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sde_score.cli import main
from sde_score.training import ADJUSTABLE, Metrics, TrainingError, load_config, load_run, train


@pytest.fixture
def go_on(config, tmp_path):
    """Train the run in `run` with changes on the way."""

    def call(changes=None, steps=8, **given):
        changed = replace(config, steps=steps, **given)
        return train(changed, tmp_path / "run", progress=False, continue_with=changes)

    return call


def test_a_rate_changes_from_the_checkpoint_on_and_is_noted(go_on, measured, tmp_path):
    go_on(steps=4)
    run = go_on({"learning_rate": 0.002, "clip": 0.5})
    assert (run.config.learning_rate, run.config.clip) == (0.002, 0.5)
    assert [line["learning_rate"] for line in run.metrics] == [0.01, 0.002, 0.002]
    (note,) = Metrics(tmp_path / "run" / "metrics.jsonl").notes()
    assert note == {
        "step": 4,
        "continue_with": {"learning_rate": [0.01, 0.002], "clip": [1.0, 0.5]},
    }
    assert go_on(steps=9, learning_rate=0.002, clip=0.5).step == 9
    assert go_on({"learning_rate": 0.002, "clip": 0.5}, steps=10).step == 10
    assert len(Metrics(tmp_path / "run" / "metrics.jsonl").notes()) == 1
    with pytest.raises(ValueError, match=r"rate is 0\.01, was 0\.002.*with learning_rate=0\.01 cl"):
        go_on(steps=11)


def test_a_change_that_was_cut_off_has_the_bits_of_one_that_was_not(
    config, go_on, tensor_bytes, tmp_path
):
    go_on(steps=4)
    go_on({"learning_rate": 0.002}, steps=8)
    whole = tensor_bytes(tmp_path / "run", 8)
    changed = replace(config, learning_rate=0.01)
    for steps, changes in ((4, None), (6, {"learning_rate": 0.002}), (8, {"learning_rate": 0.002})):
        train(
            replace(changed, steps=steps),
            tmp_path / "cut",
            progress=False,
            continue_with=changes,
        )
    assert tensor_bytes(tmp_path / "cut", 8) == whole
    go_on(steps=8, learning_rate=0.002)
    assert tensor_bytes(tmp_path / "run", 8) == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.5),
        ("schedule", "cosine(steps=3, end=0.5)"),
        ("warmup", 0),
        ("clip", 0.01),
        ("ema", 0.05),
        ("weight_decay", 0.1),
        ("precision", "bf16"),
    ],
)
def test_every_field_that_may_change_does(go_on, tensor_bytes, tmp_path, name, value):
    assert name in ADJUSTABLE
    go_on(steps=1, clip=0.5)
    same = go_on(steps=3, clip=0.5)
    kept = tensor_bytes(tmp_path / "run", 3)
    assert getattr(same.config, name) != value
    (tmp_path / "run").rename(tmp_path / "plain")
    go_on(steps=1, clip=0.5)
    changed = go_on({name: value}, steps=3, clip=0.5)
    assert getattr(changed.config, name) == value
    assert tensor_bytes(tmp_path / "run", 3) != kept


def test_what_may_not_change_is_refused(go_on, tmp_path):
    with pytest.raises(ValueError, match="holds none"):
        go_on({"learning_rate": 0.1})
    go_on(steps=1)
    for name, value in (("seed", 3), ("sde", "ve"), ("stepz", 3)):
        with pytest.raises(ValueError, match=rf"continue_with does not take {name}; accepted: lea"):
            go_on({name: value})
    with pytest.raises(ValueError, match="learning_rate=-1"):
        go_on({"learning_rate": -1})
    assert load_config(tmp_path / "run" / "config.yaml").learning_rate == 0.01


def test_a_diverged_run_is_told_what_it_is_then_allowed_to_do(config, tmp_path):
    given = {"clip": 0.0, "warmup": 0, "checkpoint_every": 1, "keep": 50, "log_every": 1}
    wild = replace(config, learning_rate=1e20, **given)
    train(replace(wild, steps=1, learning_rate=1e-3), tmp_path, progress=False)
    with pytest.raises(TrainingError, match="--continue-with learning_rate=1e") as caught:
        train(wild, tmp_path, progress=False, continue_with={"learning_rate": 1e20})
    assert "{'learning_rate': 1e+19}" in str(caught.value)
    calm = {"learning_rate": 1e-3}
    newest = max(load_run(tmp_path).step, 1)
    for step in range(newest, 1, -1):  # checkpoints of the wild rate are finite but useless
        for file in (tmp_path / "checkpoints" / f"step-{step}").iterdir():
            file.unlink()
        (tmp_path / "checkpoints" / f"step-{step}").rmdir()
    assert train(wild, tmp_path, progress=False, continue_with=calm).step == 12


def test_the_command_line_takes_changes_and_first_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plain = ["--data", "ring(n=60)", "--backbone", "mlp(width=8,depth=1)", "--batch-size", "8"]
    plain = ["train", *plain, "--device", "cpu", "--no-progress"]
    assert main([*plain, "--steps", "2", "--out", "a"]) == 0
    change = ["--continue-with", "learning-rate=1e-4", "precision=bf16"]
    assert main([*plain, "--steps", "3", "--out", "a", *change]) == 0
    config = load_config("a/config.yaml")
    assert (config.learning_rate, config.precision) == (1e-4, "bf16")
    assert main([*plain, "--steps", "1", "--out", "b", "--init-from", "a"]) == 0
    assert load_config("b/config.yaml").init_from == str(tmp_path / "a")
    assert main([*plain, "--steps", "4", "--out", "a", "--continue-with", "clip"]) == 2
    assert "must be name=value" in capsys.readouterr().err
