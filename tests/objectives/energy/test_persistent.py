"""Persistent chains: their distribution, and that no cut or restart changes a bit."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from sde_score.mcmc import MALA, ULA
from sde_score.models import EnergyFunction
from sde_score.objectives import PersistentContrastiveDivergence
from sde_score.random import BatchSlice
from sde_score.sdes import VP

F64 = torch.float64
ROOT = Path(__file__).parents[3]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*shape):
    return torch.randn(shape, generator=seeded(9), dtype=F64)


def well(w=1.0):
    """The distribution N(0, I / w) on any event."""
    return EnergyFunction(lambda x, t: 0.5 * w * x.reshape(len(x), -1).square().sum(1), VP())


def persistent(x0, **settings):
    objective = PersistentContrastiveDivergence(
        **{"buffer_size": 20, "restart": 0.25, "k": 2, "kernel": MALA(0.2), **settings}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        objective.setup(x0)
    return objective


def test_chains_go_on_where_they_ended():
    """The end of a visit is the start of the next; the loss is the contrast with that end."""
    x0, w, h = data(4, 2), 1.3, 0.1
    objective = persistent(x0, buffer_size=4, restart=0.0, k=1, kernel=ULA(h))
    for seed in range(3):
        visit = objective.buffer.visit(x0, seeded(seed))
        source = seeded(seed)
        torch.randperm(4, generator=source)
        torch.rand(4, generator=source, dtype=F64)
        torch.randn(4, 2, generator=source, dtype=F64)
        z = torch.randn(4, 2, generator=source, dtype=F64)
        end = (1 - h * w) * visit.start + (2 * h) ** 0.5 * z
        loss = objective(well(w), x0, generator=seeded(seed))
        torch.testing.assert_close(loss, 0.5 * w * (x0.square() - end.square()).sum(1))
        torch.testing.assert_close(objective.buffer.states[visit.slots], end)
    assert objective.buffer.ages.tolist() == [3] * 4


def test_old_chains_have_the_distribution_of_the_model():
    """Whatever the data: chains of MALA on N(0, 1 / w) end there, so E(x_k) has mean 1 / 2."""
    w, n = 2.5, 3000
    x0 = 3.0 + data(n, 1)
    objective = persistent(x0, buffer_size=n, restart=0.0, k=8, kernel=MALA(0.3))
    for seed in range(4):
        objective(well(w), x0, generator=seeded(seed))
    states = objective.buffer.states
    assert states.mean().abs() < 4 / (w * n) ** 0.5
    assert abs(states.var() * w - 1) < 4 * (2 / n) ** 0.5
    assert objective.buffer.ages.tolist() == [32] * n


def test_the_ends_carry_no_gradient(nonlinear):
    marginal, parameters = nonlinear((2,), energy=True)
    x0 = data(5, 2)
    objective = persistent(x0, energy_penalty=0.2)
    visit = objective.buffer.visit(x0, seeded(2))
    loss = objective(marginal.model, x0, generator=seeded(2))
    positive, negative = (marginal.energy(x) for x in (x0, objective.buffer.states[visit.slots]))
    want = positive - negative + 0.2 * (positive**2 + negative**2)
    torch.testing.assert_close(loss, want)
    got = torch.autograd.grad(loss.sum(), parameters)
    for a, b in zip(got, torch.autograd.grad(want.sum(), parameters), strict=True):
        torch.testing.assert_close(a, b)
    assert not objective.buffer.states.requires_grad


def test_a_restored_objective_goes_on_bit_for_bit():
    x0, model = data(6, 2), well()
    objective = persistent(x0)
    for seed in range(3):
        objective(model, x0, generator=seeded(seed))
    kept = copy.deepcopy(objective.state_dict())
    fresh = persistent(x0 + 1)
    fresh.load_state_dict(kept)
    assert set(kept) == {"buffer.states", "buffer.ages", "buffer.mean", "buffer.std"}
    for seed in range(3, 6):
        a, b = (o(model, x0, generator=seeded(seed)) for o in (objective, fresh))
        assert torch.equal(a, b)
    for name, tensor in objective.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])
    assert not torch.equal(kept["buffer.states"], objective.buffer.states)


def test_a_batch_cut_into_parts_leaves_the_same_buffer():
    x0, model = data(8, 2), well()
    whole, parts = persistent(x0), persistent(x0)
    for seed in range(3):
        want = whole(model, x0, generator=seeded(seed))
        got = [
            parts(model, x0[i:j], generator=BatchSlice(seeded(seed), i, 8))
            for i, j in ((0, 3), (3, 4), (4, 8))
        ]
        assert torch.equal(torch.cat(got), want)
        assert torch.equal(parts.buffer.states, whole.buffer.states)
        assert torch.equal(parts.buffer.ages, whole.buffer.ages)


HALF = """
import sys, torch
from torch import distributed
from sde_score.models import EnergyFunction
from sde_score.objectives import PersistentContrastiveDivergence
from sde_score.random import BatchSlice
from sde_score.sdes import VP
torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
meet = f"file://{folder}/meet"
distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
x0, start = torch.load(folder + "/given", weights_only=True)
model = EnergyFunction(lambda x, t: 0.5 * x.square().sum(1), VP())
objective = PersistentContrastiveDivergence(20, 0.25, 2, "mala(step_size=0.2)")
objective.setup(x0)
objective.load_state_dict(start)
rows = slice(0, 2) if rank == 0 else slice(2, 6)
for seed in range(3):
    draws = BatchSlice(torch.Generator().manual_seed(seed), rows.start, 6)
    objective(model, x0[rows], generator=draws)
torch.save(objective.state_dict(), f"{folder}/{rank}")
distributed.destroy_process_group()
"""


@pytest.mark.skipif(not distributed.is_available(), reason="torch was built without distributed")
def test_two_processes_end_with_the_buffer_of_one(tmp_path):
    x0, one = data(6, 2), persistent(data(6, 2))
    torch.save((x0, one.state_dict()), tmp_path / "given")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", HALF, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    workers = [subprocess.Popen([*command, str(rank)], env=environment) for rank in (0, 1)]
    try:
        assert [worker.wait(timeout=600) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    for seed in range(3):
        one(well(), x0, generator=seeded(seed))
    for rank in ("0", "1"):
        found = torch.load(tmp_path / rank, weights_only=True)
        assert found.keys() == one.state_dict().keys()
        for name, tensor in one.state_dict().items():
            assert torch.equal(found[name], tensor)


def test_in_evaluation_mode_the_buffer_is_read_and_not_written():
    x0 = data(6, 2)
    objective = persistent(x0)
    before = copy.deepcopy(objective.state_dict())
    evaluated = objective.eval()(well(), x0, generator=seeded(1))
    assert all(torch.equal(v, before[k]) for k, v in objective.state_dict().items())
    assert torch.equal(objective.train()(well(), x0, generator=seeded(1)), evaluated)
    assert not torch.equal(objective.buffer.states, before["buffer.states"])


def test_the_buffer_keeps_its_precision_and_gives_that_of_the_data():
    examples = data(6, 2).float()
    objective = persistent(examples)
    assert objective.buffer.states.dtype == torch.float32
    assert objective(well(), data(6, 2), generator=seeded()).dtype == F64
    assert objective.buffer.states.dtype == torch.float32


def test_it_must_be_set_up():
    with pytest.raises(RuntimeError, match="call setup"):
        PersistentContrastiveDivergence()(well(), data(2, 2))


def test_it_says_what_it_is():
    shown = repr(PersistentContrastiveDivergence(buffer_size=7, k=3))
    assert "k=3" in shown
    assert "MALA(step_size=0.01" in shown
    assert "size=7, restart=0.05" in shown
