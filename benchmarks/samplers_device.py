"""Overhead of a sampler's loop on a GPU: time per step beside that of the network alone.

A loop that never waits for the device keeps it busy, so beyond the network a step costs its
own kernels and, if the host is slower than the device, gaps between kernels. Both are read
from one profile: gaps are the time in which no kernel ran.

Run: python benchmarks/samplers_device.py [--batch 64] [--base 96] [--steps 20]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile

from sde_score import samplers
from sde_score.models import ScoreModel
from sde_score.nn import UNet
from sde_score.sdes import VP

NAMES = ("ddim", "flow-ab", "adams", "dpmpp-2m", "unipc", "dpmpp-3m-sde", "heun", "ancestral")
LIMIT = 0.05
EVENT = (3, 32, 32)


def wall(run: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of a call, the device waited for."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def gaps(run: Callable[[], object]) -> float:
    """Share of the time from the first kernel to the last in which none ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        run()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in record.events()
        if event.device_type == DeviceType.CUDA
    )
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - spans[0][0])


def main() -> None:
    """Measure each sampler and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--base", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    network = UNet(EVENT, base=options.base).cuda().eval()
    model = ScoreModel(network, VP())
    start = torch.randn(options.batch, *EVENT, device="cuda")
    size = sum(p.numel() for p in network.parameters()) / 1e6
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}, {size:.1f} M parameters")
    t = torch.tensor(0.5, dtype=torch.float64, device="cuda")

    def alone() -> None:
        with torch.no_grad():
            for _ in range(options.steps):
                model.denoise(start, t)

    alone()
    network_time = wall(alone) / options.steps
    print(f"network alone {1e3 * network_time:.2f} ms, gaps {gaps(alone):.1%}")
    print(f"{'sampler':<16}{'ms/evaluation':>14}{'beyond network':>16}{'gaps':>8}")
    for name in NAMES:
        sampler = samplers.create(name, steps=options.steps)

        def loop(sampler: samplers.Sampler = sampler) -> None:
            sampler(model, start, seed=0, progress=False)

        first = model.nfe
        loop()
        evaluations = model.nfe - first
        each = wall(loop) / evaluations
        beyond, idle = each / network_time - 1, gaps(loop)
        verdict = "" if idle < LIMIT else f"  above {LIMIT:.0%}"
        print(f"{name:<16}{1e3 * each:>14.2f}{beyond:>16.1%}{idle:>8.1%}{verdict}")


if __name__ == "__main__":
    main()
