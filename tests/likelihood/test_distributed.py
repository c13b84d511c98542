"""Two processes that share out the examples, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sde_score.likelihood import gather_rows, log_prob, own_rows
from sde_score.models import GaussianMixture
from sde_score.random import example_seeds
from sde_score.sdes import VP

ROOT = Path(__file__).parents[2]
SETUP = """
import torch
from sde_score.models import GaussianMixture
from sde_score.sdes import VP
torch.set_num_threads(1)
spread = torch.tensor([[[0.5, 0.3], [0.3, 0.5]]], dtype=torch.float64)
model = GaussianMixture(torch.tensor([[0.4, -0.2]]), spread, VP())
x = torch.tensor([[0.1, 0.0], [60.0, -35.0], [0.3, 0.2], [9.0, 80.0], [0.5, -0.1]]).double()
given = {"divergence": "hutchinson", "probes": 2, "rtol": 1e-6, "atol": 1e-6}
"""
SCRIPT = (
    SETUP
    + """
import sys
from torch import distributed
from sde_score._core.processes import shared
from sde_score.likelihood import gather_rows, log_prob, own_rows
from sde_score.random import example_seeds
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
rows = own_rows(len(x))
seeds = [example_seeds(3, len(x))[row] for row in rows.tolist()]
found = log_prob(model, x[rows], seed=seeds, **given)
whole = {
    "values": gather_rows(found.log_prob, len(x)),
    "latents": gather_rows(found.latent, len(x)),
    "evaluations": gather_rows(found.evaluations, len(x)),
    "calls": gather_rows(torch.full((len(rows),), found.nfe), len(x)),
    "single": gather_rows(torch.full((len(own_rows(1)), 3), 1.0 + rank), 1),
}
torch.save(whole, f"{folder}/{rank}.pt")
try:
    gather_rows(found.log_prob[1:], len(x))
except ValueError as error:
    assert f"process {rank} of 2" in str(error), error
else:
    raise SystemExit("a wrong number of rows was not refused")
def work(item):
    if item == 3:
        raise ValueError("item 3 is bad")
    return 10 * item
assert shared(range(3), work) == [0, 10, 20]
try:
    shared(range(5), work)
except ValueError as error:
    assert str(error) == "item 3 is bad", error
else:
    raise SystemExit("an error of process 1 was not raised in all")
distributed.barrier()
distributed.destroy_process_group()
"""
)


def test_two_processes_find_the_values_of_one_and_do_not_wait_for_each_other(tmp_path):
    """The hard examples are all the second process's, which takes more steps; nothing hangs, and
    both learn all values."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    here = {}
    exec(SETUP, here)
    model, x, given = here["model"], here["x"], here["given"]
    alone = log_prob(model, x, seed=3, **given)
    for found in (first, second):
        torch.testing.assert_close(found["values"], alone.log_prob, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["latents"], alone.latent, rtol=1e-12, atol=1e-12)
        assert torch.equal(found["evaluations"], alone.evaluations)
        easy, hard = found["calls"][0], found["calls"][1]
        assert found["calls"].tolist() == [easy, hard, easy, hard, easy]
        assert easy < hard == alone.nfe
        assert found["single"].tolist() == [[1.0, 1.0, 1.0]]


def test_without_processes_all_rows_are_here():
    assert own_rows(3).tolist() == [0, 1, 2]
    values = torch.tensor([1.0, 2.0, 3.0])
    gathered = gather_rows(values, 3)
    assert torch.equal(gathered, values)
    assert gathered.data_ptr() != values.data_ptr()
    with pytest.raises(ValueError, match="values has 2 rows; process 0 of 1 has 3 of 3"):
        gather_rows(values[:2], 3)
    with pytest.raises(ValueError, match="count=0"):
        own_rows(0)


def test_a_part_of_a_set_has_the_values_of_the_whole():
    """Seeds belong to the example, so that any sharing out gives the same."""
    model = GaussianMixture(torch.zeros(1, 2), torch.eye(2)[None] * 0.5 + 0.3, VP())
    x = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
    given = {"divergence": "hutchinson", "rtol": 1e-4, "atol": 1e-4}
    whole = log_prob(model, x, seed=1, **given).log_prob
    part = log_prob(model, x[1::2], seed=example_seeds(1, 5)[1::2], **given).log_prob
    torch.testing.assert_close(part, whole[1::2], rtol=0, atol=1e-12)
