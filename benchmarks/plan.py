"""What `sde-score plan` predicts of a training here, beside the training itself.

    python benchmarks/plan.py --out plan.csv

For each network and batch size, the plan and the training take turns, each in a process of its own.
Other programs may share the machine: time is that of the processor, summed over threads, and of
each the median over the turns. Memory is the most that the process held. A training's time of a
step is that between its lines of metrics, without its first ones.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

NETWORKS = {
    "mlp": ["--data", "moons", "--backbone", "mlp(width=512, depth=4)"],
    "unet": ["--data", "digits", "--backbone", "unet(base=32)"],
    "dit": ["--data", "digits", "--backbone", "dit(width=128, depth=4, heads=4, patch=2)"],
}
BATCHES = (16, 64)
TRAINING = """
import json, sys, time
from sde_score.cli.parsing import parse
from sde_score.evaluation.planning.memory import peak_memory
from sde_score.training import train
import torch
command = parse(["train", *sys.argv[1:]])
times = []
train(command.config, command.out, progress=False, on_metrics=lambda *_: times.append(
    (time.process_time(), time.perf_counter())))
print(json.dumps({"times": times, "memory": peak_memory(torch.device("cpu"))}))
"""


def planned(words):
    """CPU seconds of a step and peak memory, by the plan."""
    found = run([sys.executable, "-m", "sde_score", "plan", *words, "--json", "--no-progress"])
    here = found["here"]
    return here["cpu_seconds_per_step"], here["seconds_per_step"], here["peak_memory"]


def trained(words, every=5):
    """The same, by a training whose lines of metrics are `every` steps apart."""
    with tempfile.TemporaryDirectory() as folder:
        more = ["--out", f"{folder}/run", "--log-every", str(every)]
        found = run([sys.executable, "-c", TRAINING, *words, *more])
    cpu, wall = (
        statistics.median(
            (late[clock] - early[clock]) / every
            for early, late in zip(found["times"][1:-1], found["times"][2:], strict=True)
        )
        for clock in (0, 1)
    )
    return cpu, wall, found["memory"]


def run(command):
    """The JSON object that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout[done.stdout.index("{") :])


def main():
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV file")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    given = parser.parse_args()
    lines = []
    for name in given.networks:
        for batch in given.batches:
            words = [*NETWORKS[name], "--batch-size", str(batch), "--steps", str(given.steps)]
            words += ["--device", "cpu"]
            turns = [(planned(words), trained(words)) for _ in range(given.turns)]
            plan, real = (
                [statistics.median(column) for column in zip(*side, strict=True)]
                for side in zip(*turns, strict=True)
            )
            lines.append({
                "network": name, "batch": batch, "load": round(os.getloadavg()[0], 1),
                "plan ms": round(1e3 * plan[0], 2), "training ms": round(1e3 * real[0], 2),
                "time ratio": round(plan[0] / real[0], 3),
                "wall ratio": round(plan[1] / real[1], 3),
                "plan MB": round(plan[2] / 1e6, 1), "training MB": round(real[2] / 1e6, 1),
                "memory ratio": round(plan[2] / real[2], 3),
            })  # fmt: skip
            print(lines[-1], flush=True)
            if given.out:
                with given.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, lines[0])
                    writer.writeheader()
                    writer.writerows(lines)


if __name__ == "__main__":
    main()
