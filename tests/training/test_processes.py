"""Processes that die, stop answering, or are fewer than before."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sde_score.scaling import Scaling
from sde_score.training import DataFacts, TrainConfig, TrainState, load_run, save_config
from sde_score.training.elastic import shared

BODY = """
def trained(name, after=None, steps=8):
    '''A training in which something happens in a process after step 5.'''
    def work(rank):
        trainer = Trainer(prepare(config, out / name), progress=False)
        step = trainer._train_step
        def watched():
            step()
            if after is not None and trainer.step == 5:
                after(rank)
        trainer._train_step = watched
        try:
            trainer.run()
        except TrainingError as error:
            Path(out, f"{name}-{rank}").write_text(str(error))
            raise SystemExit from None
    return work

def killed(rank):
    if rank == 2:
        os.kill(os.getpid(), signal.SIGKILL)

# One of four is killed: the others say so and end; two go on.
assert end(start(4, trained("elastic", killed))) == [1, 1, -9, 1]
(out / "five").mkdir()
together(2, trained("elastic"))

# One of two stops: the other ends.
watch.TICK, watch._SILENT = 0.1, 60
def stopped(rank):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
pair = start(2, trained("silent", stopped))
assert end(pair[:1]) == [1]
os.kill(pair[1], signal.SIGKILL)
end(pair[1:])

# The launcher is killed, while its processes would train for ever.
watch._SILENT = 10**6
def slow(rank):
    (out / f"pid-{rank}").write_text(str(os.getpid()))
    time.sleep(600)
def launcher(rank):
    end(start(2, trained("orphans", slow)))
parent = fork(launcher, 0, {})
begun = time.monotonic()
def pids():
    return [int(path.read_text() or 0) for path in out.glob("pid-*")]
while len(pids()) < 2 or not all(pids()):
    assert time.monotonic() < begun + 60
    time.sleep(0.05)
os.kill(parent, signal.SIGKILL)
end([parent])
def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
begun = time.monotonic()
while any(map(alive, pids())):
    assert time.monotonic() < begun + 10
    time.sleep(0.05)
"""


def test_processes_that_die_end_the_run_and_fewer_go_on(
    config, run_to, run_ranks, measured, tmp_path
):
    """A kill of one of four, a process that does not answer, the death of the launcher; and the
    rest of the run by two processes, whose weights are those of one process that was not cut."""
    plain = {"backbone": "mlp(width=8, depth=1)", "steps": 8, "log_every": 2}
    few = TrainConfig(**{**vars(config), **plain, "batch_size": 4})
    save_config(few, tmp_path / "config.yaml")
    said = run_ranks(BODY, tmp_path)
    go_on = "checkpoint step-4 stays: run the same command again to go on"
    for rank in (0, 1, 3):
        text = (tmp_path / f"elastic-{rank}").read_text()
        assert text == f"another process of this run has ended; {go_on}"
        assert rank == 0 or f"error in process {rank}: {text}\n" in said
    assert f"error: process 1 of this run does not answer; {go_on}\n" in said
    assert said.count(f"error: the launcher of this run has ended; {go_on}\n") == 2
    run_to(tmp_path / "one", **plain, batch_size=16)
    for weights in ("raw", "ema"):
        one, two = (load_run(tmp_path / name, weights) for name in ("one", "elastic"))
        for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    lines = [[line["loss"] for line in measured(tmp_path / name)] for name in ("one", "elastic")]
    torch.testing.assert_close(*map(torch.tensor, lines), rtol=1e-5, atol=0)
    assert dataclasses.asdict(load_run(tmp_path / "elastic").config)["batch_size"] == 4


def test_a_batch_is_shared_by_any_number_of_processes_that_divides_it(config, tmp_path):
    """Parts of a batch do not grow; other batches that are asked for are left to be refused."""
    asked = dataclasses.replace(config, batch_size=6, accumulate=2)
    save_config(asked, tmp_path / "config.yaml")
    state = TrainState(3, 24, DataFacts("toy", 50, (2,), 0, Scaling()))  # of four processes
    found = [shared(asked, state, n, tmp_path) for n in (1, 2, 3, 4, 8, 12)]
    cut = [(one.batch_size, one.accumulate) for one in found]
    assert cut == [(24, 8), (12, 4), (8, 4), (6, 2), (3, 1), (2, 1)]
    message = r"the 24 examples of each step.*evenly by 5 processes: start 1, 2, 3, 4, 6 or 8"
    with pytest.raises(ValueError, match=message):
        shared(asked, state, 5, tmp_path)
    for left in (dataclasses.replace(asked, batch_size=8), asked):
        assert shared(left, state if left is not asked else None, 2, tmp_path) == left
