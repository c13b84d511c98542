"""What training in bfloat16 costs: the loss after whole runs in float32 and bfloat16, same seeds.

The 8 x 8 digits and a small U-Net. The loss is the objective's on the held-out examples,
at many noise levels that are the same for all runs, computed in float32 with the averaged weights.

    python benchmarks/precision.py [--steps 400] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from sde_score.objectives import OBJECTIVES
from sde_score.random import generator_from
from sde_score.training import Run, TrainConfig, train

DRAWS = 8
NETWORK = "unet(base=16, multipliers=(1, 2), blocks=1, attention=())"
PRECISIONS = ("float32", "bf16")


def held_out_loss(run: Run) -> float:
    """Mean over the held-out examples and noise levels, the same for every run."""
    x0 = run.dataset("held_out").tensor().repeat(DRAWS, 1, 1, 1)
    objective = OBJECTIVES.resolve(run.config.objective)
    with torch.no_grad():
        return objective(run.model, x0, generator=generator_from(0)).mean().item()


def text(values: Sequence[float]) -> str:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.5f} ± {error:.5f}"


def main() -> None:
    """Train, measure and print a row for each seed, then means and the paired difference."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for seed in given.seeds:
        for precision in PRECISIONS:
            config = TrainConfig(
                data="digits", backbone=NETWORK, steps=given.steps, batch_size=64,
                precision=precision, learning_rate=2e-3, ema=0.99, seed=seed, device="cpu",
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                run = train(config, Path(folder) / "run", progress=False)
                found[precision].append(held_out_loss(run))
        print(seed, *(f"{name} {values[-1]:.5f}" for name, values in found.items()), flush=True)
    for name, values in found.items():
        print(f"{name:9s}{text(values)}")
    pairs = zip(found["bf16"], found["float32"], strict=True)
    print(f"bf16 - float32, same seeds: {text([a - b for a, b in pairs])}")


if __name__ == "__main__":
    main()
