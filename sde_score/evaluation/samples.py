"""Samples of one trained run by several samplers: distance to held-out data, classes, and cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sde_score._core.checks import require_count
from sde_score._core.conditions import rows_of
from sde_score._core.records import Record
from sde_score.data import DataError, DataSet, Fingerprint, Source
from sde_score.evaluation.features.classifier import ClassifierExtractor, classifier_for
from sde_score.evaluation.guided import followed, guided_run, parts_of
from sde_score.evaluation.metrics.confidence import DistanceEstimator, Interval
from sde_score.evaluation.metrics.distances import DEFAULT, Distance
from sde_score.evaluation.metrics.streamed import StreamedEstimator, held_at_once
from sde_score.evaluation.provenance import kinds_of, provenance
from sde_score.models import Model
from sde_score.samplers import SAMPLERS, Sampler
from sde_score.samplers import run as draw
from sde_score.training import Run

_MOST = 4096  # examples of either part of the data that samples are compared with


@dataclass(frozen=True, eq=False)
class SamplesRow(Record):
    """The samples of one sampler.

    Args:
        sampler: as text.
        nfe: network evaluations per sample, counted.
        seconds: for all samples.
        distances: to the held-out data, in the order of `Evaluation.names`.
        samples: in model range, on the CPU; empty in a record that was read.
        guidance: of the model, as text; empty for none.
        accuracy: share of the samples that a classifier of the data finds in the class that was
            asked for; None where it was not measured.
        labels: classes that the samples were drawn for; None where there are none.
    """

    sampler: str
    nfe: int
    seconds: float
    distances: tuple[Interval, ...]
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    guidance: str = ""
    accuracy: Interval | None = None
    labels: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Evaluation(Record):
    """Several samplers on one run.

    Args:
        names: of the distances.
        floors: what perfect samples would score, with the interval they would fall in.
        count: samples per sampler.
        size: samples in each measured subset.
        held_out: examples they are measured against.
        rows: one for each sampler under each guidance.
        accuracy: of the classifier on real data that it was not trained on; None where there is
            none.
        data: other data than the run's own, in words; empty for its held-out data.
        floor_by: what gave the floors, in words; empty for the run's training data.
        seed: that the samples were drawn from.
    """

    names: tuple[str, ...]
    floors: tuple[Interval, ...]
    count: int
    size: int
    held_out: int
    rows: tuple[SamplesRow, ...]
    accuracy: Interval | None = None
    data: str = ""
    floor_by: str = ""
    seed: int = 0


def evaluate(
    run: Run,
    samplers: Sequence[str | Sampler],
    *,
    count: int = 500,
    seed: int = 0,
    batch_size: int = 256,
    distances: Sequence[str | Distance] = DEFAULT,
    guidance: Sequence[str] = (),
    data: Source | None = None,
    progress: bool = True,
) -> Evaluation:
    """Sample a run by each sampler, from the same seeds, and measure the samples.

    Samples are scaled to the data's own terms, as a user would save them, and compared with the
    data that training never saw; the training data give the noise floor. Other data are compared
    with whole, beside the same floor: the distance of the training data from them. Where the
    training data are not at hand, samples are compared with half of the other data, and the other
    half gives the floor.

    More than 10 000 samples, or half a gigabyte, are drawn in pieces: Fréchet distances are of all
    of them, by their moments, and all other distances of the first, as their names then say.

    Args:
        run: an open run with held-out data.
        samplers: specs such as `"ddim(steps=20)"`, or objects.
        count: samples per sampler, at least 4.
        seed: random seed.
        batch_size: samples that the model sees at once.
        distances: specs such as `"energy"` (`DISTANCES`), or functions of two sets.
        guidance: of the model, one after the other, such as `["cfg(1)", "cfg(3)"]`; see
            `guided_run`. Where the run has classes, a classifier of its data, trained in seconds
            and kept in the run directory, tells how many samples are of the class they should be.
        data: anything that `sde_score.data.load` takes: other data, measured whole in the run's
            scaling; or the run's own, at another place.
        progress: show bars.

    Raises:
        ValueError: for an unknown sampler, distance or guidance, guidance that the model does not
            suit, or a run without held-out data, before anything is computed; for samples that are
            not finite.
        DataError: for data that do not fit, or are not at hand.
    """
    if not samplers:
        raise ValueError("samplers is empty: name at least one, such as 'heun(steps=18)'")
    require_count(batch_size=batch_size)
    run = run if data is None else run.with_data(data)
    plan = _plan(run, samplers, guidance)
    held = held_at_once(count, run.event_shape)
    estimator: DistanceEstimator | StreamedEstimator = (
        run_estimator(run, count, distances, seed=seed)
        if held == count
        else StreamedEstimator(*run.measured_parts()[:2], count, distances, held, seed)
    )
    _ = estimator.floors  # what a distance refuses in real data it refuses before any sample
    condition = run.draw_labels(count, seed)
    judge = run_classifier(run, progress) if guidance and run.num_classes > 1 else None
    options: dict[str, Any] = {"seed": seed, "condition": condition, "batch_size": batch_size}
    rows = [
        _row(run, cell, estimator, judge, {**options, "progress": progress, "shared": True})
        for cell in plan
    ]
    real = None if judge is None else share(round(judge.accuracy * judge.held_out), judge.held_out)
    parts = run.measured_parts()
    return Evaluation(
        estimator.names, estimator.floors, count, estimator.size, len(estimator.held_out),
        tuple(rows), real, parts.data, parts.floor_by, seed,
    )  # fmt: skip


class _Cell(NamedTuple):
    """A row to be measured: guidance, the sampler as it was given, the model and sampler for it."""

    guidance: str | None
    given: str | Sampler
    model: Model
    sampler: Sampler


def _row(
    run: Run,
    cell: _Cell,
    estimator: DistanceEstimator | StreamedEstimator,
    judge: ClassifierExtractor | None,
    options: dict[str, Any],
) -> SamplesRow:
    """Sample and measure a row; the options are those of `samplers.run`."""
    count, condition = estimator.count, options.pop("condition")
    held = estimator.held if isinstance(estimator, StreamedEstimator) else count
    spent, seconds, kept = 0.0, 0.0, []

    def pieces() -> Iterator[Tensor]:
        nonlocal spent, seconds
        for first in range(0, count, held):
            began, size = time.perf_counter(), min(held, count - first)
            told = rows_of(condition, slice(first, first + size))
            drawn = draw(
                cell.model, cell.sampler, run.event_shape, size, first=first, condition=told,
                **options,
            )  # fmt: skip
            seconds += time.perf_counter() - began
            spent += drawn.nfe * size / count
            samples = drawn.samples.float()
            require_finite_samples(samples, str(cell.given))
            if first == 0:
                kept.append(samples)
            yield as_data(run, samples)

    streamed = isinstance(estimator, StreamedEstimator)
    found = estimator(pieces() if streamed else torch.cat(list(pieces())))  # type: ignore[arg-type]
    labels = condition[:held] if run.num_classes and isinstance(condition, Tensor) else None
    right = None if judge is None else class_accuracy(judge, as_data(run, kept[0]), labels)
    return SamplesRow(
        str(cell.given), round(spent), seconds, found, kept[0], cell.guidance or "", right, labels
    )


def _plan(run: Run, samplers: Sequence[str | Sampler], guidance: Sequence[str]) -> list[_Cell]:
    texts: Sequence[str | None] = [guidance] if isinstance(guidance, str) else guidance
    return [
        _Cell(text, given, followed(guided.model, sampler), sampler)
        for text in texts or [None]
        for guided in [guided_run(run, text)]
        for given in samplers
        for sampler in [SAMPLERS.resolve(given, model=guided.model)]
    ]


def run_classifier(run: Run, progress: bool = True) -> ClassifierExtractor:
    """The classifier of a run's data, kept in its directory.

    Args:
        run: with labelled data.
        progress: show a bar while it is trained.

    Raises:
        ValueError: if the data have no labels.
    """
    dataset = labelled_data(run)
    rows = torch.arange(len(dataset))
    return classifier_for(
        dataset.batch(rows).x0,
        dataset.labels_at(rows),
        dataset.num_classes,
        run.path / "classifier.safetensors",
        name=f"{dataset.name}-classifier",
        progress=progress,
    )


def labelled_data(run: Run) -> DataSet:
    """All data whose classes a classifier learns: the run's own, or others if they are not at hand
    and have the same classes."""
    if run.other is None:
        return run.own()
    try:
        return run.own()
    except DataError:
        return run.other


def class_accuracy(judge: ClassifierExtractor, samples: Tensor, labels: Any) -> Interval:
    """Share of samples that a classifier finds in their class.

    Args:
        judge: of the classes.
        samples: in model range, shape `(n, *event)`.
        labels: that they were drawn with, shape `(n,)`.
    """
    parts = [judge.logits(part).argmax(1).cpu() for part in torch.split(samples, 1024)]
    return share(int((torch.cat(parts) == labels.cpu()).sum()), len(samples))


def share(hits: int, count: int) -> Interval:
    """A share with the standard error of Agresti & Coull, which is not 0 where all hit."""
    middle = (hits + 2) / (count + 4)
    return Interval(hits / count, math.sqrt(middle * (1 - middle) / (count + 4)))


def run_estimator(
    run: Run, count: int, distances: Sequence[str | Distance], seed: int
) -> DistanceEstimator:
    """Distances to the held-out data of a run, at most 4096 of them, and their noise floors; or to
    the other data that were given.

    Raises:
        ValueError: for a run without held-out data, or arguments as for `DistanceEstimator`.
    """
    parts = run.measured_parts()
    train, held_out = (part.subset(_MOST, seed).tensor() for part in (parts.floor, parts.reference))
    return DistanceEstimator(train, held_out, count, distances, seed=seed)


def run_identity(run: Run) -> tuple[str, str, str]:
    """Digests of weights, data and code, guidance included, which name a run in a journal."""
    if run.other is not None:
        found, floor = Fingerprint.of(run.other), run.measured_parts().floor_by
        data = " ".join(filter(None, [found.rows, found.labels, floor]))
    elif run.record is not None:
        data = run.record.fingerprint.rows
    else:
        data = str(run.config.data)
    model = run.model
    return run.digest, data, provenance(kinds_of(model), model.sde, *parts_of(model))


def as_data(run: Run, samples: Tensor) -> Tensor:
    """Samples in model range after a round trip to the data's own terms, such as gray levels."""
    return run.scaling.to_model(run.scaling.from_model(samples))


def require_finite_samples(samples: Tensor, sampler: str, hint: str = "leave it out") -> None:
    """Refuse samples that are not finite.

    Raises:
        ValueError: with their numbers, the sampler and what to do.
    """
    bad = (~samples.flatten(1).isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise ValueError(
            f"{sampler} diverged: {len(bad)} of {len(samples)} samples are not finite, with the "
            f"numbers {shown}; {hint}"
        )


class FiniteWatch:
    """A callback of samplers that remembers the first step after which a state is not finite."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None

    def __call__(self, step: int, time: float, state: Tensor) -> None:
        """See `Callback`."""
        if self.first is None and not bool(state.isfinite().all()):
            self.first = (step, time)

    @property
    def hint(self) -> str:
        """Where it went wrong and what to do, for `require_finite_samples`."""
        where = "" if self.first is None else "first at step {} (t = {:.4g}); ".format(*self.first)
        return f"{where}take more steps, another sampler or an earlier checkpoint"
