"""Shared code of `ncsn_vs_sde.py` and `ddpm_vs_sde.py`: n noise levels against all of them.

Both networks of a pair get the same initial weights, examples in the same order, the same noise and
the same uniform numbers u, from which one takes the level number floor(u n) and the other the time
u of the way. So they get equal compute, and differ in the noise levels alone. Afterwards each is
used as if it were the other: its loss on the rungs of the ladder and in between, its samples by the
samplers of both views, its bits/dim.

Every figure has a standard error. That of a distance is over the samples, as all rows share the
held-out data (`sde_score.evaluation.metrics.confidence`); that of a difference of losses is over
examples, in pairs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from results import Journal, Row
from torch import Tensor

from sde_score import data, evaluation, objectives, samplers
from sde_score._core.progress import progress_bar
from sde_score.evaluation import DistanceEstimator, Interval
from sde_score.likelihood import BitsPerDim
from sde_score.random import generator_from
from sde_score.samplers import Sampler
from sde_score.sdes import SDE
from sde_score.training import Run, TrainConfig, split_data, train
from sde_score.training.presets import preset

CONTINUOUS = "continuous"
LEVELS = 16  # noise levels at which a loss is measured, of each kind
BATCH = 256  # examples that a network sees at once outside training

Bits = Callable[[Run, Tensor], BitsPerDim]
"""Bits/dim of raw examples under a run, in one of several ways."""


def arguments(
    document: str, argv: Sequence[str] | None, layers: list[int], nfe: list[int], out: Path
) -> argparse.Namespace:
    """The flags of both scripts; `layers`, `nfe` and `out` are defaults."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="digits", help="name or path of the data, such as MNIST's image file")
    add("--layers", type=int, nargs="+", default=layers, help="sizes of the discrete ladders")
    add("--steps", type=int, default=2000, help="optimizer steps of every training")
    add("--batch", type=int, default=32)
    add("--backbone", help="network [a small U-Net for images, a perceptron for others]")
    add("--precision", default="float32", choices=["float32", "bf16"], help="of the training")
    add("--held-out", type=float, default=0.3)
    add("--seeds", type=int, default=2, help="trainings of every kind")
    add("--num", type=int, default=512, help="samples for every row, held-out examples for losses")
    add(
        "--nfe", type=int, nargs="+", default=nfe, help="approximate network evaluations per sample"
    )
    add("--likelihoods", type=int, default=128, help="held-out examples for bits/dim")
    add("--extractor", help="features of the Frechet distance [a classifier of labels, if any]")
    add("--out", type=Path, default=out, help="folder for the trainings and the tables")
    options = parser.parse_args(argv)
    found = data.load(options.data)
    options.dequantize = found.scaling.levels is not None
    if options.backbone is None:
        options.backbone = "unet(base=16, multipliers=(1, 2))" if found.is_image else "mlp"
    if options.extractor is None:
        path = str(options.out / "classifier.safetensors")
        classifier = f"classifier(data={options.data!r}, path={path!r})"
        unlabelled = "random-convolution" if found.is_image else "pixels"
        options.extractor = classifier if found.num_classes else unlabelled
    options.out.mkdir(parents=True, exist_ok=True)
    evaluation.create("frechet", extractor=options.extractor)  # refuses mistakes first
    torch.set_num_threads(1)
    return options


def trainings(layers: Iterable[int]) -> dict[str, int | None]:
    """Kinds of training: name, and number of noise levels, None for all of them."""
    return {**{f"discrete {n}": n for n in layers}, CONTINUOUS: None}


def configuration(
    options: argparse.Namespace, sde: str, layers: int | None, seed: int
) -> TrainConfig:
    """Configuration of one training; they differ in the distribution of the noise levels alone.

    The published setting of the SDE, `song-ve` or `song-vp`, but for what follows from a small
    network that is trained briefly, and without mirroring: digits have a direction.
    """
    times = "uniform" if layers is None else f"discrete(levels={layers})"
    return preset(f"song-{sde.partition('(')[0]}").config(
        data=options.data,
        sde=sde,
        backbone=options.backbone,
        prediction="noise",  # of both papers; told of the noise as networks of ours are
        objective=f'denoising(time_sampler="{times}")',
        augmentation="none",
        steps=options.steps,
        batch_size=options.batch,
        learning_rate=1e-3,
        warmup=options.steps // 20,
        ema=0.995,
        precision=options.precision,
        held_out=options.held_out,
        dequantize=options.dequantize,  # one distribution for samples and for likelihoods
        seed=seed,
        device="cpu",
    )


def train_all(options: argparse.Namespace, sde: str) -> dict[tuple[str, int], Run]:
    """Train every kind with every seed, or continue from the files; keys are (name, seed)."""
    runs = {}
    for seed, (name, layers) in itertools.product(
        range(options.seeds), trainings(options.layers).items()
    ):
        folder = options.out / "trainings" / f"{name.replace(' ', '-')}-seed{seed}"
        print(f"{name}, seed {seed}: {folder}", flush=True)
        runs[name, seed] = train(configuration(options, sde, layers, seed), folder)
    return runs


class Judge:
    """Held-out data, and distances of samples to them.

    Args:
        options: the flags.
        config: of any of the trainings; all have the same parts.
    """

    def __init__(self, options: argparse.Namespace, config: TrainConfig) -> None:
        train_part, held_out = split_data(config)
        self.raw = held_out.raw(torch.arange(len(held_out)))
        self.held_out = held_out.scaling.dequantize(self.raw, generator_from(0))
        raw = train_part.raw(torch.arange(len(train_part)))
        self.train = held_out.scaling.dequantize(raw, generator_from(1))
        distances = (
            "sliced-wasserstein2(projections=128)",
            evaluation.create("frechet", extractor=options.extractor),
        )
        self.estimator = DistanceEstimator(self.train, self.held_out, options.num, distances)

    def distances(self, x: Tensor) -> Row:
        """Distances of samples to the held-out data."""
        return self._row(self.estimator(x))

    def floor(self) -> Row:
        """Distances of perfect samples: those of training data."""
        return self._row(self.estimator.floors)

    def _row(self, intervals: Iterable[Interval]) -> Row:
        row = {}
        for name, interval in zip(self.estimator.names, intervals, strict=True):
            row[name], row[f"{name} ±"] = interval.value, interval.standard_error
        return row


def places(sde: SDE, layers: int) -> dict[str, Tensor]:
    """Times on the rungs of a ladder, half-way between them, and below the lowest if it stands
    above `t_min`: at most `LEVELS` of each."""
    rungs = sde.discrete_times(layers)
    found = {"rungs": rungs, "between": (rungs[:-1] + rungs[1:]) / 2}
    if rungs[0] > sde.t_min:
        ends = math.log(sde.t_min), float(rungs[0].log())
        found["below"] = torch.linspace(*ends, LEVELS + 2, dtype=torch.float64)[1:-1].exp()
    chosen = {}
    for name, times in found.items():
        which = torch.linspace(0, len(times) - 1, min(LEVELS, len(times))).round().long()
        chosen[name] = times[which]
    return chosen


@torch.no_grad()
def losses(run: Run, x0: Tensor, times: Tensor) -> Tensor:
    """Denoising loss of each example averaged over times, `(examples,)`; its noise depends on the
    example and the number of the time, so that runs can be compared pair by pair."""
    objective, total = objectives.create("denoising"), torch.zeros(len(x0))
    for k, t in enumerate(times):
        noise = torch.randn(x0.shape, generator=generator_from(3, k))
        for rows in torch.arange(len(x0)).split(BATCH):
            at = t.expand(len(rows))
            total[rows] += objective.at(run.model, x0[rows], at, noise[rows]) / len(times)
    return total


def loss_rows(
    runs: Mapping[tuple[str, int], Run], options: argparse.Namespace, judge: Judge
) -> list[Row]:
    """Loss of each discrete network and of the continuous one, on the rungs and off them."""
    rows, x0 = [], judge.held_out[: options.num]
    todo = list(itertools.product(options.layers, range(options.seeds)))
    for layers, seed in progress_bar(todo, name="losses", unit="ladder", delay=0):
        discrete, continuous = runs[f"discrete {layers}", seed], runs[CONTINUOUS, seed]
        for place, times in places(discrete.model.sde, layers).items():
            ours, theirs = (losses(run, x0, times) for run in (discrete, continuous))
            row = {"ladder": layers, "place": place, "seed": seed}
            for name, values in (
                ("discrete", ours),
                (CONTINUOUS, theirs),
                ("difference", ours - theirs),
            ):
                row[name] = float(values.mean())
                row[f"{name} ±"] = float(values.std()) / len(values) ** 0.5
            rows.append(row)
    return rows


def sampling_rows(
    runs: Mapping[tuple[str, int], Run],
    how: Mapping[str, Sampler],
    options: argparse.Namespace,
    judge: Judge,
) -> list[Row]:
    """Every network with every sampler, all from the same seeds of examples."""

    def measure(sampler: Sampler, run: Run) -> Row:
        start = time.process_time()
        found = samplers.run(
            run.model, sampler, run.event_shape, options.num, batch_size=BATCH, progress=False
        )
        seconds = time.process_time() - start
        return {"nfe": found.nfe, "cpu_s": seconds, **judge.distances(found.samples)}

    floor = {"sampler": "(training data)", "training": "", "seed": 0, **judge.floor()}
    settings = (options.num, options.extractor)
    return [floor, *_every("sampler", how, runs, options, settings, measure)]


def bits_rows(
    runs: Mapping[tuple[str, int], Run],
    ways: Mapping[str, Bits],
    options: argparse.Namespace,
    judge: Judge,
) -> list[Row]:
    """Bits/dim of the first held-out examples under every network, in several ways."""
    raw = judge.raw[: options.likelihoods]

    def measure(bits: Bits, run: Run) -> Row:
        found = bits(run, raw)
        return {"bits/dim": found.mean, "bits/dim ±": found.standard_error}

    return _every("likelihood", ways, runs, options, (options.likelihoods,), measure)


def _every(
    kind: str,
    ways: Mapping[str, Any],
    runs: Mapping[tuple[str, int], Run],
    options: argparse.Namespace,
    settings: tuple[object, ...],
    measure: Callable[[Any, Run], Row],
) -> list[Row]:
    """A row for every way and every run; rows of an earlier call are not measured again."""
    journal, rows = Journal(options.out / "rows.jsonl"), []
    todo = list(itertools.product(ways.items(), runs.items()))
    bar = progress_bar(todo, name=f"{kind}s", unit="row", delay=0)
    for (name, way), ((training, seed), run) in bar:
        key = (kind, name, training, seed, run.digest, *settings)
        found = journal.kept(key, partial(measure, way, run))
        rows.append({kind: name, "training": training, "seed": seed, **found})
    return rows
