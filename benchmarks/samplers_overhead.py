"""Cost of a sampler's own step beside the bare tensor arithmetic of the same update.

The model is one multiplication, so what is left is coefficients, noise and bookkeeping. Both sides
run in one process, in turn, and each round gives one ratio; noise counts on both sides.

Run: python benchmarks/samplers_overhead.py [--steps 1000] [--repeats 5] [--batch 64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sde_score import samplers
from sde_score.sdes import EDM, SDE, VP

EVENT = (3, 32, 32)
LIMIT = 1.2


class OneMultiply:
    """A model that costs one multiplication."""

    def __init__(self, sde: SDE) -> None:
        self.sde = sde
        self.nfe = 0

    def score(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.nfe += 1
        return x * -0.5

    noise = denoise = velocity = score


def bare_step(x: Tensor, noisy: bool) -> Tensor:
    """x <- a x + b score + c z."""
    score = x * -0.5
    x.mul_(0.999).add_(score, alpha=0.001)
    return x.add_(torch.randn(x.shape), alpha=0.03) if noisy else x


def bare_correction(x: Tensor) -> Tensor:
    """x <- x + b score + c z."""
    score = x * -0.5
    return x.add_(score, alpha=0.001).add_(torch.randn(x.shape), alpha=0.03)


def bare_pc(x: Tensor) -> Tensor:
    """Corrector, then predictor."""
    return bare_step(bare_correction(x), noisy=True)


def bare_heun(x: Tensor) -> Tensor:
    """Euler's step, then the mean of both slopes; alpha is 1."""
    first = x * -0.5
    ahead = torch.add(x, first, alpha=0.001)
    second = ahead * -0.5
    return x.add_(first, alpha=0.0005).add_(second, alpha=0.0005)


def bare_multistep(x: Tensor, past: list[Tensor], points: int, reads: bool) -> Tensor:
    """x <- a x + sum of b_j q_j, with q the data, or of it and x as the velocity is."""
    value = x * -0.5
    if reads:
        value = torch.mul(value, 0.3).add_(x, alpha=0.1)
    past[:] = [value, *past[: points - 1]]
    x.mul_(0.999)
    for term in past:
        x.add_(term, alpha=0.001)
    return x


def multistep(points: int, reads: bool) -> Callable[[Tensor], Tensor]:
    """The bare step with a memory of its own."""
    past: list[Tensor] = []
    return lambda x: bare_multistep(x, past, points, reads)


def bare_midpoint(x: Tensor) -> Tensor:
    """To the middle by a first evaluation, then the whole step by the second."""
    middle = torch.mul(x, 0.999).add_(x * -0.5, alpha=0.001)
    return x.mul_(0.999).add_(middle * -0.5, alpha=0.001)


BARE: dict[str, tuple[SDE, Callable[[Tensor], Tensor]]] = {
    "ddim": (VP(), lambda x: bare_step(x, noisy=False)),
    "euler-maruyama": (VP(), lambda x: bare_step(x, noisy=True)),
    "reverse-diffusion": (VP(), lambda x: bare_step(x, noisy=True)),
    "ancestral": (VP(), lambda x: bare_step(x, noisy=True)),
    "pc": (VP(), bare_pc),
    "heun": (EDM(), bare_heun),
    "dpm-2s": (VP(), bare_midpoint),
    "dpmpp-2m": (VP(), multistep(2, reads=False)),
    "dpmpp-3m": (VP(), multistep(3, reads=False)),
    "flow-ab": (VP(), multistep(3, reads=True)),
}


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name: str, batch: int, steps: int, repeats: int) -> tuple[float, float, float]:
    """Milliseconds per step of ours and of the bare update, and the median ratio of the rounds."""
    sde, bare = BARE[name]
    model, sampler = OneMultiply(sde), samplers.create(name, steps=steps, denoise=False)
    start = torch.randn(batch, *EVENT)

    def ours() -> None:
        sampler(model, start, seed=0, progress=False)

    def plain() -> None:
        x = start.clone()
        for _ in range(steps):
            x = bare(x)

    ours()
    rounds = [(seconds(ours), seconds(plain)) for _ in range(repeats)]
    of_ours, of_bare = (1e3 * statistics.median(side) / steps for side in zip(*rounds, strict=True))
    return of_ours, of_bare, statistics.median(a / b for a, b in rounds)


def main() -> None:
    """Measure every sampler and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    shape = "x".join(map(str, (options.batch, *EVENT)))
    print(f"torch {torch.__version__}, one thread, float32 {shape}, {options.steps} steps")
    print(f"{'sampler':<20}{'ms/step':>10}{'bare':>10}{'ratio':>8}")
    for name in BARE:
        ours, bare, ratio = measure(name, options.batch, options.steps, options.repeats)
        verdict = "" if ratio <= LIMIT else f"  above {LIMIT}"
        print(f"{name:<20}{ours:>10.3f}{bare:>10.3f}{ratio:>8.2f}{verdict}")


if __name__ == "__main__":
    main()
