from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sde_score.training import TrainConfig, train
from sde_score.training.checkpoint import TENSORS


@pytest.fixture
def config():
    """A run of seconds: eight blobs in the plane, a tiny network with dropout."""
    return TrainConfig(
        data="gaussians(n=50)",
        backbone="mlp(width=8, depth=1, dropout=0.1)",
        steps=12,
        batch_size=8,
        learning_rate=0.01,
        warmup=3,
        ema=0.9,
        checkpoint_every=4,
        log_every=5,
        conditional=True,
        device="cpu",
    )


@pytest.fixture
def run_to(config):
    """`run_to(out, steps=..., **changes)` trains without a progress bar."""

    def run(out: Path, on_samples=None, data=None, resume=True, **changes):
        if isinstance(data, str):
            changes, data = {**changes, "data": data}, None
        changed = replace(config, **changes)
        given = {"data": data, "on_samples": on_samples, "resume": resume}
        return train(changed, out, progress=False, **given)

    return run


@pytest.fixture
def tensor_bytes():
    """All tensors of a checkpoint, to the bit."""

    def read(out: Path, step: int) -> dict[str, bytes]:
        folder = out / "checkpoints" / f"step-{step}"
        files = {p.name: p.read_bytes() for p in sorted(folder.glob("*.safetensors"))}
        assert sorted(files) == [f"{name}.safetensors" for name in sorted(TENSORS)]
        return files

    return read


@pytest.fixture
def measured():
    """`metrics.jsonl` without what a clock measured."""

    def read(out: Path) -> list[dict[str, float]]:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        clock = ("seconds", "examples_per_second")
        return [{k: v for k, v in line.items() if k not in clock} for line in lines]

    return read


@pytest.fixture
def run_ranks():
    """`run_ranks(body, folder, *words)` runs a script in a process of its own, with `folder` as
    `out` and its configuration as `config`, and returns what was said.

    Its `together(processes, work)` forks processes of one run from one that has imported all.
    """

    def run(body: str, folder: Path, *words: str) -> str:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        script = Path(__file__).with_name("ranks.txt").read_text() + body
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder), *words],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    return run
