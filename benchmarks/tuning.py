"""End-point errors of samplers on mixtures, held-out ones first: by name, of peers, and tuned.

From the same starts, against the exact flow: the root mean square and the median over the starts,
of the root mean square error of each. Three kinds of rows: all deterministic samplers by their
names, those of azula and diffusers where they are installed (pip install "sde-score[bench]"), and
what `samplers.tune` finds, on starts that it has not seen.

Run: python benchmarks/tuning.py [--targets five-scales spirals | all] [--nfe 5 10 20 50]
     [--kinds ours peers tuned] [--starts 256] [--seconds S] [--out runs/tuning.csv]

What was interrupted goes on; delete runs/tuning.jsonl to measure anew.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import peers
import results
import targets
import torch
from results import Row
from torch import Tensor

from sde_score import samplers
from sde_score.cli.output import show_table
from sde_score.evaluation import BenchmarkTarget
from sde_score.random import example_seeds
from sde_score.samplers import Sampler
from sde_score.samplers.budget import REFUSALS
from sde_score.samplers.tuning.candidates import affordable, suits

SEED = 1000  # of the starts; those that samplers are tuned on have seed 0
KINDS = ("ours", "peers", "tuned")
LIBRARIES = ("azula", "diffusers")


def row(target: str, nfe: int, kind: str, sampler: str, found: Tensor, end: Tensor) -> Row:
    """The errors of a run."""
    errors = (found - end).flatten(1).square().mean(1).sqrt()
    rms, median = errors.square().mean().sqrt().item(), errors.median().item()
    names = {"target": target, "nfe": nfe, "kind": kind, "sampler": sampler}
    return {**names, **results.finite({"rms": rms, "median": median}), "starts": len(end)}


def ours(target: BenchmarkTarget, nfe: int, x: Tensor, end: Tensor) -> Iterator[Row]:
    """All deterministic samplers by name."""
    for name in samplers.available():
        for sampler in affordable(candidate(name), nfe, target.model):
            found = sampler(target.model, x, progress=False)
            yield row(target.name, nfe, "ours", name, found, end)


def candidate(name: str) -> list[Sampler]:
    """The sampler of a name, if it can be held against the flow within a budget."""
    try:
        sampler = samplers.create(name)
    except ValueError:  # one that needs arguments
        return []
    return [sampler] if suits(sampler) else []


def installed() -> list[str]:
    """The libraries that are there."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]


def of_peers(target: BenchmarkTarget, nfe: int, x: Tensor, end: Tensor) -> Iterator[Row]:
    """All deterministic samplers of other libraries, on each of their grids."""
    y = x / target.model.sde.alpha(target.model.sde.t_max)
    for peer in peers.peers():
        if peer.stochastic or peer.library not in installed():
            continue
        spec = f"{peer.library} {peer.sampler} [{peer.grid}]"
        try:
            found = peer.run(peers.Oracle(target, None, 0), y, nfe)
        except REFUSALS:  # too few steps for some
            continue
        yield row(target.name, nfe, "peers", spec, found, end)


def tuned(
    target: BenchmarkTarget, nfe: int, x: Tensor, end: Tensor, seconds: float | None
) -> Iterator[Row]:
    """What is found for the target and the budget."""
    found = samplers.tune(target.model, nfe, seconds=seconds, progress=False)
    sampler = found.sampler
    yield row(target.name, nfe, "tuned", found.spec, sampler(target.model, x, progress=False), end)


def measured(name: str, options: argparse.Namespace, journal: results.Journal) -> Iterator[Row]:
    """All rows of a target."""
    target = replace(targets.create(name), name=name)

    @cache
    def truth() -> tuple[Tensor, Tensor]:
        """Starts and ends of the flow, solved if a row is missing."""
        x = target.start(example_seeds(SEED, options.starts))
        return x, target.flow(x, None)

    def rows(kind: str, nfe: int) -> list[Row]:
        ways: dict[str, Callable[..., Iterator[Row]]] = {
            "ours": ours, "peers": of_peers, "tuned": partial(tuned, seconds=options.seconds),
        }  # fmt: skip
        return list(ways[kind](target, nfe, *truth()))

    for nfe in options.nfe:
        for kind in options.kinds:
            key = (name, nfe, kind, options.starts, options.seconds, installed())
            yield from journal.kept(key, partial(rows, kind, nfe))


def summary(rows: Sequence[Row]) -> list[list[str]]:
    """The best of each kind on each target, by the root mean square and by the median."""
    groups: dict[tuple[str, int, str], list[Row]] = defaultdict(list)
    for each in rows:
        groups[each["target"], each["nfe"], each["kind"]].append(each)
    lines = []
    for (target, nfe, kind), group in groups.items():
        cells = []
        for measure in ("rms", "median"):
            best = min(group, key=lambda each: math.inf if each[measure] is None else each[measure])
            cells += [f"{best[measure]:.4g}", best["sampler"]]
        lines.append([target, str(nfe), kind, *cells])
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--targets", nargs="+", default=["five-scales", "spirals"], help="names, or all")
    add("--nfe", type=int, nargs="+", default=[5, 10, 20, 50])
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    add("--starts", type=int, default=256)
    add("--seconds", type=float, help="time to tune a target for a budget [what it takes]")
    add("--out", type=Path, default=Path("runs/tuning.csv"), help="table of all rows")
    options = parser.parse_args(argv)
    torch.set_flush_denormal(True)
    absent = [name for name in LIBRARIES if name not in installed()]
    if "peers" in options.kinds and absent:
        print(f"not measured, because not installed: {', '.join(absent)}")
    names = targets.TARGETS if options.targets == ["all"] else options.targets
    journal = results.Journal.beside(options.out)
    rows = [row for name in names for row in measured(name, options, journal)]
    results.write(options.out, rows, LIBRARIES, seed=SEED)
    header = ["target", "NFE", "", "root mean square", "of", "median", "of"]
    show_table(header, summary(rows), "the best of each kind: error at the end")
    print(f"table: {options.out}")


if __name__ == "__main__":
    main()
