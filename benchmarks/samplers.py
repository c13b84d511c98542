"""Samplers against the truth, ours and those of other libraries, from the same starts.

Like `sde-score benchmark`, with peers where they are installed: pip install "sde-score[bench]".
Interrupted measurements continue; the files are those of the command.

Run: python benchmarks/samplers.py [--target digits-mixture | --model RUN] [--samplers ...]
     [--grids ...] [--nfe 5 8 10 15 20 30 50 100 250 1000] [--num N] [--seeds 0 1 2] [--no-peers]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import peers
import torch

from sde_score.cli.output import show
from sde_score.evaluation import BENCHMARK_TARGETS, benchmark, target_of_run
from sde_score.report import benchmark_table, write_benchmark
from sde_score.training import load_run

BUDGETS = [5, 8, 10, 15, 20, 30, 50, 100, 250, 1000]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--target", default="digits-mixture", help=f"one of {', '.join(BENCHMARK_TARGETS)}")
    add("--model", type=Path, help="run directory, in place of a target")
    add("--samplers", nargs="*", help="specs of ours [all]; none measures peers alone")
    add("--grids", nargs="*", default=[], help="time grids for ours [each sampler's own]")
    add("--nfe", type=int, nargs="+", default=BUDGETS)
    add("--num", type=int, help="samples per row [what suits the target]")
    add("--seeds", type=int, nargs="+", default=[0])
    add("--batch-size", type=int, default=512)
    add("--no-peers", action="store_true")
    add("--fresh", action="store_true", help="forget what was measured")
    add("--out", type=Path, help="folder [runs/benchmark-samplers-TARGET]")
    options = parser.parse_args(argv)
    # Responsibilities of far modes are denormal, which costs an exact mixture several times more.
    torch.set_flush_denormal(True)
    model = options.model
    create = BENCHMARK_TARGETS.create
    target = create(options.target) if model is None else target_of_run(load_run(model))
    folder = options.out or Path("runs") / f"benchmark-samplers-{target.name}"
    found = benchmark(
        target,
        options.samplers,
        grids=options.grids,
        nfes=options.nfe,
        count=options.num,
        seeds=options.seeds,
        folder=folder,
        batch_size=options.batch_size,
        fresh=options.fresh,
        peers=[] if options.no_peers else peers.entries(options.nfe),
    )
    write_benchmark(found, folder)
    show(benchmark_table(found))
    print(f"picture: {folder / 'benchmark.png'}   table: {folder / 'benchmark.csv'}")


if __name__ == "__main__":
    main()
