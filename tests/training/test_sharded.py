"""Sharded runs: the numbers of one process, files of any number of processes, faults of one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sde_score.models import ScoreModel
from sde_score.sdes import VP
from sde_score.training import Metrics, TrainConfig, load_run, save_config, train
from sde_score.training.checkpoint import TENSORS
from sde_score.training.optimizers import Adam, Muon
from sde_score.training.sharding import blocks_of, require_rows

# Each number moves with its gradient: Adam as usual would move by the sign of a rounding error.
PLAIN = {"optimizer": "adam(eps=1e-3)", "clip": 0.5, "conditional": False, "log_every": 2}
WIDTH = "mlp(width=7, depth=2)"  # rows of 2, 7 and 14 over 4, 3 and 2 processes
CASES = {
    # Derivatives in x, a number learned beside the network, a parameter without gradient.
    "energy": {"model": "energy", "head": "scalar", "objective": "noise-contrastive"},
    "map": {"objective": "lagrangian(share=0.5)"},  # a forward derivative
    "half": {"precision": "bf16"},
}

NETWORK = """
class Network(nn.Module):
    '''A block called, one used by its weight alone, and a number; rows of one length.'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.gain = nn.Parameter(torch.tensor(0.5))

    def normalize_weights(self):
        with torch.no_grad():
            for block in self.blocks[:2]:
                weight = block.weight.data
                weight /= torch.linalg.vector_norm(weight, dim=1, keepdim=True)

    def forward(self, x, level):
        if self.training:
            self.normalize_weights()
        hidden = torch.tanh(x @ self.blocks[1].weight.T + level.to(x.dtype)[:, None])
        return self.gain * self.blocks[2](torch.tanh(self.blocks[0](hidden)))
"""

BODY = (
    """
import json
from dataclasses import replace
from torch import nn
from sde_score.training import checkpoint
"""
    + NETWORK
    + """
given = json.loads(sys.argv[2])
cases = {name: TrainConfig(**fields) for name, fields in given.items()}

def sampled(run, picture):
    with torch.no_grad():
        picture.write_text(str(float(run.model.score(torch.ones(1, 2), 0.5).sum())))

def go(name, steps, **given):
    changed = replace(cases[name], steps=steps, **given)
    return lambda rank: train(changed, out / name, progress=False, on_samples=sampled)

together(4, go("score", 4))
together(3, go("score", 6))
together(2, go("score", 8))
for name in ("energy", "map"):
    together(2, go(name, 4))
together(2, go("half", 4))
whole = replace(cases["half"], shard=False)
together(2, lambda rank: train(whole, out / "half-ddp", progress=False))
own = replace(cases["own"], backbone="auto")
together(2, lambda rank: train(own, out / "own", model=Network(), progress=False))

# The disk of one process is full, and then it is killed while it writes.
fill = checkpoint.fill_file
def failing(work):
    def filling(path, tensors, first):
        if not first and path.name == "ema.safetensors":
            work()
        fill(path, tensors, first=first)
    checkpoint.fill_file = filling
def full():
    raise OSError(28, "No space left on device")
failing(full)
def stopped(rank):
    try:
        go("score", 9)(rank)
    except OSError as error:
        (out / f"full-{rank}").write_text(str(error))
        raise SystemExit from None
assert end(start(2, stopped)) == [1, 1]
(out / "left").write_text(" ".join(path.name for path in (out / "score/checkpoints").iterdir()))
failing(lambda: os.kill(os.getpid(), signal.SIGKILL))
assert end(start(2, go("score", 9))) == [1, -9]
"""
)


def alike(one, two, **tolerance):
    """Whether two runs ended with the same numbers in the same names, in all files."""
    last = max(int(path.name[5:]) for path in (one / "checkpoints").iterdir())
    for name in TENSORS:
        file = f"checkpoints/step-{last}/{name}.safetensors"
        a, b = load_file(one / file), load_file(two / file)
        assert a.keys() == b.keys(), (name, sorted(a.keys() ^ b.keys())[:3])
        for key, value in a.items():
            torch.testing.assert_close(value, b[key], **tolerance, msg=lambda m, key=key: key + m)
    lines = [Metrics(path / "metrics.jsonl").read() for path in (one, two)]
    found = [[[line[name] for name in ("loss", "grad_norm")] for line in each] for each in lines]
    torch.testing.assert_close(*map(torch.tensor, found), **tolerance)


def test_sharded_runs_have_the_numbers_of_one_process(
    config, run_to, run_ranks, measured, tmp_path
):
    """4, 3 and 2 processes in turn, then one, on one run; derivatives in x, single numbers and
    networks of users on two; and what stays when one of two cannot write, or is killed."""
    common = {**vars(config), **PLAIN, "backbone": WIDTH, "batch_size": 6, "shard": True}
    common |= {"checkpoint_every": 2}
    several = {
        "batch_size": 3,
        "accumulate": 3,
        "objective": "denoising-control(bins=2)",
        "snapshot_every": 2,
        "excess": True,
        "sample_every": 4,
    }
    cases = {"score": {**common, **several}, "own": {**common, "steps": 4}}
    cases |= {name: {**common, **changes, "steps": 4} for name, changes in CASES.items()}
    save_config(TrainConfig(**common), tmp_path / "config.yaml")
    said = run_ranks(BODY, tmp_path, json.dumps(cases))

    full = "step-9/{} cannot be written: {}; last good checkpoint: step-8"
    mine = full.format("ema.safetensors", "No space left on device")
    other = full.format("objective.safetensors", "another process could not write its part")
    assert (tmp_path / "full-1").read_text().endswith(mine)
    assert (tmp_path / "full-0").read_text().endswith(other)
    assert f"error in process 1: {tmp_path}/score/checkpoints/{mine}" in said
    assert sorted((tmp_path / "left").read_text().split()) == ["step-6", "step-8"]
    assert "another process of this run has ended; checkpoint step-8 stays" in said

    def one(name, steps, **given):
        """The same in this process, with all examples of a step."""
        given = {**cases[name], **given, "steps": steps}
        return run_to(tmp_path / f"{name}-one", **given).path

    tight = {"rtol": 1e-5, "atol": 1e-6}
    whole = {"batch_size": 12, "accumulate": 1}
    rest = {**cases["score"], "steps": 10, "sample_every": 0}
    run_to(tmp_path / "score", **rest)  # by one process, which holds all
    first = one("score", 10, **whole, sample_every=0)
    alike(first, tmp_path / "score", **tight)
    averages = [load_run(p, "ema(0.07)").model.state_dict() for p in (first, tmp_path / "score")]
    torch.testing.assert_close(*averages, **tight)
    picture = (tmp_path / "score/samples/step-8.png").read_text()
    run = load_run(tmp_path / "score", step=8)
    with torch.no_grad():
        assert float(picture) == float(run.model.score(torch.ones(1, 2), 0.5).sum())

    for name in ("energy", "map"):
        alike(one(name, 4, **whole), tmp_path / name, **tight)
    alike(tmp_path / "half-ddp", tmp_path / "half", **tight)  # the same roundings to bf16
    space: dict[str, type] = {"nn": nn, "torch": torch}
    exec(NETWORK, space)
    own = TrainConfig(**{**cases["own"], **whole, "backbone": "auto"})
    train(own, tmp_path / "own-one", model=space["Network"](), progress=False)
    alike(tmp_path / "own-one", tmp_path / "own", **tight)


class Kinds(nn.Module):
    """Blocks that are called, nested ones, one that is used by its weight alone, one never used."""

    def __init__(self):
        super().__init__()
        self.plain = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.nested = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2), nn.SiLU()])])
        self.stack = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
        self.lonely = nn.Linear(2, 2)
        self.changes = False

    def forward(self, x, level):
        if self.changes:
            self.lonely.weight.data.mul_(0.5)
        x = self.nested[0][0](self.plain[0](x)) @ self.plain[1].weight
        return self.lonely(self.stack(x))


def test_blocks_are_entries_of_lists_that_alone_use_their_weights():
    network = Kinds()
    model, x = ScoreModel(network, VP()), torch.ones(2, 2)
    before = network.lonely.weight.detach().clone()
    expected = [network.plain[0], network.nested[0][0], network.stack[0][0], network.stack[1]]
    assert blocks_of(model, x) == expected
    network.stack[1].weight = network.plain[0].weight  # shared: none can come and go alone
    assert blocks_of(model, x) == []
    network.changes = True
    with pytest.raises(ValueError, match=r"changes its weights in the forward pass.*leave out"):
        blocks_of(model, x)
    assert torch.equal(network.lonely.weight, before)


def test_an_optimizer_of_whole_matrices_is_refused():
    require_rows(Adam())
    with pytest.raises(ValueError, match=r"optimizer=muon needs whole matrices.*optimizer=adam"):
        require_rows(Muon())
