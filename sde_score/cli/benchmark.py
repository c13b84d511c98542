"""`sde-score benchmark`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sde_score.cli.options import Device, pick_device
from sde_score.cli.output import say, show_record, show_table
from sde_score.evaluation.benchmarks.run import NFES, TARGETS, BenchmarkTarget, available, plan
from sde_score.report.benchmarks.benchmark import (
    NAME,
    benchmark_table,
    keep_benchmark,
    target_of_run,
)
from sde_score.training import load_run


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Measure samplers against the truth: error of the solver, error of the law, and their cost.

    On a target with an exact score, every sampler on every grid at every budget of network
    evaluations starts from the same noise; its end points are compared with the exact flow, its
    samples with the exact law. On a trained run, the network's own flow to a fine tolerance is the
    truth for solvers, and its held-out data for samples.

    Writes benchmark.csv, .json and .png. What is in benchmark.jsonl there is not measured again,
    so a benchmark that was stopped goes on. Lists take spaces or commas.

    For example:
        sde-score benchmark --target digits-mixture --samplers ddim,heun,ancestral
        sde-score benchmark --model runs/demo --samplers heun,pc --nfe 10,20,50
        sde-score benchmark --samplers "ddim(eta=0.5)" heun --grids karras,log_snr --seeds 0,1,2
    """

    target: str | None = None
    """Law with an exact score: ring, digits-mixture, or with a diffusion, "ring(sde='vp')"; ring
    if neither this nor a model is given."""

    model: Path | None = None
    """Run directory, in place of a target."""

    samplers: tuple[str, ...] = ()
    """Samplers to measure, such as heun or "ddim(grid='karras')"; all if not given. One with its
    own steps has one row, one with its own grid leaves --grids alone."""

    grids: tuple[str, ...] = ()
    """Time grids for each sampler, such as karras or log_snr; its own if not given."""

    nfe: tuple[str, ...] = tuple(map(str, NFES))
    """Budgets: network evaluations per sample. Each sampler takes the steps that it pays for."""

    num: int | None = None
    """Samples per row; 4096 for the ring and 1024 for all others if not given."""

    seeds: tuple[str, ...] = ("0",)
    """Names of the starts; several give means and what they are worth."""

    out: Path | None = None
    """Folder for the results; runs/benchmark-TARGET, or benchmark in the run directory, if not
    given."""

    batch_size: int = 512
    """Samples that the model sees at once."""

    fresh: bool = False
    """Measure everything again."""

    weights: Literal["ema", "raw"] = "ema"
    """Of a model: averaged weights, or those of the last step."""

    device: Device = "auto"
    """Where to compute; targets with exact scores are computed on the CPU."""

    progress: bool = True
    """Show a progress bar."""

    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Measure, write, print."""
        nfes, seeds = _whole_numbers("nfe", self.nfe), _whole_numbers("seeds", self.seeds)
        specs = split_specs(self.samplers) or available()
        target, folder = self._target()
        entries = plan(target.model.sde, specs, split_specs(self.grids), nfes)
        found = keep_benchmark(
            target,
            entries,
            folder,
            count=self.num,
            seeds=seeds,
            batch_size=self.batch_size,
            fresh=self.fresh,
            progress=self.progress,
        )
        if self.json:
            show_record({"out": str(folder), **found.record()})
            return
        shown = benchmark_table(found)
        show_table(shown.header, shown.rows, shown.caption)
        say(f"picture: {folder / NAME}.png   table: {folder / NAME}.csv")

    def _target(self) -> tuple[BenchmarkTarget, Path]:
        """What is measured, and where its results go."""
        if self.model is None:
            target = TARGETS.create(self.target or "ring")
            return target, self.out or Path("runs") / f"benchmark-{target.name}"
        if self.target is not None:
            raise ValueError(f"target={self.target} and model={self.model} were given: take one")
        run = load_run(self.model, self.weights)
        run.model.to(pick_device(self.device))
        return target_of_run(run), self.out or self.model / "benchmark"


def split_specs(words: Iterable[str]) -> list[str]:
    """Split words at commas that are in no brackets and no quotes: `"a,b(x=1, y=2)"` is two."""
    found = []
    for word in words:
        depth, quote, start = 0, "", 0
        for index, letter in enumerate(f"{word},"):
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote = letter
            elif letter in "([{":
                depth += 1
            elif letter in ")]}":
                depth -= 1
            elif letter == "," and depth == 0:
                found.append(word[start:index].strip())
                start = index + 1
        found.append(word[start:].strip())
    return [spec for spec in found if spec]


def _whole_numbers(name: str, words: Iterable[str]) -> list[int]:
    try:
        return [int(word) for word in split_specs(words)]
    except ValueError as error:
        raise ValueError(f"{name}={' '.join(words)!r} must be integers, such as 10,20") from error
