"""Overhead of the training step beyond its arithmetic.

Times the whole step (data, random numbers, objective, clipping, Adam, average of the weights,
bookkeeping) against the bare forward, backward and Adam of the same network on a fixed batch and
fixed noise, in turns, one process, one thread. Prints medians of CPU milliseconds and the ratio.

    python benchmarks/training.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sde_score.training import TrainConfig, Trainer, prepare

CASES = {
    "MLP, 2-D, batch 128": TrainConfig(
        data="gaussians", backbone="mlp(width=128, depth=2)", steps=10**6, device="cpu"
    ),
    "MLP, 2-D, batch 512": TrainConfig(
        data="gaussians", backbone="mlp", batch_size=512, steps=10**6, device="cpu"
    ),
    "U-Net(32), 8x8 digits, batch 32": TrainConfig(batch_size=32, steps=10**6, device="cpu"),
    "the same, bf16": TrainConfig(batch_size=32, steps=10**6, device="cpu", precision="bf16"),
}


def bare_step(trainer: Trainer) -> Callable[[], None]:
    """Forward, mean squared error, backward and Adam, as short as PyTorch allows."""
    net = trainer.model.backbone
    adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
    (part,) = trainer.batches.step(0)
    x = torch.randn_like(part.x0)
    noise, level = torch.randn_like(x), torch.randn(len(x))
    bf16 = trainer.config.precision == "bf16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = (net(x, level) - noise).square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad()

    return step


def cpu_ms(step: Callable[[], None], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - began) / repeats * 1e3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, CPU ms per step, median of {rounds} rounds")
    print(f"{'case':34s} {'ours':>9s} {'bare':>9s} {'ratio':>6s}")
    for name, config in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(prepare(config, Path(folder)), progress=False)
            bare, repeats = bare_step(trainer), 20 if "MLP" in name else 2
            ours = trainer._train_step
            for step in (ours, bare):
                cpu_ms(step, 3)
            pairs = [(cpu_ms(ours, repeats), cpu_ms(bare, repeats)) for _ in range(rounds)]
        a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(x / y for x, y in pairs)
        print(f"{name:34s} {a:9.3f} {b:9.3f} {ratio:6.3f}")


if __name__ == "__main__":
    main()
