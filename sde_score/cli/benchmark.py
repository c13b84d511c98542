"""`sde-score benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sde_score._core.checks import require_count
from sde_score._core.files import require_writable
from sde_score.cli.options import Command, Device, hint_at_flow_map, pick_device, saved
from sde_score.cli.output import say, show, show_record
from sde_score.evaluation import (
    BENCHMARK_BUDGETS,
    BENCHMARK_TARGETS,
    BenchmarkTarget,
    benchmark,
    target_of_run,
)
from sde_score.report import benchmark_table, write_benchmark
from sde_score.training import load_run


@dataclass(frozen=True, kw_only=True)
class Benchmark(Command):
    """Measure samplers against exact answers: error of the solver, of the samples, and cost.

    On a target with an exact score, every sampler on every grid at every budget of network
    evaluations starts from the same noise; its end points are compared with the exact flow, its
    samples with the exact distribution. On a trained run, solvers are compared with the network's
    own flow to a fine tolerance, samples with held-out data.

    Writes benchmark.csv, .json and .png. Results are kept in benchmark.jsonl there and not measured
    again, so an interrupted benchmark continues.

    For example:
        sde-score benchmark --target digits-mixture --samplers ddim heun ancestral
        sde-score benchmark --model runs/demo --samplers heun pc --nfe 10 20 50
        sde-score benchmark --samplers "ddim(eta=0.5)" heun --grids karras log_snr --seeds 0 1 2
    """

    target: str | None = None
    """Distribution with an exact score: ring, digits-mixture, funnel, ..., or with a diffusion,
    "ring(sde='vp')"; ring if neither this nor a model is given."""

    model: Path | None = None
    """Run directory, in place of a target."""

    data: str | None = None
    """Of a model: other data to measure its samples against, or its own where they have moved."""

    samplers: tuple[str, ...] | None = None
    """Samplers to measure, such as heun or "ddim(grid='karras')"; all if not given, and of a flow
    map its own 1, 2 and 4 steps. One with its own steps has one row, one with its own grid ignores
    --grids."""

    grids: tuple[str, ...] = ()
    """Time grids for each sampler, such as karras or log_snr; its own if not given."""

    nfe: tuple[int, ...] = BENCHMARK_BUDGETS
    """Budgets: network evaluations per sample. Each sampler takes the most steps it can pay for."""

    num: int | None = None
    """Samples per row; 4096 for the ring and 1024 for all others if not given."""

    seeds: tuple[int, ...] = (0,)
    """Random seeds of the starts; several give means and their standard errors."""

    guidance: str | None = None
    """Of a model: its guidance, such as "cfg(3)"; see sde-score sample. A guided call is two
    evaluations."""

    out: Path | None = None
    """Folder for the results; runs/benchmark-TARGET, or benchmark in the run directory, if not
    given."""

    batch_size: int = 512
    """Samples that the model sees at once."""

    fresh: bool = False
    """Measure everything again."""

    weights: str = "ema"
    """Of a model: averaged weights, raw for those of the last step, or ema(0.1)."""

    device: Device = "auto"
    """Where to compute; targets with exact scores are computed on the CPU."""

    progress: bool = True
    """Show a progress bar."""

    shares = True

    def run(self) -> None:
        """Measure, write, print."""
        if self.num is not None:
            require_count(4, num=self.num)
        target, folder = self._target()
        require_writable(folder / "benchmark.jsonl", "out")
        found = benchmark(
            target,
            self.samplers,
            grids=self.grids,
            nfes=self.nfe,
            count=self.num,
            seeds=self.seeds,
            folder=folder,
            batch_size=self.batch_size,
            fresh=self.fresh,
            progress=self.progress,
        )
        if self.json:
            show_record({"out": str(folder), **found.record()})
        else:
            show(benchmark_table(found))
        saved(folder, lambda path: write_benchmark(found, path))
        say(f"picture: {folder / 'benchmark.png'}   table: {folder / 'benchmark.csv'}")

    def _target(self) -> tuple[BenchmarkTarget, Path]:
        """The target, and the folder for its results."""
        if self.model is None:
            for name, value, usual in (
                ("weights", self.weights, ("ema",)),
                ("data", self.data, (None,)),
                ("guidance", self.guidance, (None,)),
                ("device", self.device, ("auto", "cpu")),
            ):
                if value not in usual:
                    raise ValueError(f"{name}={value} is of --model; targets are exact, on the CPU")
            pick_device("cpu", shared=True)
            target = BENCHMARK_TARGETS.create(self.target or "ring")
            return target, self.out or Path("runs") / f"benchmark-{target.name}"
        if self.target is not None:
            raise ValueError(f"target={self.target} and model={self.model} were given: take one")
        run = load_run(self.model, self.weights, data=self.data)
        run.model.to(pick_device(self.device, shared=True))
        if self.samplers is None and self.guidance is None:
            hint_at_flow_map(run)
        return target_of_run(run, self.guidance), self.out or self.model / "benchmark"
