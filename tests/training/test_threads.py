"""Several trainings in threads of one process."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from sde_score.nn.blocks.dropout import Dropout
from sde_score.random import drawing_from, generator_from, initializing
from sde_score.training import Run, TrainingError


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_runs_in_threads_have_the_weights_of_a_run_alone(run_to, tmp_path, dropout):
    network = {"backbone": f"mlp(width=128, depth=6, dropout={dropout})", "steps": 3}
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


class Noisy(nn.Module):
    """A network of a user that draws in training."""

    def __init__(self, draw):
        super().__init__()
        with initializing(0):
            self.layer = nn.Linear(2, 2)
        self.draw = draw

    def __deepcopy__(self, memo):
        return Noisy(self.draw)

    def forward(self, x, t):
        return self.layer(self.draw(x) if self.training else x)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: nn.functional.dropout(x, 0.5),
        nn.Dropout1d(),
        lambda x: x + torch.randn_like(x),
        lambda x: x * torch.rand(()),
    ],
)
def test_a_second_run_that_draws_from_the_global_generator_is_refused(run_to, tmp_path, draw):
    """Alone it repeats itself; beside another one it says so, unless it draws nothing."""
    given = {"conditional": False, "steps": 2}
    runs = [run_to(tmp_path / name, backbone=Noisy(draw), **given).digest for name in "ab"]
    assert runs[0] == runs[1]
    started, go = threading.Event(), threading.Event()

    def hold(x):
        started.set()
        assert go.wait(60)
        return draw(x)

    first = threading.Thread(
        target=run_to, args=(tmp_path / "c",), kwargs={"backbone": Noisy(hold), **given}
    )
    first.start()
    try:
        assert started.wait(60)
        with pytest.raises(TrainingError, match="draws from torch's global generator"):
            run_to(tmp_path / "d", backbone=Noisy(draw), **given)
        assert run_to(tmp_path / "e", backbone=Noisy(lambda x: x), **given).step == 2
    finally:
        go.set()
        first.join()
    assert run_to(tmp_path / "d", backbone=Noisy(draw), **given).digest == runs[0]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_dropout_from_a_generator_has_the_bits_of_torch(p):
    x, ours, theirs = torch.randn(64, 9), Dropout(p), nn.Dropout(p)
    with drawing_from(generator_from(3)):
        found = ours(x)
    torch.manual_seed(generator_from(3).initial_seed())
    assert torch.equal(found, theirs(x))
    assert torch.equal(ours.eval()(x), x)
