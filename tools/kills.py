"""Kill training at random moments, hundreds of times, and hold the end against a run left alone.

    python tools/kills.py --kills 200 --processes 2 --workers 1 --shard

Images in shards are read by workers, a checkpoint is written every other step, and each time all
processes, one of them, or a data worker is ended by SIGKILL. The others must end within a minute,
and the run that is continued must come to the bits of one that nothing happened to. The exit
status is the number of runs that did not.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import signal
import socket
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from sde_score.training import TrainConfig, train

MINUTE = 60


def write_shards(folder: Path, shards: int = 4, images: int = 48) -> None:
    """Tar files of small random images with labels."""
    rng, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"part-{shard}.tar", "w") as tar:
            for index in range(images):
                encoded = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(encoded, "PNG")
                for ending, content in (("png", encoded.getvalue()), ("cls", b"%d" % (index % 3))):
                    member = tarfile.TarInfo(f"{shard}-{index:04d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def begin(config: TrainConfig, out: Path, processes: int) -> list[int]:
    """Start the processes of a training; their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            try:
                _train(config, out, rank, processes, port)
                os._exit(0)
            except BaseException as error:
                print(f"{rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        started.append(pid)
    return started


def _train(config: TrainConfig, out: Path, rank: int, processes: int, port: int) -> None:
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    if processes > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    train(config, out, progress=False)


def wait(pids: list[int], seconds: float) -> list[int]:
    """The exit codes of processes, negative for a signal; as a launcher does, when one has failed
    the others are told to end. Those that hang are killed and fail."""
    left, codes, last = dict.fromkeys(pids), {}, time.monotonic() + seconds
    while left:
        for pid in list(left):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            codes[pid] = os.waitstatus_to_exitcode(status)
            del left[pid]
            if codes[pid]:
                for other in left:
                    os.kill(other, signal.SIGTERM)
        if left and time.monotonic() > last:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"{len(left)} processes went on for {seconds:.0f} s after a kill")
        time.sleep(0.005)
    return [codes[pid] for pid in pids]


def victims(pids: list[int], rng: random.Random) -> tuple[str, list[int]]:
    """Whom to kill: what they are, and their numbers."""
    workers = []
    for pid in pids:
        try:
            workers += [child.pid for child in psutil.Process(pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    kind = rng.choices(["all", "one", "worker"], [3, 2, 1])[0]
    if kind == "worker" and workers:
        return "a data worker", [rng.choice(workers)]
    return ("all", pids) if kind == "all" or len(pids) == 1 else ("one rank", [rng.choice(pids)])


def delay(out: Path, rng: random.Random) -> None:
    """Wait for a moment to kill: of four, one while it begins, three once it has trained."""
    folder, last = out / "checkpoints", time.monotonic() + MINUTE
    before = set(os.listdir(folder)) if folder.exists() else set()
    if rng.random() < 0.25:
        last = time.monotonic() + rng.uniform(0, 4)
    while time.monotonic() < last:
        if folder.exists() and set(os.listdir(folder)) - before:
            time.sleep(rng.uniform(0, 0.3))
            return
        time.sleep(0.01)


def digest(out: Path) -> str:
    """SHA-256 of the newest checkpoint, times and versions left out."""
    newest = max((out / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    found = hashlib.sha256()
    for path in sorted(newest.rglob("*.safetensors")):
        found.update(path.name.encode() + path.read_bytes())
    return f"{newest.name} {found.hexdigest()}"


def main() -> int:
    """Kill, continue, compare; the number of runs that came to other bits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--shard", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    write_shards(folder / "data")
    config = TrainConfig(
        data=str(folder / "data"),
        backbone="unet(base=16, multipliers=(1,), blocks=1, attention=())",
        steps=options.steps,
        batch_size=4,
        checkpoint_every=2,
        log_every=5,
        device="cpu",
        workers=options.workers,
        **({"shard": True} if options.shard else {}),
    )
    assert wait(begin(config, folder / "alone", options.processes), 600) == [0] * options.processes
    start = time.monotonic()
    wanted, killed, runs, different, slowest = digest(folder / "alone"), Counter(), 0, 0, 0.0
    while True:
        out = folder / f"run-{runs}"
        pids = begin(config, out, options.processes)
        enough = killed.total() >= options.kills
        if not enough:
            delay(out, rng)
        kind, chosen = ("", []) if enough else victims(pids, rng)
        begun = time.monotonic()
        for pid in chosen:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        codes = wait(pids, 600 if enough else MINUTE)
        if any(codes):
            if enough:
                raise SystemExit(f"a run that nobody killed failed: {out.with_suffix('.log')}")
            killed[kind] += 1
            slowest = max(slowest, time.monotonic() - begun)
            if killed.total() % 20 == 0:
                print(
                    f"{killed.total()} kills, {runs} runs, {time.monotonic() - start:.0f} s",
                    flush=True,
                )
            continue
        runs += 1
        different += digest(out) != wanted
        if enough:
            break
    print(
        f"{dict(killed)}: {runs} runs, {different} with other bits; the last process ended "
        f"{slowest:.1f} s after a kill at the latest"
    )
    return different


if __name__ == "__main__":
    sys.exit(main())
