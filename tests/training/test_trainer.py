"""The loop: a run is a function of its configuration, however it is cut, killed or resumed."""

from __future__ import annotations

import math
import random
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from sde_score import data, objectives
from sde_score.random import generator_from
from sde_score.training import (
    Batches,
    TrainConfig,
    Trainer,
    TrainingError,
    TrainingInterrupted,
    build_model,
    load_config,
    load_run,
    prepare,
    resolve,
    train,
)

TENSORS = ("model", "ema", "optimizer", "objective")


class _Killed(BaseException):
    pass


def _kill_at(step):
    def on_samples(run, path):
        if path.name == f"step-{step}.png":
            raise _Killed

    return on_samples


@pytest.mark.parametrize("step", [1, 4, 6, 9, 11])
def test_a_killed_and_resumed_run_has_the_bits_of_one_that_was_not(
    run_to, tensor_bytes, measured, tmp_path, step
):
    """Killed before the first checkpoint, right after one, and inside a window of metrics."""
    whole = {"sample_every": 1, "on_samples": lambda run, path: None}
    run_to(tmp_path / "whole", **whole)
    with pytest.raises(_Killed):
        run_to(tmp_path / "cut", sample_every=1, on_samples=_kill_at(step))
    (tmp_path / "cut" / "metrics.jsonl").open("a").write('{"step": 7, "lo')  # cut short by a kill
    (tmp_path / "cut" / "checkpoints" / ".step-8.tmp").mkdir(parents=True)
    torch.manual_seed(step)  # whatever the global generator holds must not matter
    run_to(tmp_path / "cut", **whole)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    assert tensor_bytes(tmp_path / "cut", 8) == tensor_bytes(tmp_path / "whole", 8)
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()) == [
        "step-12",
        "step-8",
    ]


def test_images_resume_to_the_same_bits(run_to, tensor_bytes, tmp_path):
    """Channels-last weights, dequantized data, bf16 autocast."""
    changes = {
        "data": "digits",
        "backbone": "unet(base=4, multipliers=(1, 1), blocks=1, dropout=0.2)",
        "steps": 3,
        "batch_size": 2,
        "dequantize": True,
        "precision": "bf16",
        "checkpoint_every": 2,
    }
    run_to(tmp_path / "whole", **changes)
    run_to(tmp_path / "grown", **{**changes, "steps": 2})
    run_to(tmp_path / "grown", **changes)
    assert tensor_bytes(tmp_path / "grown", 3) == tensor_bytes(tmp_path / "whole", 3)
    weights = load_run(tmp_path / "grown").model.backbone.first.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert weights.dtype == torch.float32


def test_the_seed_names_the_run(run_to, tensor_bytes, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_to(tmp_path / name, seed=seed, steps=4)
    a, b, c = (tensor_bytes(tmp_path / name, 4) for name in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]


def test_micro_batches_change_nothing_but_rounding(run_to, measured, tmp_path):
    """One batch of 8, or 4 parts of 2: same weights, averages and metrics. No dropout here: its
    masks are drawn part by part."""
    plain = {"backbone": "mlp(width=8, depth=1)", "clip": 0.0}
    one = run_to(tmp_path / "one", **plain)
    four = run_to(tmp_path / "four", accumulate=4, **plain)
    for a, b in zip(one.model.parameters(), four.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(measured(tmp_path / "one"), measured(tmp_path / "four"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    start = build_model(one.config, (2,), 8)
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(start.parameters(), one.model.parameters(), strict=True)
    )
    assert moved > 1e-2


def test_the_first_steps_are_those_of_a_loop_written_by_hand(run_to, measured, tmp_path):
    """Loss of the examples that the order names, Adam, clipping and averages, line by line."""
    plain = {"backbone": "mlp(width=8, depth=1)", "steps": 5, "clip": 0.7, "log_every": 1}
    run = run_to(tmp_path, **plain)
    config, (examples, _) = run.config, data.load("gaussians(n=50)").split(0.1, seed=0)
    model = build_model(config, (2,), 8)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    adam = torch.optim.Adam(model.parameters(), lr=1.0, fused=False, foreach=False)
    order = data.EpochOrder(len(examples), seed=Batches(examples, config)._order.seed)
    objective = objectives.create("denoising")
    for k, line in enumerate(measured(tmp_path)):
        x0, labels = examples.batch(order.indices(8 * k, 8))
        lost = torch.rand(8, generator=generator_from(config.seed, 6, k), dtype=torch.float64)
        labels = torch.where(lost < 0.1, -1, labels)
        draws = generator_from(config.seed, 2, k)
        loss = objective(model, x0, labels, draws).mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.7)
        adam.param_groups[0]["lr"] = 0.01 * min(k / 3, 1)
        adam.step()
        decay = min(0.9, (2 + k) / (11 + k))
        for name, value in model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value
        assert line["step"] == k + 1
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert line["learning_rate"] == pytest.approx(0.01 * min(k / 3, 1))
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
    for name, value in load_run(tmp_path, "raw").model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_batch_is_the_same_however_it_is_cut():
    """Rows of data, labels and draws over 2 processes x 2 parts are those of the whole."""
    digits = data.load("digits")
    config = resolve(
        TrainConfig(batch_size=8, conditional=True, dequantize=True, backbone="mlp"), digits
    )
    (whole,) = Batches(digits, config).step(5)
    cut = replace(config, batch_size=4, accumulate=2)
    parts = [p for rank in (0, 1) for p in Batches(digits, cut, rank, 2).step(5)]
    assert torch.equal(torch.cat([p.x0 for p in parts]), whole.x0)
    assert torch.equal(torch.cat([p.condition for p in parts]), whole.condition)
    assert [(p.draws.start, p.draws.total) for p in parts] == [(0, 8), (2, 8), (4, 8), (6, 8)]
    assert len({p.draws.generator.initial_seed() for p in [whole, *parts]}) == 1
    (later,) = Batches(digits, config).step(6)
    assert later.draws.generator.initial_seed() != whole.draws.generator.initial_seed()
    exact = replace(config, dequantize=False, conditional=False)
    (plain,) = Batches(digits, exact).step(5)
    assert plain.condition is None
    gap = whole.x0 - plain.x0  # uniform over a bin of width 2 / 17
    assert float(gap.abs().max()) <= 1 / 17 + 1e-6
    assert float(gap.std()) == pytest.approx(2 / 17 / math.sqrt(12), rel=0.1)


def test_every_epoch_shows_every_training_example_once_and_no_held_out_one():
    whole = data.load("gaussians(n=40)")
    train_part, held_out = whole.split(0.1, seed=0)
    config = resolve(TrainConfig(data="gaussians(n=40)", batch_size=6), train_part)
    batches = Batches(train_part, config)
    seen = torch.cat([next(batches.step(k)).x0 for k in range(12)])  # two epochs of 36
    for epoch in seen.split(36):
        assert sorted(epoch.tolist()) == sorted(train_part.tensor().tolist())
    assert len(held_out) == 4
    assert not set(map(tuple, seen.tolist())) & set(map(tuple, held_out.tensor().tolist()))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_how_to_go_on_and_leaves_the_handlers(
    run_to, tensor_bytes, measured, tmp_path, signum
):
    def on_samples(run, path):
        if path.name == "step-6.png" and not path.parent.joinpath("once").exists():
            path.parent.joinpath("once").touch()
            signal.raise_signal(signum)

    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingInterrupted, match=r"after step 6 of 12.*again to go on") as caught:
        run_to(tmp_path / "cut", sample_every=1, on_samples=on_samples)
    assert caught.value.signum == signum
    assert not isinstance(caught.value, Exception)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert load_run(tmp_path / "cut").step == 6
    run_to(tmp_path / "cut", sample_every=1, on_samples=on_samples)
    run_to(tmp_path / "whole", sample_every=1, on_samples=lambda run, path: None)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")


def test_a_second_interrupt_stops_at_once(run_to, tmp_path):
    def on_samples(run, path):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        run_to(tmp_path, sample_every=3, on_samples=on_samples)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert load_config(tmp_path / "config.yaml").steps == 12


def test_training_runs_outside_the_main_thread(run_to, tmp_path):
    thread = threading.Thread(target=run_to, args=(tmp_path,))
    thread.start()
    thread.join()
    assert load_run(tmp_path).step == 12


def test_a_loss_that_is_not_a_number_stops_the_run_and_the_good_checkpoint_stays(
    run_to, tensor_bytes, tmp_path
):
    run_to(tmp_path, steps=8)
    good = tensor_bytes(tmp_path, 8)
    trainer = _poisoned(tmp_path)
    with pytest.raises(TrainingError, match=r"steps 9 to 10 .*step 8.*learning_rate"):
        trainer.run()
    assert load_run(tmp_path).step == 8
    assert tensor_bytes(tmp_path, 8) == good
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert run_to(tmp_path).step == 12


def _poisoned(out, **changes):
    trainer = Trainer(prepare(replace(load_config(out / "config.yaml"), steps=12, **changes), out))
    trainer.progress = False
    with torch.no_grad():
        next(trainer.model.parameters()).view(-1)[0] = math.nan
    return trainer


def test_a_checkpoint_never_holds_weights_that_are_not_finite(run_to, tmp_path):
    """The last update may break weights though every loss so far was finite."""
    run_to(tmp_path, steps=8)
    trainer = _poisoned(tmp_path, log_every=100)
    trainer.meter.is_finite = lambda: True
    with pytest.raises(TrainingError, match="a weight after step 12"):
        trainer.run()
    assert load_run(tmp_path).step == 8


def test_training_learns_the_score_of_a_gaussian(tmp_path):
    """Data N(m, s^2): the exact score is (alpha m - x) / (alpha^2 s^2 + sigma^2)."""
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.3
    config = TrainConfig(
        data="normal",
        backbone="mlp(width=24, depth=1)",
        steps=600,
        batch_size=128,
        learning_rate=0.01,
        ema=0.98,
        clip=0.0,
        held_out=0.0,
        warmup=10,
        device="cpu",
    )
    dataset = data.from_tensor(x, scaling=data.Scaling(), name="normal")
    run = train(config, tmp_path, progress=False, data=dataset)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 12
    sde = run.model.sde
    for t in (0.2, 0.5, 0.8):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        std = math.sqrt((alpha * 0.5) ** 2 + sigma**2)
        points = alpha * 0.3 + std * torch.linspace(-1.5, 1.5, 13)[:, None]
        with torch.no_grad():
            noise = run.model.noise(points, t)
        exact = sigma * (points - alpha * 0.3) / std**2
        assert float((noise - exact).square().mean().sqrt()) < 0.12


def test_another_configuration_is_refused_and_nothing_is_touched(run_to, tensor_bytes, tmp_path):
    run_to(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for changes, why in (
        ({"seed": 1}, "seed is 1, was 0"),
        ({"sde": "vp(beta_max=19.0)", "ema": 0.5}, "sde is .*; ema is 0.5, was 0.9"),
        ({"data": "gaussians(n=51)"}, "data is"),
        ({"batch_size": 16}, "batch_size=16.*begun with 8"),
        ({"steps": 11}, "steps=11 is less than the 12"),
    ):
        with pytest.raises(ValueError, match=why):
            run_to(tmp_path, **changes)
    with pytest.raises(ValueError, match="holds a run already"):
        run_to(tmp_path, resume=False)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_data_that_changed_under_the_same_name_are_refused(run_to, tmp_path):
    def blobs(scale):
        x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * scale
        return data.from_tensor(x, torch.arange(50) % 8, name="blobs")

    run_to(tmp_path, data=blobs(1.0), steps=4)
    assert run_to(tmp_path, data=blobs(1.0), steps=5).step == 5
    with pytest.raises(ValueError, match="has changed since"):
        run_to(tmp_path, data=blobs(2.0), steps=6)


def test_checkpoints_without_their_configuration_are_not_written_over(run_to, tmp_path):
    run_to(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"config\.yaml is missing"):
        run_to(tmp_path)


def test_a_finished_run_is_opened_not_trained_again(run_to, tensor_bytes, tmp_path):
    run_to(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert run_to(tmp_path).step == 12
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_the_newest_checkpoints_are_kept(run_to, tmp_path):
    run_to(tmp_path, checkpoint_every=2, keep=3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-10",
        "step-12",
        "step-8",
    ]


def test_a_run_remembers_what_is_needed_to_use_it(run_to, tmp_path):
    run = run_to(tmp_path, data="digits", backbone="mlp(width=8, depth=1)", held_out=0.25)
    assert (run.event_shape, run.num_classes, run.step) == ((1, 8, 8), 10, 12)
    assert run.scaling == data.Scaling.discrete(17)
    assert not run.model.training
    assert run.config == load_config(tmp_path / "config.yaml")
    sizes = [len(run.dataset(part)) for part in ("all", "train", "held_out")]
    assert sizes == [1797, 1797 - 449, 449]
    assert torch.equal(
        run.dataset("held_out").tensor(), data.load("digits").split(0.25, seed=0)[1].tensor()
    )
    with pytest.raises(ValueError, match="part="):
        run.dataset("test")
    trained_on_all = run_to(tmp_path / "all", held_out=0.0, steps=1)
    with pytest.raises(ValueError, match="held_out=0"):
        trained_on_all.dataset("held_out")


def test_samples_are_asked_for_with_averaged_weights_in_evaluation_mode(run_to, tmp_path):
    seen = {}

    def on_samples(run, path):
        seen[path] = {k: v.clone() for k, v in run.model.state_dict().items()}
        assert not run.model.training

    run_to(tmp_path, sample_every=4, on_samples=on_samples, checkpoint_every=4, keep=3)
    assert sorted(seen) == [tmp_path / "samples" / f"step-{k}.png" for k in (12, 4, 8)]
    for path, weights in seen.items():
        average = load_run(tmp_path, step=int(path.stem[5:])).model.state_dict()
        assert all(torch.equal(weights[k], average[k]) for k in average)
    with pytest.raises(ValueError, match="sample_every needs on_samples"):
        run_to(tmp_path, sample_every=4)


def test_global_random_states_are_left_as_found(run_to, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    run_to(tmp_path)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_dropout_differs_from_step_to_step(config, tmp_path):
    trainer = Trainer(
        prepare(replace(config, backbone="mlp(width=8, depth=1, dropout=0.5)"), tmp_path)
    )
    masks = []
    dropout = trainer.model.backbone.blocks[0].dropout
    dropout.register_forward_hook(lambda module, args, out: masks.append((out == 0).clone()))
    trainer._train_step()
    trainer._train_step()
    assert masks[0].any()
    assert not torch.equal(masks[0], masks[1])


def test_progress_is_silent_when_told_and_speaks_when_not(config, capsys, tmp_path):
    train(config, tmp_path / "a", progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    train(config, tmp_path / "b")
    assert "12/12" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(config, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ValueError, match="device='cuda' is not available"):
        Trainer(prepare(replace(config, device="cuda"), tmp_path))


def test_bf16_runs_the_network_in_bf16_and_keeps_float32_weights(config, tmp_path):
    trainer = Trainer(prepare(replace(config, precision="bf16"), tmp_path))
    kinds = []
    linear = trainer.model.backbone.blocks[0].inner
    linear.register_forward_hook(lambda module, args, out: kinds.append(out.dtype))
    trainer._train_step()
    assert kinds == [torch.bfloat16]
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
