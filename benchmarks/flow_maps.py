"""Flow maps beside samplers at 1, 2 and 4 evaluations, on mixtures and on images.

`--table mixture`: a small network learns the flow of a Gaussian mixture from the exact score by
each objective. RMS and median, over 1024 starts, of the difference between the ends of its steps
and those of the exact flow; beside it DDIM (Euler in sigma), Heun in sigma, `dpmpp-2m` and the
sampler that `samplers.tune` finds, all on the exact score. About 15 minutes on one core.

`--table images --teacher RUN`: the run is distilled by each objective of `--objectives`; Frechet
distance in the features of a classifier of its data, with its standard error, of 1, 2 and 4 steps
and of the teacher by Heun's 35 evaluations. Steps that take noise in between are measured at every
noise ratio of `--middle`.

    python benchmarks/flow_maps.py --table mixture
    python benchmarks/flow_maps.py --table images --teacher runs/digits --objectives consistency
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import targets
import torch
from results import Journal, Row
from torch import Tensor

from sde_score import nn, objectives, samplers
from sde_score.evaluation import (
    BenchmarkTarget,
    FlowEnds,
    create,
    endpoint_error,
    evaluate,
    exact_target,
)
from sde_score.evaluation.samples import run_classifier
from sde_score.models import FlowMap, GaussianMixture
from sde_score.random import example_seeds, generator_from
from sde_score.samplers import FlowMapSteps, NoiseRatios
from sde_score.training import EMA, Run, distill, load_run

NFES = (1, 2, 4)
LEARNED = ("mean-flow", "lagrangian", "semigroup", "consistency")
SOLVERS = ("ddim", "heun", "dpmpp-2m")
STARTS, BATCH, RATE, DECAY = 1024, 256, 2e-3, 0.99


def modes_16d() -> BenchmarkTarget:
    """Twelve modes of deviation 0.2 in 16 dimensions, of unit scale."""
    means, variances, weights = targets.scattered(16, 12, (0.2,), 0.8, 14)
    return exact_target(
        "modes-16d", lambda sde: GaussianMixture(means, variances, sde, weights), "edm"
    )


MIXTURES = {"ring": lambda: targets.create("ring"), "modes-16d": modes_16d}


def learned(target: BenchmarkTarget, name: str, steps: int, seed: int) -> FlowMap:
    """A flow map of the target's flow by an objective, its weights averaged."""
    torch.manual_seed(seed)
    data = target.data(1 << 16, 1).float()
    network = nn.tell_end(nn.create("mlp(width=128, depth=3)", target.event_shape))
    model = FlowMap(network, target.model.sde, sigma_data=float(data.square().mean().sqrt()))
    pace = {"halve_every": max(1, steps // 8)} if name == "consistency" else {}
    objective = objectives.create(name, teacher=target.model, **pace)
    weights = list(model.parameters())
    adam, average = torch.optim.Adam(weights, RATE), EMA(weights, DECAY)
    draw = generator_from(seed, 1)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.randint(len(data), (BATCH,), generator=draw)
        adam.zero_grad()
        loss = objective.at_step(step)(model, data[rows], generator=draw).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        average.update(weights)
    average.copy_to(weights)
    return model.eval().requires_grad_(False)


def tuned(target: BenchmarkTarget, nfe: int) -> samplers.Sampler:
    found = samplers.tune(target.model, nfe, target.event_shape, num=64, seconds=30, progress=False)
    return found.sampler


def error(target: BenchmarkTarget, model: object, sampler: samplers.Sampler, truth: Tensor) -> Row:
    """Errors at the ends, from the very starts of the truth: a network in float32 would draw others
    from the same seeds."""
    start = target.start(example_seeds(0, STARTS))
    rms, median = endpoint_error(sampler(model, start, seed=0, progress=False), truth)
    return {"rms": rms, "median": median}


def mixture_rows(options: argparse.Namespace, journal: Journal) -> Iterator[Row]:
    for name in options.mixtures:
        target = MIXTURES[name]()
        truth = FlowEnds(target, options.out / "flow")(0, STARTS)
        for solver, nfe in product((*SOLVERS, "tuned"), NFES):
            key = (name, solver, nfe)
            yield journal.kept(key, partial(_solver_row, target, solver, nfe, truth))
        for objective in options.objectives:
            key = (name, objective, options.steps)
            yield from _learned_rows(journal, key, target, truth, options.steps)


def _solver_row(target: BenchmarkTarget, solver: str, nfe: int, truth: Tensor) -> Row:
    """The most steps that the evaluations pay for; the counted ones may be fewer."""
    if solver == "tuned":
        made = tuned(target, nfe)
    else:
        made = samplers.create(solver, nfe=nfe, model=target.model)
    row = {"target": target.name, "by": solver, "nfe": made.count_nfe(target.model)}
    return {**row, **error(target, target.model, made, truth)}


def _learned_rows(
    journal: Journal, key: tuple, target: BenchmarkTarget, truth: Tensor, steps: int
) -> Iterator[Row]:
    model: list[FlowMap] = []  # trained once, and only if a row is missing

    def row(nfe: int) -> Row:
        if not model:
            model.append(learned(target, key[1], steps, 0))
        sampler = FlowMapSteps(steps=nfe)
        found = error(target, model[0], sampler, truth)
        return {"target": key[0], "by": f"flow map, {key[1]}", "nfe": nfe, **found}

    # One that goes to the data alone takes noise between its steps: its ends are not the flow's.
    for nfe in NFES if key[1] != "consistency" else NFES[:1]:
        yield journal.kept((*key, nfe), lambda n=nfe: row(n))


def middles(run: Run, ratios: list[float]) -> list[samplers.Sampler]:
    """Two steps with noise in between, at each noise ratio."""
    sde = run.model.sde
    first, last = (float(sde.noise_ratio(t)) for t in (sde.t_max, sde.t_min))
    return [
        FlowMapSteps(steps=2, renoise=True, grid=NoiseRatios((first, ratio, last)))
        for ratio in ratios
    ]


def image_rows(options: argparse.Namespace, journal: Journal) -> Iterator[Row]:
    teacher = load_run(options.teacher)
    frechet = create("frechet", extractor=run_classifier(teacher, progress=False))
    changes = {
        "steps": options.steps,
        "learning_rate": options.rate,
        "schedule": "cosine(end=0.01)",
        "batch_size": 64,
        "ema": DECAY,
        "condition_dropout": 0.0,
    }

    def measured(by: str, run: Run, sampler: str | samplers.Sampler) -> Row:
        found = evaluate(run, [sampler], count=options.num, distances=[frechet], progress=False)
        row = found.rows[0]
        interval = row.distances[0]
        return {
            "by": by, "sampler": row.sampler, "nfe": row.nfe,
            "frechet": interval.value, "frechet ±": interval.standard_error,
            "floor": found.floors[0].value,
        }  # fmt: skip

    identity = (teacher.digest[:16], options.num)
    for spec in ("heun(steps=18)", "ddim(steps=1)", "ddim(steps=2)", "dpmpp-2m(steps=4)"):
        yield journal.kept((*identity, spec), lambda s=spec: measured("teacher", teacher, s))
    for name in options.objectives:
        out = options.out / f"{Path(options.teacher).name}-{name}-{options.steps}"
        run = distill(teacher, out, name, progress=False, **changes)
        taken = list(run.few_steps)
        taken += middles(run, options.middle) if "renoise" in taken[1] else []
        for sampler in taken:
            yield journal.kept(
                (*identity, name, run.digest[:16], sampler),
                lambda s=sampler, r=run, n=name: measured(n, r, s),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--table", choices=("mixture", "images"), required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/flow-maps"))
    parser.add_argument("--mixtures", nargs="+", choices=MIXTURES, default=list(MIXTURES))
    parser.add_argument("--objectives", nargs="+", choices=LEARNED, default=list(LEARNED))
    parser.add_argument("--steps", type=int, help="2000 for mixtures, 1000 for images")
    parser.add_argument("--teacher", type=Path, help="run directory, for --table images")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate, for images")
    parser.add_argument("--num", type=int, default=2000, help="samples per row, for images")
    parser.add_argument("--middle", type=float, nargs="*", default=[0.5, 1.0, 2.0])
    options = parser.parse_args()
    if options.table == "images" and options.teacher is None:
        parser.error("--table images needs --teacher RUN")
    options.steps = options.steps or {"mixture": 2000, "images": 1000}[options.table]
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / f"{options.table}.jsonl")
    rows = mixture_rows if options.table == "mixture" else image_rows
    found = []
    for row in rows(options, journal):
        print(*map(_cell, row.values()), flush=True)
        found.append(row)
    names = list(dict.fromkeys(name for row in found for name in row))
    lines = [names, ["---"] * len(names), *([_cell(row[n]) for n in names] for row in found)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (options.out / f"{options.table}.md").write_text(text, encoding="utf-8")
    print(text)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
