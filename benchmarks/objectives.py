"""Cost and accuracy of each objective against the dimension, beside those of torchebm.

Four tables, one process, one thread, medians of CPU time over rounds in which all take turns:

1. the cost of a training step (loss, backward, Adam) beside that of torchebm 0.8.9 where it has
   the objective (`pip install 'sde-score[bench]'`), on the same energy;
2. milliseconds of a training step and peak memory, of all objectives;
3. the error of the learned score, E |s - s*|^2 / E |s*|^2, after the same number of steps on a
   correlated Gaussian, by the exact formula;
4. the standard deviation of the loss of denoising score matching at sigma = 0.1, with and without
   variance reduction.

    python benchmarks/objectives.py [--rounds 9] [--dims 2 16 64 784] [--steps 300]
                                    [--out runs/objectives.csv]
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from results import Journal, Row, write
from torch import Tensor, nn

from sde_score import objectives
from sde_score.models import EnergyFunction, GaussianMixture
from sde_score.sdes import VE

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own chatter

BATCH, WIDTH = 128, 128
SPECS = [
    "explicit",
    "implicit",
    "hutchinson",
    "hutchinson(probes=5)",
    "sliced",
    "sliced(probes=5)",
    "finite-difference",
    "regularized",
    "denoising",
    "denoising(variance_reduction='antithetic')",
    "denoising-control",
    "target-score",
    "contrastive-divergence(k=10, kernel='ula')",
    "persistent(buffer_size=1024, kernel='ula')",
    "recovery(k=10, kernel='ula', noise=5.0)",
    "noise-contrastive",
    "energy-discrepancy",
    "stein-discrepancy",
]
EXACT = ("implicit", "regularized")  # d backward passes


class Energy(nn.Module):
    """A smooth network plus a quadratic well, differentiated by both libraries."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, 1),
        )  # fmt: skip
        self.log_precision = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        well = 0.5 * (self.log_precision.exp() * x**2).sum(1)
        return well + self.net(x).squeeze(1)


class Known:
    """Gaussian target of `explicit` and `target-score`."""

    def __init__(self, dim: int) -> None:
        generator = torch.Generator().manual_seed(0)
        mixing = torch.eye(dim, dtype=torch.float64)
        mixing += torch.randn(dim, dim, generator=generator, dtype=torch.float64) / (2 * dim**0.5)
        self.root = mixing
        self.precision = torch.linalg.inv(mixing @ mixing.mT)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(count, len(self.root), generator=generator, dtype=torch.float64)
        return (z @ self.root.mT).float()

    def energy(self, x: Tensor) -> Tensor:
        return 0.5 * ((x.double() @ self.precision) * x).sum(1).to(x.dtype)

    def score(self, x: Tensor) -> Tensor:
        return -(x.double() @ self.precision).to(x.dtype)

    def energy_and_score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.energy(x), self.score(x)


def batches(target: Known, generator: torch.Generator) -> Callable[[], Tensor]:
    """A function that returns 64 batches in turn, drawn beforehand."""
    pool = target.sample(64 * BATCH, generator).split(BATCH)
    turn = itertools.cycle(pool)
    return lambda: next(turn)


def ours(spec: str, target: Known, dim: int, rate: float = 1e-3) -> tuple[EnergyFunction, Callable]:
    """A model and its training step."""
    torch.manual_seed(0)
    model = EnergyFunction(Energy(dim), VE(0.1, 0.101))  # the energy does not know the noise
    given = {}
    if spec == "explicit":
        given = {"target": target}
    elif spec == "target-score":
        given = {
            "target": target,
            "information": float(target.precision.diagonal().mean()),
        }
    elif spec.startswith("finite-difference"):
        given = {"sigma_data": 1.0}
    objective = objectives.create(spec, **given)
    generator = torch.Generator().manual_seed(1)
    parameters = list(model.parameters())
    if isinstance(objective, objectives.StatefulObjective):
        objective.setup(target.sample(1024, generator))
        parameters += list(objective.parameters())
    adam, batch = torch.optim.Adam(parameters, lr=rate), batches(target, generator)

    def step() -> None:
        adam.zero_grad()
        loss = objective(model, batch(), generator=generator).mean()
        loss.backward(inputs=parameters)  # as our trainer does
        adam.step()
        if isinstance(objective, objectives.StatefulObjective):
            objective.finish_step()

    return model, step


def theirs(name: str, target: Known, dim: int) -> Callable[[], None]:
    """The training step of torchebm on the same energy."""
    from torchebm.core import BaseModel
    from torchebm.losses import DenoisingScoreMatching, ScoreMatching, SlicedScoreMatching

    class Wrapped(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            self.energy = Energy(dim)

        def forward(self, x: Tensor) -> Tensor:
            return self.energy(x)

    torch.manual_seed(0)
    model = Wrapped()
    loss = {
        "ISM exact": lambda: ScoreMatching(model, hessian_method="exact"),
        "ISM approx": lambda: ScoreMatching(model, hessian_method="approx"),
        "SSM": lambda: SlicedScoreMatching(model, n_projections=1),
        "SSM, 5": lambda: SlicedScoreMatching(model, n_projections=5),
        "DSM": lambda: DenoisingScoreMatching(model, noise_scale=0.1),
    }[name]()
    generator = torch.Generator().manual_seed(1)
    adam, batch = torch.optim.Adam(model.parameters(), lr=1e-3), batches(target, generator)

    def step() -> None:
        adam.zero_grad()
        loss(batch()).backward()
        adam.step()

    return step


PAIRS = [
    ("implicit", "ISM exact"),
    ("hutchinson", "ISM approx"),
    ("hutchinson", "SSM"),
    ("hutchinson(probes=5)", "SSM, 5"),
    ("sliced", "SSM"),
    ("sliced(probes=5)", "SSM, 5"),
    ("denoising", "DSM"),
]


def cpu_ms(step: Callable[[], None], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - began) / repeats * 1e3


def peak_mb(step: Callable[[], None]) -> float:
    """Peak memory of a step in MB, by the running sum of the profiler's records."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    held = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def times(
    steps: dict[str, Callable[[], None]], rounds: int, repeats: int
) -> dict[str, list[float]]:
    """CPU milliseconds of each, in turns."""
    for step in steps.values():
        cpu_ms(step, 2)
    rows = [{name: cpu_ms(step, repeats) for name, step in steps.items()} for _ in range(rounds)]
    return {name: [row[name] for row in rows] for name in steps}


def costs(spec: str, dim: int, rounds: int) -> Row:
    """Milliseconds of a training step, and its memory."""
    _, step = ours(spec, Known(dim), dim)
    found = times({spec: step}, rounds, 1 if spec in EXACT else 3)[spec]
    return {"ms per step": statistics.median(found), "MB": peak_mb(step)}


def ratios(pair: tuple[str, str], dim: int, rounds: int) -> Row:
    """Milliseconds of a training step of both, and the median of the rounds' ratios."""
    (spec, name), target = pair, Known(dim)
    runs = {"ours": ours(spec, target, dim)[1], "theirs": theirs(name, target, dim)}
    found = times(runs, rounds, 1 if spec in EXACT else 5)
    ratio = statistics.median(b / a for a, b in zip(*found.values(), strict=True))
    own, other = map(statistics.median, found.values())
    return {"ms per step": own, "peer": f"torchebm {name}", "peer ms": other, "times ours": ratio}


def errors(spec: str, dim: int, steps: int) -> Row:
    """Relative squared error of the learned score; of the smoothed target where that is learned."""
    target = Known(dim)
    model, step = ours(spec, target, dim, rate=5e-3)
    for _ in range(steps):
        step()
    x = target.sample(4096, torch.Generator().manual_seed(2)).double()
    noisy = spec.startswith(("denoising", "target", "recovery"))
    covariance = target.root @ target.root.mT + 0.01 * noisy * torch.eye(dim)
    truth = GaussianMixture(torch.zeros(1, dim), covariance[None], VE(1e-6, 1.0))
    with torch.no_grad():
        want = truth.score(x, 0.0)
        gap = copy.deepcopy(model).double().score(x, model.sde.t_min) - want
    return {"error": float(gap.square().mean() / want.square().mean()), "training steps": steps}


def variances(dim: int = 8, count: int = 200_000) -> Row:
    """Spread of the summed score-form loss at sigma = 0.1, on the exact model of N(0, I)."""
    sde = VE(0.1, 5.0)
    target = GaussianMixture(torch.zeros(1, dim), 1.0, sde)
    generator = torch.Generator().manual_seed(0)
    x0 = target.sample(count, generator=generator)
    t = torch.full((count,), sde.t_min, dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    unit = dim / (2 * 0.1**2)
    found = {}
    for form in ("none", "constant", "antithetic"):
        spec = f"denoising(variance_reduction={form!r})"
        found[spec] = objectives.create(spec).at(target, x0, t, noise).std() * unit
    control = objectives.create("denoising-control")
    parts = control.parts(target, x0, t, noise)
    control.pending += control._sums(sde, t, parts)
    control.finish_step()
    found["denoising-control"] = parts.combine(*control.coefficients(sde, t)).std() * unit
    hutchinson = objectives.create("hutchinson")
    x = target.sample(count, t=sde.t_min, generator=generator)
    found["hutchinson"] = hutchinson(target, x, generator=generator).detach().std()
    return {name: float(std) for name, std in found.items()}


def measured(options: argparse.Namespace, journal: Journal) -> Iterator[Row]:
    """All rows; those of different tables have different columns."""
    peers = importlib.util.find_spec("torchebm") is not None
    for dim in options.dims:
        for pair in PAIRS if peers else ():
            if pair[0] not in EXACT or dim <= 100:
                key = ("ratio", *pair, dim, options.rounds)
                found = journal.kept(key, partial(ratios, pair, dim, options.rounds))
                yield {"table": "ratio", "objective": pair[0], "dimension": dim, **found}
    for table, measure, extent, largest in (
        ("cost", costs, options.rounds, (100, math.inf)),
        ("error", errors, options.steps, (20, 100)),
    ):
        for dim, spec in itertools.product(options.dims, SPECS):
            if dim <= largest[spec not in EXACT]:
                found = journal.kept(
                    (table, spec, dim, extent), partial(measure, spec, dim, extent)
                )
                yield {"table": table, "objective": spec, "dimension": dim, **found}
    for spec, std in journal.kept(("variance",), variances).items():
        yield {"table": "variance", "objective": spec, "dimension": 8, "loss sd": std}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 16, 64, 784])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/objectives.csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, medians of {options.rounds} rounds")
    rows, table = [], ""
    for row in measured(options, Journal.beside(options.out)):
        if row["table"] != table:
            table = row["table"]
            print(f"\n{'objective':45s}" + "".join(f"{name:>20s}" for name in list(row)[2:]))
        cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in list(row.values())[2:])
        print(f"{row['objective']:45s}" + "".join(f"{cell:>20s}" for cell in cells), flush=True)
        rows.append(row)
    write(options.out, rows, ("torchebm",))


if __name__ == "__main__":
    main()
