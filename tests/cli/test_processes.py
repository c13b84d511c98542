"""Processes share samples and measurements: the same to the bit, and nothing lost by a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sde_score.cli import main

ROOT = Path(__file__).parents[2]

# Each command in turn; in the last, process 1 dies amid the third row.
COMPARE = """
def compare_to(run, folder):
    import json
    from pathlib import Path
    from sde_score.evaluation import compare
    from sde_score.training import load_run
    found = compare(
        load_run(run), views=["ddim"], nfes=[4], count=12, bits_examples=0, extractor="pixels",
        batch_size=5, folder=Path(folder) / "compared", progress=False,
    )
    Path(folder, "compared.json").write_text(json.dumps(found.record()))
"""
SCRIPT = (
    COMPARE
    + """
import json, os, signal, sys
import torch
from sde_score.cli import main
torch.set_num_threads(1)
rank, done = os.environ["RANK"], 0
commands = json.loads(sys.argv[1])
for words in commands[:-1]:
    assert main(words) == 0
compare_to(*sys.argv[2:])
from sde_score.evaluation import Bench
measure = Bench.measure
def measured(*given):
    global done
    done += 1
    if rank == "1" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure(*given)
Bench.measure = measured
sys.exit(main(commands[-1]))
"""
)


def _commands(run, folder):
    """Uneven shares: 3 batches of samples for two processes."""
    return [
        ["sample", run, "--sampler", "ode(rtol=0.1)", "--num", "5", "--batch-size", "2", "--out",
         f"{folder}/one.npy"],
        ["sample", run, "--sampler", "pc", "--steps", "3", "--num", "7", "--batch-size", "2",
         "--shard-size", "3", "--out", f"{folder}/shards"],
        ["benchmark", "--model", run, "--samplers", "ddim", "heun", "--nfe", "2", "4", "6",
         "--num", "12", "--batch-size", "5", "--out", f"{folder}/bench", "--no-progress"],
    ]  # fmt: skip


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _start(rank, words, port, cwd):
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    given |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
        env={**os.environ, **given, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_two_processes_do_what_one_does_and_go_on_after_a_kill(run_path, tmp_path, one_thread):
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    for words in _commands(str(run_path), tmp_path / "alone"):
        assert main(words) == 0
    here = {}
    exec(COMPARE, here)
    here["compare_to"](str(run_path), str(tmp_path / "alone"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    commands = _commands(str(run_path), tmp_path / "together")
    given = [json.dumps(commands), str(run_path), str(tmp_path / "together")]
    ranks = [_start(rank, given, port, tmp_path) for rank in "01"]
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert ranks[1].returncode == -signal.SIGKILL, said
    assert ranks[0].returncode == 2
    error = [line for line in said[0][1].splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "another process ended" in error[0]
    assert said[1][1] == ""  # process 1 says nothing
    kept = (tmp_path / "together/bench/benchmark.jsonl").read_text().splitlines()
    assert len(kept) == 2  # whole rows, none of the failure
    assert main(commands[-1]) == 0
    assert (tmp_path / "together/bench/benchmark.jsonl").read_text().splitlines()[:2] == kept
    _same(tmp_path / "alone", tmp_path / "together")


def _same(alone, together):
    names = {p.relative_to(alone) for p in alone.rglob("*") if p.is_file()}
    assert names == {p.relative_to(together) for p in together.rglob("*") if p.is_file()}
    for name in names:
        if name.suffix == ".npy":
            assert np.array_equal(np.load(alone / name), np.load(together / name))
        elif name.suffix == ".npz":
            one, two = np.load(alone / name), np.load(together / name)
            assert all(np.array_equal(one[key], two[key]) for key in one.files)
        elif name.suffix == ".json":
            one, two = (json.loads((each / name).read_text()) for each in (alone, together))
            assert _untimed(one) == _untimed(two)


def _untimed(value):
    """Without what a clock measured."""
    if isinstance(value, dict):
        return {k: _untimed(v) for k, v in value.items() if k != "seconds"}
    return [_untimed(each) for each in value] if isinstance(value, list) else value
