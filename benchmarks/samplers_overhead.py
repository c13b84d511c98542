"""Cost of a sampler's own step: ours, those of azula and diffusers, and bare tensor arithmetic.

The model is one multiplication for all, so what is left is coefficients, noise and bookkeeping. All
run in one process, in turn; each round gives one ratio to ours, and medians are over the rounds.
Noise counts for all. Bare is the same update without a library. A step of `heun` and `dpm-2s` is
two evaluations.

Run: python benchmarks/samplers_overhead.py [--steps 200] [--repeats 9] [--batch 1 64]
     [--out runs/samplers_overhead.csv]
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import results
import torch
from results import Row
from torch import Tensor

from sde_score import samplers
from sde_score.sdes import EDM, SDE, VP

EVENT = (3, 32, 32)


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


Run = Callable[[Tensor], object]
"""From a start to its end."""


def of_azula(kind: str, steps: int, **options: object) -> Run:
    """A sampler of azula on a denoiser that costs one multiplication."""
    sample, noise = (importlib.import_module(f"azula.{name}") for name in ("sample", "noise"))
    dirac = importlib.import_module("azula.denoise").DiracPosterior

    class Denoiser(torch.nn.Module):
        schedule = noise.VPSchedule()

        def forward(self, x: Tensor, t: Tensor) -> object:
            return dirac(mean=x * -0.5)

    run: Run = getattr(sample, f"{kind}Sampler")(Denoiser(), steps=steps, silent=True, **options)
    return run


def of_diffusers(kind: str, steps: int, **options: object) -> Run:
    """A scheduler of diffusers in the loop that its pages show."""
    scheduler = getattr(importlib.import_module("diffusers"), f"{kind}Scheduler")(**options)
    times = 2 * steps if kind == "DPMSolverSinglestep" else steps  # it counts evaluations

    def run(x: Tensor) -> Tensor:
        scheduler.set_timesteps(times)
        for t in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, t) * -0.5, t, x).prev_sample
        return x

    return run


LIBRARIES: dict[str, Callable[..., Run]] = {"azula": of_azula, "diffusers": of_diffusers}
PEERS: dict[str, list[tuple[str, str, dict[str, object]]]] = {
    "ddim": [("azula", "Euler", {}), ("azula", "DDIM", {}), ("diffusers", "DDIM", {})],
    "ancestral": [("azula", "DDPM", {}), ("diffusers", "DDPM", {})],
    "heun": [("azula", "Heun", {}), ("diffusers", "HeunDiscrete", {})],
    "dpm-2s": [("diffusers", "DPMSolverSinglestep", {"solver_order": 2})],
    "dpmpp-2m": [("diffusers", "DPMSolverMultistep", {"solver_order": 2})],
    "dpmpp-3m": [("diffusers", "DPMSolverMultistep", {"solver_order": 3})],
    "flow-ab": [("azula", "vAB", {"order": 3})],
}
"""What other libraries have of the same cost, with their own defaults: for a method of ours the
library, the class and its arguments. DDIM of azula draws noise, and then takes none of it."""


def ours(name: str, steps: int) -> Run:
    """A method of ours on its diffusion."""
    model, sampler = OneMultiply(BARE[name][0]), samplers.create(name, steps=steps, denoise=False)
    return lambda x: sampler(model, x, seed=0, progress=False)


def bare(name: str, steps: int) -> Run:
    """Its update alone."""

    def run(x: Tensor) -> Tensor:
        x = x.clone()
        for _ in range(steps):
            x = BARE[name][1](x)
        return x

    return run


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(name: str, batch: int, steps: int, repeats: int) -> list[Row]:
    """Milliseconds per step by each, and the median of the rounds' ratios to ours."""
    runs = {"ours": ours(name, steps), "bare": bare(name, steps)}
    for library, kind, options in PEERS.get(name, []):
        if find_spec(library) is not None:
            runs[f"{library} {kind}"] = LIBRARIES[library](kind, steps, **options)
    start = torch.randn(batch, *EVENT)
    for run in runs.values():
        run(start)
    rounds = [
        {by: seconds(partial(run, start)) for by, run in runs.items()} for _ in range(repeats)
    ]
    return [
        {
            "sampler": name,
            "by": by,
            "batch": batch,
            "ms per step": 1e3 * statistics.median(each[by] for each in rounds) / steps,
            "times ours": statistics.median(each[by] / each["ours"] for each in rounds),
        }
        for by in runs
    ]


def measured(options: argparse.Namespace, journal: results.Journal) -> Iterator[Row]:
    """All rows, printed as they come."""
    print(f"{'sampler':20}{'by':34}{'batch':>6}{'ms/step':>10}{'times ours':>12}")
    for batch in options.batch:
        for name in BARE:
            size = (name, batch, options.steps, options.repeats)
            for row in journal.kept(size, partial(measure, *size)):
                print("{:20}{:34}{:6}{:10.3f}{:12.2f}".format(*row.values()), flush=True)
                yield row


def main() -> None:
    """Measure every sampler, print and write a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--out", type=Path, default=Path("runs/samplers_overhead.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(True)  # whatever a state decays to, arithmetic costs the same
    torch.manual_seed(0)
    rows = list(measured(options, results.Journal.beside(options.out)))
    results.write(options.out, rows, tuple(LIBRARIES))


if __name__ == "__main__":
    main()
