"""Learning-rate schedules: their values, their length, and runs that are continued under them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sde_score.training import SCHEDULES, Update


def _values(text, steps):
    return [SCHEDULES.create(text)(step) for step in steps]


def test_the_values_of_each_schedule():
    assert _values("constant", (0, 10**9)) == [1, 1]
    assert _values("cosine(steps=8)", (0, 4, 8, 20)) == pytest.approx([1, 0.5, 0, 0])
    third = 0.2 + 0.8 * (1 + math.cos(math.pi / 3)) / 2
    assert _values("cosine(steps=9, end=0.2)", (3, 9)) == pytest.approx([third, 0.2])
    falling = _values("inverse-sqrt(reference=100)", (0, 100, 400, 10000))
    assert falling == pytest.approx([1, 1, 0.5, 0.1])
    assert _values("wsd(steps=10)", (0, 8, 9, 10, 99)) == pytest.approx([1, 1, 0.5, 0, 0])


def test_the_rate_is_the_product_of_warm_up_and_schedule():
    update = Update(
        {"w": nn.Parameter(torch.ones(1))}, 0.5, 4, schedule=SCHEDULES.create("cosine(steps=8)")
    )
    wave = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]
    expected = [0.5 * min(k / 4, 1) * wave[k] for k in range(9)]
    assert [update.rate(k) for k in range(9)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine(steps=0)", "steps=0"),
        ("cosine(end=2.0)", r"end=2.0 must lie in \[0, 1\]"),
        ("inverse-sqrt(reference=0)", "reference=0"),
        ("wsd(decay=0.0)", "decay"),
        ("exponential", "accepted: constant, cosine"),
    ],
)
def test_what_no_schedule_can_be_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SCHEDULES.create(text)


def test_a_wave_without_length_is_refused_where_it_is_used():
    with pytest.raises(ValueError, match=r"give steps="):
        SCHEDULES.create("cosine")(3)


def test_a_continued_run_keeps_the_wave_that_it_was_begun_with(run_to, tensor_bytes, tmp_path):
    """Resumed within its length to the same bits; beyond it, at the last rate."""
    changes = {"schedule": "cosine(end=0.1)", "optimizer": "adam(decay='coupled')"}
    run = run_to(tmp_path / "whole", **changes)
    assert run.config.schedule == "cosine(steps=12, end=0.1)"
    assert run.config.optimizer == "adam(decay='coupled', betas=(0.9, 0.999), eps=1e-08)"
    run_to(tmp_path / "cut", **{**changes, "schedule": "cosine(steps=12, end=0.1)"}, steps=4)
    run_to(tmp_path / "cut", **changes)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    longer = run_to(tmp_path / "cut", **changes, steps=16)
    assert longer.config.schedule == "cosine(steps=12, end=0.1)"
    assert longer.metrics[-1]["learning_rate"] == pytest.approx(0.001)
    with pytest.raises(ValueError, match="schedule is 'constant'"):
        run_to(tmp_path / "cut", steps=16)


def test_muon_trains_and_resumes_to_the_same_bits(run_to, tensor_bytes, tmp_path):
    changes = {"optimizer": "muon", "backbone": "mlp(width=8, depth=2)"}
    run_to(tmp_path / "whole", **changes)
    run_to(tmp_path / "cut", **changes, steps=8)
    run_to(tmp_path / "cut", **changes)
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)


def test_a_schedule_of_the_user_is_a_function_of_the_step(run_to, tmp_path):
    run = run_to(tmp_path, schedule=lambda step: 0.5**step, steps=5, warmup=0)
    assert run.config.schedule == "<function>"
    assert run.metrics[-1]["learning_rate"] == pytest.approx(0.01 / 16)
