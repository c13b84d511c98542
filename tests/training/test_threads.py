"""Several trainings in threads of one process."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from sde_score.random import initializing
from sde_score.training import Run


def test_runs_in_threads_have_the_weights_of_a_run_alone(run_to, tmp_path):
    network = {"backbone": "mlp(width=128, depth=6)", "steps": 3}
    found: dict[str, Run] = {}

    def weights(name):
        found[name] = run_to(tmp_path / name, **network)

    weights("alone")
    for turn in range(3):
        names = [f"{turn}-{i}" for i in range(3)]
        threads = [threading.Thread(target=weights, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {run.digest for run in found.values()} == {found["alone"].digest}
    assert len(found) == 10


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(2, 3, 3).weight,
        lambda: nn.LSTM(2, 3).weight_ih_l0,
        lambda: nn.init.trunc_normal_(torch.empty(9)),
        lambda: nn.init.xavier_normal_(torch.empty(3, 3)),
        lambda: torch.randn(3) + torch.rand(3) + torch.randint(9, (3,)) + torch.randperm(3),
    ],
)
def test_first_weights_have_the_bits_of_a_seeded_global_generator_and_leave_it(make):
    """Whatever another thread draws meanwhile, which a draw in between stands for."""
    with initializing(3):
        seed = torch.initial_seed()
        weights = make()
    torch.manual_seed(seed)
    assert torch.equal(weights, make())
    before = torch.random.get_rng_state()
    with initializing(3):
        torch.default_generator.manual_seed(7)
        assert torch.equal(make(), weights)
    assert torch.equal(torch.random.get_rng_state(), before)
