"""Samplers against the truth, ours and those of other libraries, from the same starts.

Like `sde-score benchmark`, with peers where they are installed: pip install "sde-score[bench]".
Results go on where they were stopped; see `sde_score/report/benchmarks.py` for the files.

Run: python benchmarks/samplers.py [--target digits-mixture | --model RUN] [--samplers ...]
     [--grids ...] [--nfe 5 8 10 15 20 30 50 100 250 1000] [--num N] [--seeds 0 1 2] [--no-peers]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import peers
import torch

from sde_score.cli.output import show_table
from sde_score.evaluation.benchmarks.run import TARGETS, available, plan
from sde_score.report.benchmarks.benchmark import (
    NAME,
    benchmark_table,
    keep_benchmark,
    target_of_run,
)
from sde_score.training import load_run

BUDGETS = [5, 8, 10, 15, 20, 30, 50, 100, 250, 1000]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--target", default="digits-mixture", help=f"one of {', '.join(TARGETS)}")
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
    target = TARGETS.create(options.target) if model is None else target_of_run(load_run(model))
    specs = available() if options.samplers is None else options.samplers
    entries = plan(target.model.sde, specs, options.grids, options.nfe) if specs else []
    entries += [] if options.no_peers else peers.entries(options.nfe)
    folder = options.out or Path("runs") / f"benchmark-samplers-{target.name}"
    found = keep_benchmark(
        target,
        entries,
        folder,
        count=options.num,
        seeds=options.seeds,
        batch_size=options.batch_size,
        fresh=options.fresh,
    )
    shown = benchmark_table(found)
    show_table(shown.header, shown.rows, shown.caption)
    print(f"picture: {folder / NAME}.png   table: {folder / NAME}.csv")


if __name__ == "__main__":
    main()
