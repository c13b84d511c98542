"""Time of the U-Net per image: forward pass and training step, on one thread of this machine.

Run: python benchmarks/backbones.py [--batch 16] [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from sde_score.nn import UNet

SHAPES = [(1, 28, 28), (3, 32, 32)]
WIDTHS = [32, 64]
# name, bfloat16 autocast, memory format of weights and images
MODES = [
    ("float32", False, torch.contiguous_format),
    ("float32, channels-last", False, torch.channels_last),
    ("bfloat16", True, torch.contiguous_format),
    ("bfloat16, channels-last", True, torch.channels_last),
]


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of processor time of `run`, after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * statistics.median(times)


def measure(net: nn.Module, x: torch.Tensor, bfloat16: bool, repeats: int) -> tuple[float, float]:
    """Milliseconds per image of a forward pass and of a training step."""
    noise_level = torch.linspace(-2, 2, x.shape[0])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return net(x, noise_level)

    def infer() -> None:
        with torch.inference_mode():
            forward()

    def train() -> None:
        (forward() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    batch = x.shape[0]
    return median_ms(infer, repeats) / batch, median_ms(train, repeats) / batch


def main() -> None:
    """Measure every mode and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, batch {options.batch}, milliseconds per image")
    print(f"{'image':<12}{'base':>5}{'parameters':>12}  {'mode':<26}{'forward':>8}{'training':>9}")
    for shape in SHAPES:
        for base in WIDTHS:
            for mode, bfloat16, memory_format in MODES:
                net = UNet(shape, base=base).to(memory_format=memory_format)
                x = torch.randn(options.batch, *shape).to(memory_format=memory_format)
                forward, train = measure(net, x, bfloat16, options.repeats)
                size = sum(parameter.numel() for parameter in net.parameters())
                image = "x".join(map(str, shape))
                print(
                    f"{image:<12}{base:>5}{size:>12,}  {mode:<26}{forward:>8.2f}{train:>9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
