"""Real kills and real processes, each in as few subprocesses as will do."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sde_score.training import TrainConfig, load_run, save_config

ROOT = Path(__file__).parents[2]

ONE_PROCESS = """
import sys, torch
torch.set_num_threads(1)
from sde_score.training import load_config, train
train(load_config(sys.argv[1]), sys.argv[2], progress=False)
"""

TWO_PROCESSES = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from sde_score.training import Trainer, TrainingInterrupted, load_config, prepare, train

def run(out):
    config = load_config(out + "/config.yaml")
    train(config, out + "/whole", progress=False)
    trainer = Trainer(prepare(config, out + "/cut"), progress=False)
    step = trainer._train_step
    def signalled():
        step()
        if trainer.step == 7 and os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGTERM)
    trainer._train_step = signalled
    try:
        trainer.run()
    except TrainingInterrupted as error:
        # Each to its own file: lines of two processes on one pipe may mix.
        Path(out, "stopped-" + os.environ["RANK"]).write_text(f"{trainer.step} {error.signum}")
    train(config, out + "/cut", progress=False)

for out in sys.argv[1:]:
    run(out)
"""


def _environment():
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def one_thread():
    """The bits of a run may depend on the number of threads: all sides use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_killed_without_warning_resumes_to_the_same_bits(
    config, run_to, tensor_bytes, measured, tmp_path
):
    """SIGKILL at a random moment, wherever it strikes: in a step, a checkpoint, or a line."""
    changes = {"steps": 4000, "checkpoint_every": 3, "log_every": 1}
    save_config(TrainConfig(**{**vars(config), **changes}), tmp_path / "config.yaml")
    out, lines = tmp_path / "cut", random.randint(5, 40)
    process = subprocess.Popen(
        [sys.executable, "-c", ONE_PROCESS, str(tmp_path / "config.yaml"), str(out)],
        env=_environment(),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        log = out / "metrics.jsonl"
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.001 * random.random())
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    killed_after = len((out / "metrics.jsonl").read_bytes().splitlines())
    steps = killed_after + 10
    run_to(out, **{**changes, "steps": steps})
    run_to(tmp_path / "whole", **{**changes, "steps": steps})
    assert tensor_bytes(out, steps) == tensor_bytes(tmp_path / "whole", steps)
    assert measured(out) == measured(tmp_path / "whole")


ENERGY = {
    "conditional": False,
    "model": "energy",
    "head": "scalar",  # whose constant no score depends on: a parameter without gradient
    "objective": "persistent(buffer_size=16, k=2, kernel='ula', restart=0.2)",
}
CONTROL = {"objective": "denoising-control(bins=2)"}
FLOW_MAP = {"objective": "lagrangian(share=0.5)"}  # whose gradient passes a forward derivative

PLAIN = {
    name: {"backbone": "mlp(width=8, depth=1)", "clip": 0.5, **changes}
    for name, changes in {"score": CONTROL, "energy": ENERGY, "map": FLOW_MAP}.items()
}


def test_two_processes_equal_one_with_twice_the_batch_and_stop_together(
    config, run_to, tensor_bytes, measured, tmp_path
):
    """DDP over two processes of 4 examples in 2 parts, against one process of 8; then one of the
    two gets SIGTERM, both save and stop at the same step, and the resumed pair has the same bits.
    """
    for name, plain in PLAIN.items():
        split = {**vars(config), **plain, "batch_size": 4, "accumulate": 2}
        (tmp_path / name).mkdir()
        save_config(TrainConfig(**split), tmp_path / name / "config.yaml")
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "script.py"), *(tmp_path / n for n in PLAIN)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "FutureWarning" not in done.stderr
    for name, plain in PLAIN.items():
        check_pair(run_to, tensor_bytes, measured, tmp_path / name, plain)


def check_pair(run_to, tensor_bytes, measured, tmp_path, plain):
    """What two processes left, against one process here."""
    for rank in (0, 1):
        said = (tmp_path / f"stopped-{rank}").read_text()
        assert said == f"7 {int(signal.SIGTERM)}"
    assert tensor_bytes(tmp_path / "cut", 12) == tensor_bytes(tmp_path / "whole", 12)
    assert measured(tmp_path / "cut") == measured(tmp_path / "whole")
    state = json.loads((tmp_path / "whole/checkpoints/step-12/state.json").read_text())
    assert state["batch"] == 8
    run_to(tmp_path / "one", **plain)
    for weights in ("raw", "ema"):
        one, two = (load_run(tmp_path / name, weights) for name in ("one", "whole"))
        for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    lines = zip(measured(tmp_path / "one"), measured(tmp_path / "whole"), strict=True)
    for a, b in lines:
        assert a == pytest.approx(b, rel=1e-5)
    # The pair can be continued by one process with the whole batch.
    assert run_to(tmp_path / "whole", **plain, steps=13).step == 13
