"""float16: the scale of the loss, steps that are left out, and runs that carry both."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sde_score.training import TrainingError, Update, load_config, prepare, train
from sde_score.training import half_precision as half
from sde_score.training.meter import Meter
from sde_score.training.optimizers import OPTIMIZERS

INF = float("inf")


@pytest.mark.parametrize("optimizer", ["adam", "adam(decay='coupled')"])
def test_scale_weights_and_moments_are_those_of_torchs_scaler(optimizer):
    """Overflow at once, growth, overflow again: beside torch.amp.GradScaler, step by step."""
    gradients = [INF, 1.0, 0.5, float("nan"), 2.0, -1.0, 0.25, 3.0]
    theirs, ours = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    adam = (torch.optim.AdamW if optimizer == "adam" else torch.optim.Adam)(
        [theirs], 0.1, weight_decay=0.1, fused=True
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    made = half.LossScaler(8.0, interval=2)
    choice = OPTIMIZERS.create(optimizer)
    update = Update({"w": ours}, 0.1, weight_decay=0.1, optimizer=choice, scaler=made)
    for step, gradient in enumerate(gradients):
        scaler.scale((theirs * gradient).sum()).backward()
        scaler.step(adam)
        scaler.update()
        adam.zero_grad()
        update.scaled((ours * gradient).sum()).backward()
        norm = update.apply(step)
        assert (norm is None) == (gradient in (INF, gradients[3]))
        assert norm is None or norm == pytest.approx(abs(gradient) * 2**0.5)
        assert update.scaling[0] == scaler.get_scale()
        assert torch.equal(ours, theirs)
        assert {k: (v.shape, v.dtype) for k, v in update.state().items()} == {
            k: (v.shape, v.dtype) for k, v in update.expected_state().items()
        }
    assert torch.equal(update.state()["w/step"], torch.tensor(6.0))


def test_muon_leaves_a_step_out_as_well():
    torch.manual_seed(0)
    named = {f"w{i}": nn.Parameter(torch.randn(3, 3)) for i in range(3)}
    before = [w.detach().clone() for w in named.values()]
    update = Update(named, 0.1, optimizer=OPTIMIZERS.create("muon"), scaler=half.LossScaler())
    for weight in named.values():
        weight.grad = torch.full_like(weight, INF)
    assert update.apply(0) is None
    assert all(torch.equal(a, b) for a, b in zip(before, named.values(), strict=True))
    assert not any(value.any() for value in update.state().values())
    assert update.state().keys() == update.expected_state().keys()


def test_gradients_that_overflow_at_every_scale_stop_the_run():
    scaler = half.LossScaler(2.0)
    assert not scaler.update(torch.tensor(INF))
    with pytest.raises(TrainingError, match=r"--continue-with precision=bf16"):
        scaler.update(torch.tensor(INF))


def test_the_mean_norm_is_that_of_the_steps_taken():
    meter = Meter(SimpleNamespace(device="cpu", num_processes=1))
    meter.add(torch.tensor(1.0), torch.tensor(4.0))
    meter.add(torch.tensor(2.0), None)
    line = meter.line(1, 8.0)
    named = [line[name] for name in ("loss", "grad_norm", "loss_scale", "skipped_steps")]
    assert named == [1.5, 4.0, 8.0, 1]
    assert meter.skipped == 0


def test_a_run_says_what_it_left_out_and_resumes_to_the_same_bits(
    run_to, tensor_bytes, measured, tmp_path, monkeypatch
):
    """A first scale far too large: the checkpoint of step 3 is of weights that never moved, in the
    middle of a line of metrics."""
    monkeypatch.setattr(half, "FIRST", 2.0**21)
    given = {"precision": "fp16", "checkpoint_every": 3, "keep": 9}
    run = run_to(tmp_path, **given)
    whole, lines = tensor_bytes(tmp_path, 12), measured(tmp_path)
    for step in (6, 9, 12):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step}")
    run_to(tmp_path, **given)
    assert tensor_bytes(tmp_path, 12) == whole
    assert measured(tmp_path) == lines
    assert lines[0]["skipped_steps"] >= 3
    assert lines[-1]["skipped_steps"] == 0
    left_out = sum(line["skipped_steps"] for line in lines)
    assert lines[-1]["loss_scale"] == 2.0 ** (21 - left_out)
    assert all(0 < line["grad_norm"] < 100 for line in lines)
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_a_run_may_go_on_in_another_precision(run_to, tmp_path):
    run_to(tmp_path, steps=4, precision="fp16")
    from sde_score.training import load_config, train

    for precision in ("bf16", "fp16"):
        config = load_config(tmp_path / "config.yaml")
        train(config, tmp_path, continue_with={"precision": precision}, progress=False)


@pytest.mark.parametrize("change", [{"model": "energy"}, {"objective": "hutchinson"}])
def test_derivatives_in_x_are_refused(run_to, tmp_path, change):
    with pytest.raises(ValueError, match=r"holds derivatives in x besides.*precision=bf16"):
        run_to(tmp_path, precision="fp16", **change)


def test_a_torch_without_it_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    with pytest.raises(ValueError, match=r"precision='fp16' is not available on cpu in torch"):
        half.autocast("cpu", "fp16")
    assert half.autocast("cpu", "float32") is None


@pytest.mark.parametrize(
    ("changes", "large", "has_units", "taken"),
    [
        ({}, 1, True, "bf16"),
        ({}, 1, False, "float32"),
        ({}, half.LARGE, True, "float32"),
        ({"precision": "float32"}, 1, True, "float32"),
        ({"backbone": "mlp(width=4, depth=1)"}, 1, True, "float32"),
        ({"objective": "hutchinson"}, 1, True, "float32"),
        ({"objective": "finite-difference"}, 1, True, "float32"),
        ({"model": "energy"}, 1, True, "float32"),
    ],
)
def test_bfloat16_is_taken_by_itself_where_it_pays(
    changes, large, has_units, taken, config, tmp_path, monkeypatch
):
    monkeypatch.setattr(half, "LARGE", large)
    monkeypatch.setattr(half, "multiplies_bfloat16", lambda device: has_units)
    network = "unet(base=4, multipliers=(1,), blocks=1, attention=())"
    given = {"data": "digits", "backbone": network, "conditional": False, "precision": "auto"}
    job = prepare(replace(config, **{**given, **changes}), tmp_path)
    assert job.config.precision == job.settled.precision == taken


def test_a_run_keeps_the_precision_that_it_took(config, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(half, "LARGE", 1)
    monkeypatch.setattr(half, "multiplies_bfloat16", lambda device: True)
    network = "unet(base=4, multipliers=(1,), blocks=1, attention=())"
    config = replace(
        config, data="digits", backbone=network, conditional=False, precision="auto", steps=1
    )
    train(config, tmp_path)
    assert "precision: bf16" in capfd.readouterr().err
    monkeypatch.setattr(half, "multiplies_bfloat16", lambda device: False)
    run = train(replace(config, steps=2), tmp_path)
    assert run.config.precision == load_config(tmp_path / "config.yaml").precision == "bf16"
