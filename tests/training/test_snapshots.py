"""Averages of any length of a run: kept while it trains, made after it."""

from __future__ import annotations

import pytest
import torch

from sde_score.training import CheckpointError, load_run
from sde_score.training.posthoc_ema import power_of, update_factor
from sde_score.training.snapshots import Snapshots, length_of

EVERY = {"snapshot_every": 2, "learning_rate": 0.02, "warmup": 0}


def _paths(run_to, tmp_path, steps):
    """Weights after each step, from a run that keeps all checkpoints."""
    run_to(tmp_path / "all", **EVERY, checkpoint_every=1, keep=steps, steps=steps)
    return [
        dict(load_run(tmp_path / "all", "raw", step).model.named_parameters())
        for step in range(1, steps + 1)
    ]


def test_a_kept_length_is_its_average_and_another_is_near_its_own(run_to, tmp_path):
    """0.05 and 0.1 to rounding, 0.15 beside the average by its definition."""
    steps = 40
    path = _paths(run_to, tmp_path, steps)
    for length, bound in ((0.05, 1e-5), (0.1, 1e-5), (0.15, 0.02), (0.07, 0.02)):
        run = load_run(tmp_path / "all", f"ema({length})")
        gamma, moved = power_of(length), 0.0
        for name, found in run.model.named_parameters():
            average = torch.zeros_like(path[0][name])
            for i, weights in enumerate(path, start=1):
                average = torch.lerp(average, weights[name], 1 - update_factor(gamma, i, 1))
            scale = float((path[-1][name] - path[0][name]).detach().abs().max()) + 1e-3
            assert float((found - average).abs().max()) < bound * scale
            moved = max(moved, scale)
        assert moved > 0.05


def test_runs_with_snapshots_resume_to_the_same_bits_and_take_them_again(
    run_to, tensor_bytes, tmp_path
):
    run_to(tmp_path / "whole", **EVERY)
    run_to(tmp_path / "cut", **EVERY, steps=5)
    run_to(tmp_path / "cut", **EVERY)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole" / "snapshots").iterdir()}
    assert sorted(files) == sorted(f"step-{k}.safetensors" for k in range(2, 13, 2))
    for name, content in files.items():
        assert (tmp_path / "cut" / "snapshots" / name).read_bytes() == content
    assert Snapshots(tmp_path / "cut" / "snapshots").steps() == [2, 4, 5, 6, 8, 10, 12]
    plain = run_to(tmp_path / "plain", **{**EVERY, "snapshot_every": 0})
    assert plain.digest == load_run(tmp_path / "whole").digest
    lengths = [load_run(tmp_path / "whole", w).digest for w in ("ema(0.1)", "ema(0.2)", "ema")]
    assert len(set(lengths)) == 3


def test_what_cannot_be_made_is_refused(run_to, tmp_path):
    run_to(tmp_path / "plain", steps=4)
    with pytest.raises(CheckpointError, match=r"no snapshot up to step 4.*snapshot_every"):
        load_run(tmp_path / "plain", "ema(0.1)")
    with pytest.raises(ValueError, match=r"ema\(0.5\).*between 0 and 0.2887, as ema\(0.1\)"):
        load_run(tmp_path / "plain", "ema(0.5)")
    with pytest.raises(ValueError, match="weights='best'"):
        load_run(tmp_path / "plain", "best")
    run_to(tmp_path / "run", **EVERY, steps=4)
    path = tmp_path / "run" / "snapshots" / "step-4.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-4.safetensors cannot be used.*SHA-256"):
        load_run(tmp_path / "run", "ema(0.1)")
    path.write_bytes(content[:100])
    with pytest.raises(CheckpointError, match=r"step-4.safetensors cannot be used"):
        load_run(tmp_path / "run", "ema(0.1)")


def test_lengths_are_read_from_text():
    assert length_of("ema(0.1)") == length_of("ema(sigma_rel=0.1)") == 0.1
    assert length_of("ema") is None
    with pytest.raises(ValueError, match="must name a length"):
        length_of("ema(long)")
